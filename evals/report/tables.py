"""A table for readers, in three forms: CSV (numbers), Markdown and LaTeX (numbers with intervals)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from evals.report.data import Data
from evals.report.hints import hints
from evals.report.missing import missing
from evals.report.stats import Interval
from evals.report.summary import COST, FIRST, TOO_LONG, is_measured, metric_names

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
