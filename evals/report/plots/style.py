"""What all figures share: how a model looks, how a length axis reads, how out of memory is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evals.report.plots.looks import DASHES, Look
from evals.report.words import tokens
from evals.safe_text import plain_line

STYLE = Path(__file__).with_name("style.mplstyle")
COLUMN, PAGE = 3.4, 7.0
"""Width in inches of one column and of two columns of a paper."""
MOST_BANDS = 4
"""Models whose intervals are bands in one panel; those of more are whiskers."""
LEGEND_ROW = 0.17
"""Height in inches of a row of the legend."""
CROSS_ROW = 0.085
"""Height of a row of out-of-memory crosses, or of values beyond the axis, as a share of the panel."""
BROKEN = 10.0
"""A value that is better when lower is beyond the axis from this multiple of the best on."""


def drawn(styles: dict[str, Look], rows: pd.DataFrame, column: str) -> dict[str, Look]:
    """The models that appear in a figure of `column`: with a value, or out of memory."""
    shown = set(rows[rows[column].notna() | (rows["status"] == "oom")]["model"])
    return {model: look for model, look in styles.items() if model in shown}


def panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of `count` equal panels: one column wide for one panel, else two columns wide."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(COLUMN if count == 1 else PAGE, 2 * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def length_axis(ax: Axes, lengths: Iterable[float]) -> None:
    """A base-2 logarithmic axis with ticks at the measured lengths."""
    ticks = sorted({float(length) for length in lengths})
    shown = ticks[:: (len(ticks) + 6) // 7]
    ax.set_xscale("log", base=2)
    ax.set_xticks(shown, [tokens(t) for t in shown])
    ax.set_xlim(ticks[0] / 2**0.35, ticks[-1] * 2**0.35)
    ax.set_xlabel("length (tokens)")


def out_of_memory(
    ax: Axes, lengths: Sequence[float], look: Look, row: int, label: str = "out of memory", marker: str = "x"
) -> None:
    """A cross at the top for each length that did not fit, one row per model, labelled at the first cross."""
    if not lengths:
        return
    height = 0.97 - CROSS_ROW * row
    where = ax.get_xaxis_transform()
    heights = [height] * len(lengths)
    ax.plot(lengths, heights, marker, color=look.colour, transform=where, clip_on=False, ms=4.5, mew=1.4)
    _note(ax, label, min(lengths), height, look, size=6, gap=5)


def headroom(ax: Axes, rows: int) -> None:
    """Make room for `rows` rows of crosses or values at the top of a panel."""
    if not rows:
        return
    share = CROSS_ROW * rows + 0.05
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        ax.set_ylim(low, low * (high / low) ** (1 / (1 - share)))
    else:
        ax.set_ylim(low, low + (high - low) / (1 - share))


def spread_axis(ax: Axes, which: Literal["x", "y"], values: Iterable[float]) -> None:
    """A logarithmic axis, with plain numbers, where positive values span more than a factor of ten."""
    found = np.array(list(values), dtype=float)
    if len(found) and found.min() > 0 and found.max() / found.min() > 10:
        ax.set(**{f"{which}scale": "log"})
        axis = ax.xaxis if which == "x" else ax.yaxis
        few = found.max() / found.min() < 100
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def broken(values: pd.Series, higher_is_better: bool) -> pd.Series:
    """Which values, better when lower, are so large that an axis that shows them hides all others."""
    if higher_is_better or not (values > 0).any():
        return values.isna() & False
    return values > BROKEN * values[values > 0].min()


def at_edge(ax: Axes, lengths: Sequence[float], values: Sequence[float], look: Look, row: int) -> None:
    """Marks at the top for values beyond the axis, with the values, one row per model."""
    height = 0.97 - CROSS_ROW * row
    where = ax.get_xaxis_transform()
    ax.plot(lengths, [height] * len(lengths), look.marker, color=look.colour, transform=where, clip_on=False, ms=4)
    for x, value in zip(lengths, values, strict=True):
        number = f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"
        _note(ax, number, x, height, look, size=5.5, gap=4)


def _note(ax: Axes, text: str, x: float, height: float, look: Look, size: float, gap: float) -> None:
    """A text that ends `gap` points before x; height: as a share of the panel. size: in points."""
    ax.annotate(
        text,
        (x, height),
        xycoords=ax.get_xaxis_transform(),
        xytext=(-gap, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=size,
        color=look.colour,
    )


def legend(figure: Figure, found: dict[str, Look], more: Sequence[Line2D] = ()) -> None:
    """A legend above the panels, where it covers no data. more: entries of lines that are no model's."""
    handles = [
        Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes, label=short(name))
        for name, k in found.items()
    ] + list(more)
    if len(handles) > len(DASHES) and figure.get_figwidth() < PAGE:
        figure.set_figwidth(PAGE)
    widest = max(len(str(handle.get_label())) for handle in handles)
    fitting = max(1, int(figure.get_figwidth() / (0.054 * widest + 0.44)))
    more_rows = -(-len(handles) // fitting) - 2
    if more_rows > 0:
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * more_rows)
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), fitting))


def short(name: str, limit: int = 32) -> str:
    """A name cut to fit a legend, without control characters."""
    name = plain_line(name)
    return name if len(name) <= limit else name[: limit - 1] + "…"


def file_name(*parts: str) -> str:
    """A file name made from names of tasks and metrics."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "_".join(parts)).strip("-")
