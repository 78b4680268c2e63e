"""What a reader must know before comparing models: sentences about tasks, prompts and devices that stand in the way."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from evals.report.data import Data
from evals.report.summary import is_measured
from evals.report.words import place

FLOOR, CEILING = 0.02, 0.98
"""A task separates no methods where the best score is at most the one, or full attention's at least the other."""


def hints(data: Data) -> list[str]:
    """All of them, by kind."""
    kinds = (ceiling_hints, context_hints, cut_hints, device_hints, busy_hints, bus_hints)
    return [sentence for kind in kinds for sentence in kind(data)]


def cut_hints(data: Data) -> list[str]:
    """Where prompts were cut to fit their budget: their scores are those of a part of the row."""
    found = []
    for where, group in _places(data.summary):
        models: dict[str, list[str]] = {}
        for row in group[group["cut"].fillna(0) > 0].to_dict("records"):
            models.setdefault(f"{row['cut']} of {row['n']}", []).append(row["model"])
        for count, names in models.items():
            found.append(f"{where}: {count} prompts were longer than their budget and were cut ({', '.join(names)}).")
    return found


def busy_hints(data: Data) -> list[str]:
    """Where repeats of a time disagree, as on a machine that does something else too."""
    found = []
    for cell, perf in data.run.perf.items():
        if perf.unsteady:
            state = data.run.cells[cell]
            where, low, high = place(state.task, state.length), perf.ttft_low_s, perf.ttft_high_s
            found.append(
                f"{where}, {state.model}: repeats of the time to first token went from {low:.3g} to {high:.3g} s, so "
                "the machine was busy: measure it again."
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
    for where, group in _places(rows):
        best, full = group["score"].max(), group.loc[group["model"].isin(dense), "score"].max()
        if best <= FLOOR:
            found.append(f"{where}: no model scores above {best:.2g}, so it cannot separate methods.")
        elif CEILING <= full <= 1:
            found.append(f"{where}: full attention scores {full:.2g}, so no method can do better.")
    return found


def context_hints(data: Data) -> list[str]:
    """Where the same questions get the same score without their context, and where the gain lacks samples."""
    found = []
    for where, group in _places(data.summary):
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


def _places(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each task at each length, with what to call the two."""
    for (task, length), group in rows.groupby(["task", "length"], sort=False, dropna=False):
        yield place(str(task), None if pd.isna(length) else int(length)), group
