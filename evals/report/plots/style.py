"""What all figures share: how a model looks, how a length axis reads, how out of memory is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evals.report.words import tokens
from evals.safe_text import plain_line

STYLE = Path(__file__).with_name("style.mplstyle")
COLUMN, PAGE = 3.4, 7.0
"""Width in inches of one column and of two columns of a paper."""
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"),
    *("#882255", "#332288", "#999933", "#44AA99"),
)
"""Okabe and Ito's palette, distinct under every common form of colour blindness; then four of Paul Tol's `muted`."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")
DASHES: tuple[Any, ...] = (
    "solid",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (7, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
MOST_BANDS = 4
"""Models whose intervals are bands in one panel; those of more are whiskers."""
LEGEND_ROW = 0.17
"""Height in inches of a row of the legend."""
CROSS_ROW = 0.085
"""Height of a row of out-of-memory crosses, as a share of the panel."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of a model. Colours and markers are unique among the first twelve."""

    colour: str
    marker: str
    dashes: Any


def looks(models: Iterable[str]) -> dict[str, Look]:
    """The look of each model by its position in the run, the same in every figure."""
    return {
        name: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
        for i, name in enumerate(models)
    }


def drawn(styles: dict[str, Look], rows: pd.DataFrame, column: str) -> dict[str, Look]:
    """The models that appear in a figure of `column`: with a value, or out of memory."""
    shown = set(rows[rows[column].notna() | (rows["status"] == "oom")]["model"])
    return {model: look for model, look in styles.items() if model in shown}


def panels(count: int, columns: int, height: float = 2.0) -> tuple[Figure, list[Axes]]:
    """A figure of `count` equal panels: one column wide for one panel, else two columns wide."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(COLUMN if count == 1 else PAGE, height * rows + 0.35), layout="constrained")
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
    ax.plot(
        lengths,
        [height] * len(lengths),
        marker,
        color=look.colour,
        transform=where,
        clip_on=False,
        ms=4.5,
        mew=1.4,
    )
    ax.annotate(
        label,
        (min(lengths), height),
        xycoords=where,
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=6,
        color=look.colour,
    )


def headroom(ax: Axes, rows: int) -> None:
    """Make room for `rows` rows of crosses at the top of a panel."""
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


def legend(figure: Figure, found: dict[str, Look]) -> None:
    """A legend above the panels, where it covers no data."""
    handles = [
        Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes, label=short(name))
        for name, k in found.items()
    ]
    if len(handles) > len(DASHES) and figure.get_figwidth() < PAGE:
        figure.set_figwidth(PAGE)
    widest = max(len(short(name)) for name in found)
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
