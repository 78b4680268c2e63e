"""Score against cost: which methods are worth their memory and time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evals.report.data import Data
from evals.report.plots.efficiency import QUANTITIES
from evals.report.plots.looks import Look, looks
from evals.report.plots.style import PAGE, at_edge, broken, file_name, headroom, legend, spread_axis
from evals.report.stats.bootstrap import drawn_means
from evals.report.stats.interval import FEWEST, LEVEL
from evals.report.words import metric_label, tokens

CAPTION = (
    "{task}{length}: {metric} against memory, time to first token and time per output token, with 95 % intervals. The "
    "grey line joins the methods that no other method beats in both. A mark with a number at the top is more than ten "
    "times the best."
)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task family, at the longest length at which most models were scored and timed."""
    styles = looks(data.methods)
    scored = data.scores[data.scores["score"].notna() & data.scores["ttft_s"].notna()]
    scored = scored[~scored["family"].str.startswith("efficiency")]  # its score is a cost
    for family, family_rows in scored.groupby("family", sort=False):
        rows = family_means(data, family_rows)
        lengths = rows["length"].fillna(0)
        counts = rows.groupby(lengths)["model"].nunique()
        if rows.empty or counts.max() < 2:  # empty: no model has all subsets of the family
            continue
        longest = counts[counts == counts.max()].index.max()
        chosen = rows[lengths == longest]
        present = {m: styles[m] for m in styles if m in set(chosen["model"])}
        figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
            panel(ax, chosen, quantity, label, present)
        outside = broken(chosen["score"], bool(chosen["higher_is_better"].iloc[0]))
        if outside.any():
            shown = chosen[~outside]
            axes[0].set_ylim(0.9 * shown[["score", "low"]].min().min(), 1.3 * shown["score"].max())
            headroom(axes[0], int(outside.sum()))
        metric, better = chosen["metric"].iloc[0], bool(chosen["higher_is_better"].iloc[0])
        figure.axes[0].set_ylabel(metric_label(metric, better))
        legend(figure, present)
        length = f" at {tokens(longest)} tokens" if longest else ""
        caption = CAPTION.format(task=family, length=length, metric=metric_label(metric, True))
        yield file_name("pareto", str(family)), caption, figure


def family_means(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the subsets of a family, for models that have all of them. A single subset keeps its interval."""
    tasks = rows["task"].nunique()
    if tasks == 1:
        return rows
    keys, first = ["model", "length"], rows.iloc[0]
    complete = rows[rows.groupby(keys, dropna=False)["task"].transform("nunique") == tasks]
    means = complete.groupby(keys, dropna=False, as_index=False)[["score", *QUANTITIES]].mean()
    groups = complete.groupby(keys, dropna=False)["cell"]
    limits = [mean_limits(data, [str(cell) for cell in cells]) for _, cells in groups]
    low, high = ([limit[side] for limit in limits] for side in (0, 1))
    better = first["higher_is_better"]
    return means.assign(low=low, high=high, metric=f"mean {first['metric']}", higher_is_better=better)


def mean_limits(data: Data, cells: list[str]) -> tuple[float, float]:
    """The interval of the mean over cells that are independent of each other, from draws of every score.

    NaN where the scores are no means over samples, or rest on fewer than FEWEST contexts in all.
    """
    digests = [data.run.digest(cell) for cell in cells]
    if not all(len(d.counted) for d in digests) or sum(d.groups for d in digests) < FEWEST:
        return float("nan"), float("nan")
    draws = [drawn_means(d.counted, d.counted_codes, cell) for d, cell in zip(digests, cells, strict=True)]
    low, high = np.quantile(np.mean(draws, axis=0), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


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
    outside = broken(rows["score"], bool(rows["higher_is_better"].iloc[0])).to_numpy(bool)
    for i, model in enumerate(rows["model"]):
        look = styles[model]
        if outside[i]:
            at_edge(ax, [cost[i]], [score[i]], look, int(outside[:i].sum()))
            continue
        ax.plot([cost[i]] * 2, [low[i], high[i]], color=look.colour, lw=0.8, zorder=2)
        ax.plot(cost[i], score[i], look.marker, color=look.colour, ms=5.5, zorder=3)
    spread_axis(ax, "x", cost)
    if ax.get_xscale() == "linear":
        ax.set_xlim(0, cost.max() * 1.1)
