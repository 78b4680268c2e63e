"""A metric against length, one panel per task, with intervals as bands, or as whiskers where they are many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evals.report.frames import Data
from evals.report.plots.style import (
    MOST_BANDS,
    Look,
    drawn,
    file_name,
    headroom,
    legend,
    length_axis,
    looks,
    out_of_memory,
    panels,
    spread_axis,
)
from evals.report.words import metric_label

DODGE = 0.03
"""Octaves between models with whiskers at the same length."""
CAPTION = (
    "{metric} against length. Bands and whiskers: 95 % intervals over samples, clustered by shared context. Open "
    "marker: beyond the window that the method was built for. Cross: out of memory."
)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task family that was scored at two lengths or more."""
    scores, styles = data.scores[data.scores["family"] != "efficiency"], looks(data.models)  # it has its own figures
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
    """The columns `score`, `low` and `high` of one task against length, one line per model."""
    lost = 0
    models = [m for m in styles if m in set(rows["model"])]
    for place, model in enumerate(models):
        mine, look = rows[rows["model"] == model].sort_values("length"), styles[model]
        done = mine[mine["score"].notna()]
        x, y = done["length"].to_numpy(float), done["score"].to_numpy(float)
        if len(models) > MOST_BANDS:  # side by side, so that whiskers do not hide each other
            x = x * 2 ** (DODGE * (place - (len(models) - 1) / 2))
        low, high = done["low"].to_numpy(float), done["high"].to_numpy(float)
        beyond = (done["length"] > done["max_context"]).fillna(False).to_numpy(bool)
        ax.plot(x, y, color=look.colour, linestyle=look.dashes, zorder=3)
        for chosen, fill in ((~beyond, look.colour), (beyond, "white")):
            ax.plot(x[chosen], y[chosen], look.marker, color=look.colour, mfc=fill, zorder=4)
        if len(models) > MOST_BANDS:
            ax.vlines(x, low, high, color=look.colour, lw=0.7, alpha=0.6, zorder=2)
        else:
            ax.fill_between(x, low, high, color=look.colour, alpha=0.13, lw=0)
        gone = mine[mine["score"].isna() & (mine["status"] == "oom")]["length"].astype(float).tolist()
        out_of_memory(ax, gone, look, lost)
        lost += bool(gone)
    if not rows["higher_is_better"].all():
        spread_axis(ax, "y", rows["score"].dropna())
    limits(ax, rows)
    headroom(ax, lost)
    length_axis(ax, rows["length"].astype(float))


def limits(ax: Axes, rows: pd.DataFrame) -> None:
    """0 to 1 for a share, whatever its values: a small difference must look small."""
    values = rows[["score", "low", "high"]].to_numpy(float)
    share = rows["higher_is_better"].all() and np.nanmin(values) >= 0 and np.nanmax(values) <= 1
    if share and ax.get_yscale() == "linear" and rows["metric"].iloc[0] != "use_of_context":
        ax.set_ylim(-0.03, 1.03)
