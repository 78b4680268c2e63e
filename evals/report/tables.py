"""A table for readers, in three forms: CSV (numbers), Markdown and LaTeX (numbers with intervals)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from evals.report.frames import Data
from evals.report.missing import missing
from evals.report.stats import Interval
from evals.report.summary import COST, FIRST, TOO_LONG, is_measured, metric_names

FLOOR, CEILING = 0.02, 0.98
TOKEN_FLOORS = ("token_floor_ms", "token_share")
LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)


class NoNumber:
    """A number that does not exist, for a reason that the table gives: a dash for readers, empty in CSV."""

    def __str__(self) -> str:
        return "\u2013"


NO_NUMBER = NoNumber()


@dataclass(frozen=True)
class Table:
    """name: of its files, without the ending. frame: text, numbers, Intervals and NO_NUMBER; None is empty.

    notes: sentences under the table. fairness: the fairness record of its models, one line each.
    """

    name: str
    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    fairness: list[str] = field(default_factory=list)

    def text(self) -> pd.DataFrame:
        """The frame as text."""
        return self.frame.map(text).rename(columns=str)

    def numbers(self) -> pd.DataFrame:
        """The frame as numbers: an Interval becomes three columns, `NAME`, `NAME low` and `NAME high`."""
        columns: dict[str, list[Any]] = {}
        for name in self.frame:
            values = list(self.frame[name])
            columns[str(name)] = [_number(v) for v in values]
            if any(isinstance(v, Interval) for v in values):
                for side in ("low", "high"):
                    columns[f"{name} {side}"] = [getattr(v, side, None) for v in values]
        return pd.DataFrame(columns)

    def markdown(self) -> str:
        return "\n".join([f"## {self.title}", "", *_markdown_rows(self.text()), "", *self._under("- ")]) + "\n"

    def latex(self) -> str:
        """A captioned `tabular` for \\input; needs booktabs."""
        frame = self.text()
        head = " & ".join(latex(c) for c in frame.columns)
        body = [" & ".join(latex(v) for v in row) + r" \\" for row in frame.to_numpy().tolist()]
        under = [latex(line) + r"\\" for line in self._under("")]
        return "\n".join(
            [
                r"\begin{table}",
                rf"\caption{{{latex(self.title)}}}",
                rf"\begin{{tabular}}{{l{'r' * (frame.shape[1] - 1)}}}",
                r"\toprule",
                head + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *([r"\par\footnotesize", *under] if under else []),
                r"\end{table}",
                "",
            ]
        )

    def write(self, folder: Path) -> None:
        """Write NAME.csv, NAME.md and NAME.tex."""
        folder.mkdir(parents=True, exist_ok=True)
        self.numbers().to_csv(folder / f"{self.name}.csv", index=False)
        (folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        (folder / f"{self.name}.tex").write_text(self.latex(), encoding="utf-8")

    def _under(self, bullet: str) -> list[str]:
        return [f"{bullet}{line}" for line in [*self.notes, *self.fairness]]


def _number(value: Any) -> Any:
    """A value for programs."""
    return value.estimate if isinstance(value, Interval) else None if value is NO_NUMBER else value


def text(value: Any) -> str:
    """A value for readers: four significant digits; in brackets the interval, or that there are too few contexts."""
    if isinstance(value, Interval):
        if pd.isna(value.estimate):
            return ""
        around = "too few" if pd.isna(value.low) else f"{value.low:.3g}, {value.high:.3g}"
        return f"{value.estimate:.4g} [{around}]"
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def latex(value: str) -> str:
    """Text with the characters escaped that LaTeX reads as commands."""
    return value.translate(LATEX)


def summary_table(data: Data) -> Table:
    """Every cell of the run: scores with intervals, and costs."""
    rows, carried = [], {cell for cell, perf in data.run.perf.items() if perf.bus_bytes}
    for row in data.summary.to_dict("records"):
        cell = {str(k): row[k] for k in FIRST}
        measured = is_measured(str(row["task"]))
        for name in metric_names(data.summary):
            over_bus = name in TOKEN_FLOORS and row["cell"] in carried
            number = NO_NUMBER if over_bus else row[name]
            cell[name] = number if measured else Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
        rows.append(
            {**cell, **{k: row[k] or None for k in TOO_LONG if not pd.isna(row[k])}, **{k: row[k] for k in COST}}
        )
    frame = pd.DataFrame(rows, dtype=object).dropna(axis=1, how="all")
    return Table(
        "summary",
        "Summary",
        frame,
        [*missing(data.run), *hints(data)],
        fairness_lines(data, data.models),
    )


def fairness_lines(data: Data, models: list[str]) -> list[str]:
    """The fairness record, one line per model."""
    return [
        f"{name}: " + ", ".join(f"{k} {_plain(v)}" for k, v in found.items())
        for name in models
        if (found := data.run.fairness(name))
    ]


def fairness_table(data: Data) -> Table:
    """The fairness record as a table: one row per entry, one column per model, entries that most have first."""
    found = {name: data.run.fairness(name) for name in data.models}
    methods = {name: data.run.method(name) for name in found}
    keys = list(dict.fromkeys(k for record in found.values() for k in record))
    keys.sort(key=lambda key: -sum(key in record for record in found.values()))

    def entry(name: str, key: str) -> str:
        if key in found[name]:
            return _plain(found[name][key])
        alike = any(key in found[other] for other in found if other != name and methods[other] == methods[name] != "")
        return "not recorded" if alike else "\u2013"

    rows = [{"entry": key, **{name: entry(name, key) for name in found}} for key in keys]
    note = (
        "A dash means that the method has no such limit, and \u201cnot recorded\u201d that another model of the same "
        "method states it."
    )
    return Table("fairness", "Fairness record", pd.DataFrame(rows, columns=["entry", *found], dtype=object), [note])


def hints(data: Data) -> list[str]:
    """What a reader must know before comparing models."""
    kinds = (ceiling_hints, context_hints, cut_hints, device_hints, busy_hints, bus_hints)
    return [sentence for kind in kinds for sentence in kind(data)]


def cut_hints(data: Data) -> list[str]:
    """Where prompts were cut to fit their budget: their scores are those of a part of the row."""
    found = []
    for (task, length), group in data.summary.groupby(["task", "length"], sort=False, dropna=False):
        models: dict[str, list[str]] = {}
        for row in group[group["cut"].fillna(0) > 0].to_dict("records"):
            models.setdefault(f"{row['cut']} of {row['n']}", []).append(row["model"])
        where = f"{task}" + ("" if pd.isna(length) else f" at {length} tokens")
        for count, names in models.items():
            found.append(f"{where}: {count} prompts were longer than their budget and were cut ({', '.join(names)}).")
    return found


def busy_hints(data: Data) -> list[str]:
    """Where repeats of a time disagree, as on a machine that does something else too."""
    found = []
    for cell, perf in data.run.perf.items():
        if perf.unsteady:
            state = data.run.cells[cell]
            where = state.task + ("" if state.length is None else f" at {state.length} tokens")
            found.append(
                f"{where}, {state.model}: repeats of the time to first token went from {perf.ttft_low_s:.3g} to "
                f"{perf.ttft_high_s:.3g} s, so the machine was busy: measure it again."
            )
    return found


def bus_hints(data: Data) -> list[str]:
    """Models whose tokens have no floor, since the rate of the bus is not measured."""
    cells = [data.run.cells[cell] for cell, perf in data.run.perf.items() if perf.bus_bytes]
    names = dict.fromkeys(state.model for state in cells if is_measured(state.task))
    return [
        f"{name}: each token brings its context over the bus, whose rate is not measured: a token has no floor here."
        for name in names
    ]


def device_hints(data: Data) -> list[str]:
    """Where times come from unlike devices, as on a cluster of several kinds, or in merged runs."""
    perf = [(data.run.cells[cell].model, record.device) for cell, record in data.run.perf.items() if record.device]
    models: dict[str, list[str]] = {}
    for model, device in perf:
        models.setdefault(device, []).append(model)
    if len(models) < 2:
        return []
    shown = "; ".join(f"{device}: {', '.join(dict.fromkeys(names))}" for device, names in models.items())
    return [f"Times and memory come from unlike devices and cannot be compared across them ({shown})."]


def ceiling_hints(data: Data) -> list[str]:
    """Where a task cannot separate methods: no model is above the floor, or full attention is at the ceiling."""
    dense = {name for name, model in data.run.models.items() if model.method == "full"}
    rows = data.scores[data.scores["higher_is_better"].astype(bool) & data.scores["score"].notna()]
    found = []
    for (task, length), group in rows.groupby(["task", "length"], sort=False, dropna=False):
        where = f"{task}" + ("" if pd.isna(length) else f" at {length} tokens")
        best, full = group["score"].max(), group.loc[group["model"].isin(dense), "score"].max()
        if best <= FLOOR:
            found.append(f"{where}: no model scores above {best:.2g}, so it cannot separate methods.")
        elif CEILING <= full <= 1:
            found.append(f"{where}: full attention scores {full:.2g}, so no method can do better.")
    return found


def context_hints(data: Data) -> list[str]:
    """Where the same questions get the same score without their context, and where the gain lacks samples."""
    found = []
    for (task, length), group in data.summary.groupby(["task", "length"], sort=False, dropna=False):
        where = f"{task}" + ("" if pd.isna(length) else f" at {length} tokens")
        same = group.loc[~group["tests_context"].fillna(value=True), "model"]
        if len(same):
            found.append(
                f"{where}, {', '.join(same)}: the score without the context cannot be told from that with it, so "
                "this does not test the context."
            )
        few = group[group["gain_n"].notna() & (group["gain_n"] < group["n"])]
        if len(few):
            found.append(
                f"{where}: the gain rests on {few['gain_n'].min()} of {few['n'].max()} samples; no other context was "
                "free of what the rest ask for."
            )
    return found


def _plain(value: Any) -> str:
    return str(value) if not isinstance(value, list) else ", ".join(map(str, value))


def _markdown_rows(frame: pd.DataFrame) -> list[str]:
    def line(values: list[str]) -> str:
        return "| " + " | ".join(v.replace("|", r"\|").replace("\n", " ") for v in values) + " |"

    return [
        line(list(frame.columns)),
        line(["---"] * frame.shape[1]),
        *(line(r) for r in frame.to_numpy().tolist()),
    ]
