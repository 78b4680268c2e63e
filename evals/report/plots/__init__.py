"""The figures of a report. Each module draws one idea; `draw` makes those that a run has data for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure

from evals.report.data import Data
from evals.report.plots import ablation, by_length, context_use, efficiency, figure3, needle, pareto, scores
from evals.report.plots.style import STYLE
from evals.safe_text import plain_text

MODULES = (by_length, scores, needle, context_use, efficiency, figure3, pareto, ablation)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure of every plot that the run has data for."""
    for module in MODULES:
        yield from module.figures(data)


def draw(data: Data, folder: Path) -> list[tuple[str, str, Path]]:
    """Write every figure as SVG and PNG. Returns name, caption and path of the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"backend": "agg"}):
        for name, caption, figure in figures(data):
            path = folder / f"{name}.svg"
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once is enough
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            path.write_text(plain_text(path.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")
            figure.savefig(path.with_suffix(".png"))
            drawn.append((name, caption, path))
    return drawn
