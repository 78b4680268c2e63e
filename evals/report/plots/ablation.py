"""Ablations: variants of one method, each against the first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evals.report.data import Data
from evals.report.load import Run
from evals.report.plots.style import COLUMN, file_name, short
from evals.report.words import metric_label, tokens

CAPTION = (
    "Variants of {method}: {task}{length}, with 95 % intervals over samples. The line marks the first variant, "
    "{reference}."
)
BAR, REFERENCE = "#56B4E9", "#0072B2"


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task and method that has three variants or more in the run."""
    for method, names in variants(data.run).items():
        rows = data.scores[data.scores["model"].isin(names) & data.scores["score"].notna()]
        for task, mine in rows.groupby("task", sort=False):
            lengths = mine["length"].fillna(0)
            longest = mine[lengths == lengths.max()]
            if len(longest) < 3:
                continue
            caption = CAPTION.format(
                method=method,
                task=task,
                length=f" at {tokens(lengths.max())} tokens" if lengths.max() else "",
                reference=longest["model"].iloc[0],
            )
            yield file_name("ablation", method, str(task)), caption, bars(longest, names)


def variants(run: Run) -> dict[str, dict[str, str]]:
    """For each method with three models or more: its models, and the settings in which each differs from the first."""
    by_method: dict[str, dict[str, Any]] = {}
    for name, model in run.models.items():
        by_method.setdefault(model.method, {})[name] = model.settings
    return {method: labels(found) for method, found in by_method.items() if len(found) > 2}


def labels(settings: dict[str, dict[str, Any]]) -> dict[str, str]:
    """`key=value` of the settings in which a model differs from the first, or the model's name where none do."""
    reference = next(iter(settings.values()))
    result = {}
    for name, mine in settings.items():
        keys = [k for k in {**reference, **mine} if mine.get(k) != reference.get(k)]
        result[name] = ", ".join(f"{k}={_value(mine.get(k))}" for k in keys) or name
    return result


def bars(rows: pd.DataFrame, names: dict[str, str]) -> Figure:
    """One bar per variant with its interval; the first variant's score as a line through all of them.

    A metric that is better when lower (a perplexity) is drawn as dots: its axis does not start at 0, and
    truncated bars exaggerate differences.
    """
    figure = Figure(figsize=(COLUMN, 0.26 * len(rows) + 0.7), layout="constrained")
    ax = figure.subplots()
    scores, places = rows["score"].to_numpy(float), range(len(rows))
    errors = np.array([scores - rows["low"].to_numpy(float), rows["high"].to_numpy(float) - scores])
    better = bool(rows["higher_is_better"].iloc[0])
    if better:
        ax.barh(places, scores, color=[REFERENCE, *[BAR] * (len(rows) - 1)], height=0.66)
    fmt = "none" if better else "o"
    ax.errorbar(scores, places, xerr=errors, fmt=fmt, color=REFERENCE, ecolor="black", elinewidth=0.9, capsize=2)
    ax.axvline(scores[0], color=REFERENCE, lw=0.9, ls=(0, (3, 2)))
    ax.set_xlabel(metric_label(str(rows["metric"].iloc[0]), better))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_yticks(places, [short(names[m]) for m in rows["model"]])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    return figure


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
