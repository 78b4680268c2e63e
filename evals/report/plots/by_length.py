"""A metric against length, one panel per task, with intervals as bands, or as whiskers where they are many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evals.report.data import Data
from evals.report.plots.looks import Look, looks
from evals.report.plots.style import (
    MOST_BANDS,
    at_edge,
    broken,
    drawn,
    file_name,
    headroom,
    legend,
    length_axis,
    out_of_memory,
    panels,
)
from evals.report.stats.interval import FEWEST
from evals.report.words import metric_label

DODGE = 0.03
"""Octaves between models with whiskers at the same length."""
CAPTION = (
    "{metric} against length. Bands and whiskers are 95 % intervals over samples, clustered by shared context. An open "
    "marker is beyond the window that the method was built for. A cross stands where memory ran out. A mark with a "
    "number at the top is more than ten times the best and beyond the axis."
)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task family that was scored at two lengths or more."""
    scores, styles = data.scores[data.scores["family"] != "efficiency"], looks(data.methods)  # it has its own figures
    for family, rows in scores[scores["length"].notna()].groupby("family", sort=False):
        scored = rows[rows["score"].notna()]
        tasks = [t for t, r in scored.groupby("task", sort=False) if r["length"].nunique() > 1]
        if not tasks:
            continue
        figure, axes = panels(len(tasks), columns=2 if len(tasks) < 5 else 3)
        for ax, task in zip(axes, tasks, strict=True):
            chosen = rows[rows["task"] == task]
            panel(ax, chosen, styles)
            ax.set_ylabel(metric_label(chosen["metric"].iloc[0], bool(chosen["higher_is_better"].iloc[0])))
            ax.set_title(str(task))
        legend(figure, drawn(styles, rows[rows["task"].isin(tasks)], "score"))
        metric = metric_label(scored["metric"].iloc[0], True)
        yield file_name("length", str(family)), CAPTION.format(metric=metric[:1].upper() + metric[1:]), figure


def panel(ax: Axes, rows: pd.DataFrame, styles: dict[str, Look]) -> None:
    """The columns `score`, `low` and `high` of one task against length, one line per model.

    Whiskers in place of bands where models are many, or samples so few that a band would claim a curve.
    """
    top = 0
    outside = broken(rows["score"], bool(rows["higher_is_better"].all()))
    models = [m for m in styles if m in set(rows["model"])]
    whiskers = len(models) > MOST_BANDS or rows.loc[rows["score"].notna(), "n"].min() < FEWEST
    for place, model in enumerate(models):
        mine, look = rows[rows["model"] == model].sort_values("length"), styles[model]
        done = mine[mine["score"].notna()]
        shift = 2 ** (DODGE * (place - (len(models) - 1) / 2)) if whiskers else 1  # so that none hides another
        beyond = (done["length"] > done["max_context"]).fillna(value=False).astype(bool)
        shifted = done["length"].astype(float) * shift
        line(ax, done.assign(length=shifted, beyond=beyond, outside=outside[done.index]), look, whiskers)
        if (gone := done[outside[done.index]]).size:
            at_edge(ax, gone["length"].astype(float).tolist(), gone["score"].tolist(), look, top)
            top += 1
        lengths = mine[mine["score"].isna() & (mine["status"] == "oom")]["length"].astype(float).tolist()
        out_of_memory(ax, lengths, look, top)
        top += bool(lengths)
    limits(ax, rows, outside)
    headroom(ax, top)
    length_axis(ax, rows["length"].astype(float))


def line(ax: Axes, done: pd.DataFrame, look: Look, whiskers: bool) -> None:
    """One model: points with intervals; open markers `beyond` its window, none for scores `outside` the axis."""
    x, y = done["length"].to_numpy(float), done["score"].to_numpy(float)
    low, high = done["low"].to_numpy(float), done["high"].to_numpy(float)
    beyond = done["beyond"].to_numpy(bool)
    ax.plot(x, y, color=look.colour, linestyle=look.dashes, zorder=3)
    for chosen, fill in ((~beyond, look.colour), (beyond, "white")):
        inside = chosen & ~done["outside"].to_numpy(bool)
        ax.plot(x[inside], y[inside], look.marker, color=look.colour, mfc=fill, zorder=4)
    if whiskers:
        ax.vlines(x, low, high, color=look.colour, lw=0.7, alpha=0.6, zorder=2)
    else:
        ax.fill_between(x, low, high, color=look.colour, alpha=0.13, lw=0)


def limits(ax: Axes, rows: pd.DataFrame, outside: pd.Series) -> None:
    """0 to 1 for a share, whatever its values: a small difference must look small. Without what is `outside`."""
    values = rows[["score", "low", "high"]].to_numpy(float)
    if not rows["higher_is_better"].all():
        shown = rows[~outside]
        bottom, top = 0.9 * shown[["score", "low"]].min().min(), shown["score"].max()
        ax.set_ylim(bottom, 1.12 * max(top, shown.groupby("length")["high"].min().max(skipna=True) or top))
    elif np.nanmin(values) >= 0 and np.nanmax(values) <= 1 and rows["metric"].iloc[0] != "use_of_context":
        ax.set_ylim(-0.03, 1.03)
