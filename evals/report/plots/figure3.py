"""Figure 3 of the paper: memory and time of whole requests against length, and their ratios to SharedLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evals.report import published
from evals.report.data import Data
from evals.report.plots.looks import Look, looks
from evals.report.plots.style import PAGE, drawn, headroom, legend, length_axis, out_of_memory, spread_axis

QUANTITIES = {
    "peak_gib": "peak memory (GiB)",
    "total_s": "time of a request (s)",
    "ratio": "time over SharedLLM's",
}
CAPTION = (
    "Memory and time of a cold request against length: context, query and {new_tokens} output tokens. A cross "
    "stands where memory ran out. {paper}"
)
CLAIM = (0, (1, 1))
PAPER = (
    "The dotted line is the ratio that the paper states, on other hardware and without a length. An upright cross "
    "stands where the paper reports that memory ran out."
)


def requests(data: Data) -> pd.DataFrame:
    """Cells of the task efficiency with `total_s`, and `ratio` to the run's first SharedLLM at the same length."""
    rows = data.summary[(data.summary["task"] == "efficiency") & data.summary["length"].notna()]
    if rows.empty or "total_s" not in rows:
        return rows.iloc[:0]
    shared = rows[rows["model"] == next(iter(of_method(data, "sharedllm")), None)]
    own = shared.set_index("length")["total_s"]
    return rows.assign(ratio=rows["total_s"] / rows["length"].map(own).astype(float))


def of_method(data: Data, method: str) -> list[str]:
    """Models of a method, by its registry name, in the order of the run."""
    return [name for name, model in data.run.models.items() if model.method == method]


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure, if the run measured requests at two lengths; ratios if it has SharedLLM and a rival."""
    rows = requests(data)
    if rows.empty or rows[rows["total_s"].notna()]["length"].nunique() < 2:
        return
    styles = drawn(looks(data.methods), rows, "total_s")
    shared = of_method(data, "sharedllm")[:1]
    rivals = rows[~rows["model"].isin(shared) & rows["ratio"].notna()]
    shown = [q for q in QUANTITIES if q != "ratio" or not rivals.empty]
    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    for ax, quantity in zip(figure.subplots(1, len(shown)), shown, strict=True):
        mine = rivals if quantity == "ratio" else rows
        panel(ax, mine, quantity, styles)
        if quantity == "ratio":
            _claims(ax, data, {m: styles[m] for m in styles if m in set(mine["model"])})
        else:
            _lost(ax, data, rows, styles)
        length_axis(ax, rows["length"].astype(float))
        ax.set_title(QUANTITIES[quantity])
    legend(figure, styles, list(_papers(data, styles, "ratio" in shown)))
    tokens = sorted({record.new_tokens for record in data.run.perf.values() if record.new_tokens is not None})
    yield "figure3", CAPTION.format(new_tokens=" or ".join(map(str, tokens)), paper=PAPER), figure


def panel(ax: Axes, rows: pd.DataFrame, quantity: str, styles: dict[str, Look]) -> None:
    """A quantity against length, one line per model."""
    done = rows[rows["total_s"].notna() & rows[quantity].notna()]
    for model, look in styles.items():
        mine = done[done["model"] == model].sort_values("length")
        x, y = mine["length"].to_numpy(float), mine[quantity].to_numpy(float)
        ax.plot(x, y, color=look.colour, marker=look.marker, linestyle=look.dashes)
    spread_axis(ax, "y", done[quantity])
    if ax.get_yscale() == "linear":
        ax.set_ylim(0, 1.08 * done[quantity].max())


def _lost(ax: Axes, data: Data, rows: pd.DataFrame, styles: dict[str, Look]) -> None:
    """Crosses where a model ran out of memory, upright ones where the paper reports it at a length of the run."""
    crosses = []
    for model, look in styles.items():
        mine = rows[(rows["model"] == model) & (rows["status"] == "oom")]
        paper = published.lost_lengths(data.run.method(model))
        crosses.append((mine["length"].astype(float).tolist(), look, "out of memory", "x"))
        known = [float(n) for n in paper if rows["length"].min() <= n <= rows["length"].max()]
        crosses.append((known, look, "the paper: out of memory", "+"))
    found = [cross for cross in crosses if cross[0]]
    for row, (lengths, look, label, marker) in enumerate(found):
        out_of_memory(ax, lengths, look, row, label, marker)
    headroom(ax, len(found))


def _papers(data: Data, styles: dict[str, Look], ratios: bool) -> Iterator[Line2D]:
    """Legend entries of the paper's ratios; its upright crosses are named where they stand."""
    known = published.speed_ratios()
    for model, look in styles.items() if ratios else ():
        name = published.MODELS.get(data.run.method(model), "")
        if name in known:
            label = f"the paper: {name} / SharedLLM = {known[name]:g}"
            yield Line2D([], [], color=look.colour, lw=0.9, alpha=0.6, linestyle=CLAIM, label=label)


def _claims(ax: Axes, data: Data, styles: dict[str, Look]) -> None:
    """The paper's ratios as lines in the colours of their methods."""
    ratios = published.speed_ratios()
    top = ax.get_ylim()[1]
    for model, look in styles.items():
        ratio = ratios.get(published.MODELS.get(data.run.method(model), ""))
        if ratio is not None:
            ax.axhline(ratio, color=look.colour, lw=0.9, alpha=0.6, linestyle=CLAIM, zorder=1)
            top = max(top, 1.15 * ratio)
    ax.set_ylim(top=top)
