"""Needle in a haystack: score over depth and length, all models side by side on one scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from evals.report.data import Data
from evals.report.plots.style import COLUMN, PAGE, file_name, short
from evals.report.words import metric_label, tokens

CAPTION = "{metric} by depth of the needle and length. Memory ran out where it is hatched; what is blank was not run."
COLOURS = "cividis"
MOST_DEPTHS = 11
"""More depths than these are binned into tenths: rows at arbitrary depths would leave a map of blanks."""


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure per task whose samples record the depth of the needle."""
    cells = data.ended[data.ended["length"].notna()]
    for task, rows in cells.groupby("task", sort=False):
        found = grid(data, rows)
        if found["depth"].nunique() > 1:
            label = metric_label(rows["metric"].iloc[0], True)
            caption = CAPTION.format(metric=label[:1].upper() + label[1:])
            yield file_name("depth", str(task)), caption, heat_maps(rows, found)


def grid(data: Data, rows: pd.DataFrame) -> pd.DataFrame:
    """Mean score for each model, length and depth (in percent of the context; tenths where there are many)."""
    points = [
        (row.model, row.length, float(depth), float(score))
        for row in rows.itertuples()
        if row.cell not in data.ran_out
        for depth, score in data.run.digest(str(row.cell)).depths
    ]
    frame = pd.DataFrame(points, columns=["model", "length", "depth", "score"])
    frame["depth"] = gathered(frame["depth"])
    return frame.groupby(["model", "length", "depth"])["score"].mean().reset_index()


def gathered(depths: pd.Series) -> pd.Series:
    """Depths in percent as they are or, where there are too many, the middle of the tenth of each."""
    return depths if depths.nunique() <= MOST_DEPTHS else depths.clip(0, 99.9) // 10 * 10 + 5


def heat_maps(rows: pd.DataFrame, found: pd.DataFrame) -> Figure:
    """One panel per model, up to four side by side, with one colour bar."""
    models = [m for m in dict.fromkeys(rows["model"]) if m in set(found["model"]) or _out_of_memory(rows, m)]
    lengths, depths = sorted(set(rows["length"])), sorted(set(found["depth"]))
    columns = min(4, len(models))
    lines = -(-len(models) // columns)
    height = max(lines * (0.16 * len(depths) + 0.75), 1.5)
    figure = Figure(figsize=(COLUMN if len(models) == 1 else PAGE, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    norm = Normalize(min(0.0, found["score"].min()), max(1.0, found["score"].max()))
    every = max(1, len(depths) // 6)
    for ax, model in zip(axes.flat, models, strict=False):
        mine = found[found["model"] == model].pivot(index="depth", columns="length", values="score")
        values = mine.reindex(index=depths, columns=lengths).to_numpy(float)
        lost = _out_of_memory(rows, model)
        image = heat_map(ax, values, norm, [i for i, length in enumerate(lengths) if length in lost])
        ax.set_title(short(model, 26))
        rotation = 90 if len(lengths) > 6 else 0
        ax.set_xticks(range(len(lengths)), [tokens(length) for length in lengths], rotation=rotation)
        ax.set_yticks(range(len(depths))[::every], [f"{d:.3g}%" for d in depths][::every])
    for ax in axes.flat[len(models) :]:
        ax.remove()
    figure.supylabel("depth of the needle", fontsize=7.5)
    figure.supxlabel("length (tokens)", fontsize=7.5)
    figure.colorbar(image, ax=list(axes.flat[: len(models)]), fraction=0.03, pad=0.015, aspect=18)
    return figure


def _out_of_memory(rows: pd.DataFrame, model: str) -> set[int]:
    return set(rows[(rows["model"] == model) & (rows["status"] == "oom")]["length"])


def heat_map(ax: Axes, values: np.ndarray, norm: Normalize, lost: list[int]) -> AxesImage:
    """One model: values of shape (depths, lengths), with numbers where they fit."""
    image = ax.imshow(values, aspect="auto", cmap=COLOURS, norm=norm, origin="upper")
    ax.grid(visible=False)
    depths = len(values)
    for column in lost:
        if np.isnan(values[:, column]).all():
            ax.add_patch(Rectangle((column - 0.5, -0.5), 1, depths, fc="#eeeeee", ec="#888888", hatch="////", lw=0))
    if values.size <= 48:
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "white" if norm(value) < 0.5 else "black"
                ax.text(x, y, f"{value:.2g}", ha="center", va="center", fontsize=6, color=colour)
    return image
