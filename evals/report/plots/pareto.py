"""Score against cost: which methods are worth their memory and time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evals.report.frames import Data
from evals.report.plots.efficiency import QUANTITIES
from evals.report.plots.style import PAGE, Look, file_name, legend, looks, spread_axis
from evals.report.words import metric_label, tokens

CAPTION = (
    "{task}{length}: {metric} against memory, time to first token and time per output token. Grey line: the methods "
    "that no other method beats in both."
)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task family, at the longest length at which most models were scored and timed."""
    styles = looks(data.models)
    scored = data.scores[data.scores["score"].notna() & data.scores["ttft_s"].notna()]
    scored = scored[~scored["family"].str.startswith("efficiency")]  # its score is a cost
    for family, family_rows in scored.groupby("family", sort=False):
        rows = family_means(family_rows)
        lengths = rows["length"].fillna(0)
        counts = rows.groupby(lengths)["model"].nunique()
        if rows.empty or counts.max() < 2:  # empty: no model has all subsets of the family
            continue
        longest = counts[counts == counts.max()].index.max()
        chosen = rows[lengths == longest]
        present = {m: styles[m] for m in styles if m in set(chosen["model"])}
        figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
        for ax, (quantity, label) in zip(figure.subplots(1, 3, sharey=True), QUANTITIES.items(), strict=True):
            panel(ax, chosen, quantity, label, present)
        metric, better = chosen["metric"].iloc[0], bool(chosen["higher_is_better"].iloc[0])
        figure.axes[0].set_ylabel(metric_label(metric, better))
        legend(figure, present)
        length = f" at {tokens(longest)} tokens" if longest else ""
        caption = CAPTION.format(task=family, length=length, metric=metric_label(metric, True))
        yield file_name("pareto", str(family)), caption, figure


def family_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the subsets of a family, for models that have all of them. A single subset keeps its interval."""
    tasks = rows["task"].nunique()
    if tasks == 1:
        return rows
    keys = ["model", "length"]
    complete = rows.groupby(keys, dropna=False)["task"].transform("nunique") == tasks
    means = rows[complete].groupby(keys, dropna=False, as_index=False)[["score", *QUANTITIES]].mean()
    first = rows.iloc[0]
    return means.assign(
        low=np.nan, high=np.nan, metric=f"mean {first['metric']}", higher_is_better=first["higher_is_better"]
    )


def front(cost: np.ndarray, score: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Indices of the points that no other point beats in cost and score, cheapest first."""
    gain = score if higher_is_better else -score
    order = np.lexsort((-gain, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], gain[order]]))[:-1]
    return order[gain[order] > best]


def panel(ax: Axes, rows: pd.DataFrame, quantity: str, label: str, styles: dict[str, Look]) -> None:
    """One cost on the x axis; error bars are the intervals of the scores."""
    ax.set_xlabel(label)
    rows = rows[rows[quantity].notna()]
    if rows.empty:
        return
    cost, score = rows[quantity].to_numpy(float), rows["score"].to_numpy(float)
    best = front(cost, score, bool(rows["higher_is_better"].iloc[0]))
    ax.plot(cost[best], score[best], color="#9a9a9a", lw=1.0, zorder=1, drawstyle="steps-post")
    low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
    for i, model in enumerate(rows["model"]):
        look = styles[model]
        ax.plot([cost[i]] * 2, [low[i], high[i]], color=look.colour, lw=0.8, zorder=2)
        ax.plot(cost[i], score[i], look.marker, color=look.colour, ms=5.5, zorder=3)
    spread_axis(ax, "x", cost)
    if not rows["higher_is_better"].iloc[0]:  # a perplexity that explodes would hide the others
        spread_axis(ax, "y", score)
    if ax.get_xscale() == "linear":
        ax.set_xlim(0, cost.max() * 1.1)
