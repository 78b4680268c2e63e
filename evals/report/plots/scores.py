"""Scores of tasks that were run at one length (such as LongBench): one dot with its interval per model."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evals.report.data import Data
from evals.report.plots.looks import Look, looks
from evals.report.plots.style import COLUMN, file_name, legend, length_axis
from evals.report.words import metric_label, tokens

CAPTION = "Scores by task{length}, with 95 % intervals over samples."


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task family, for tasks with a single length."""
    scored = data.scores[data.scores["score"].notna()]
    if scored.empty:
        return
    single = scored[scored.groupby("task")["length"].transform(lambda column: column.nunique()) <= 1]
    styles = looks(data.methods)
    single = single[single["family"] != "efficiency"]  # it has its own figures
    for family, rows in single.groupby("family", sort=False):
        tasks = list(dict.fromkeys(rows["task"]))
        present = {m: styles[m] for m in styles if m in set(rows["model"])}
        height = len(tasks) * (0.1 * len(present) + 0.14) + 0.95
        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        dots(figure.subplots(), rows, tasks, present)
        legend(figure, present)
        lengths = rows["length"].dropna().unique()
        length = f" at {tokens(lengths[0])} tokens" if len(lengths) == 1 else ""
        yield file_name("scores", str(family)), CAPTION.format(length=length), figure


def dots(ax: Axes, rows: pd.DataFrame, tasks: list[str], styles: dict[str, Look]) -> None:
    """One row per task; the models are stacked within it."""
    step = 0.7 / len(styles)
    for i, (model, look) in enumerate(styles.items()):
        for _, row in rows[rows["model"] == model].iterrows():
            y = tasks.index(row["task"]) + (i - (len(styles) - 1) / 2) * step
            ax.plot([row["low"], row["high"]], [y, y], color=look.colour, lw=1.0)
            ax.plot(row["score"], y, look.marker, color=look.colour, ms=4)
    ax.set_yticks(range(len(tasks)), [t.partition(":")[2] or t for t in tasks])
    ax.set_ylim(len(tasks) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)
    for border in range(1, len(tasks)):
        ax.axhline(border - 0.5, color="#d0d0d0", lw=0.5)
    metrics = list(dict.fromkeys(rows["metric"]))
    better = bool(rows["higher_is_better"].all())
    ax.set_xlabel(metric_label(metrics[0] if len(metrics) == 1 else "score", better))
    if metrics == ["max_tokens"]:
        length_axis(ax, rows["score"])
        ax.set_xlabel("longest context that fits (tokens)")
        return
    ax.xaxis.set_major_locator(MaxNLocator(6))
    if better and rows["score"].max() <= 1:
        ax.set_xlim(-0.02, 1.02)
