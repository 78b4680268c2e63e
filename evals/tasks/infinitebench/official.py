"""InfiniteBench, official: the published rows, cut by the official rule."""

from __future__ import annotations

from collections.abc import Iterator

from evals.tasks.common.files import RowFile
from evals.tasks.common.rows import errors_at
from evals.tasks.common.spread import order
from evals.tasks.infinitebench import rows
from evals.tasks.infinitebench.prompts import Maker, Request, Text
from evals.tasks.infinitebench.subsets import DEPTH_SWEEPS


def requests(maker: Maker, file: RowFile, budget: int | None, limit: int | None) -> Iterator[tuple[int, Request]]:
    """Line numbers and requests. Raises UserError for a bad row, or none."""
    sweep = maker.task in DEPTH_SWEEPS
    for number, row, answer in rows.read(maker.task, file, limit):
        evidence = answer[0] if isinstance(answer, list) else answer
        text = Text(
            row.context,
            row.input,
            answer,
            row.options,
            str(evidence) if sweep else None,
            {"source": "official"},
            order(number - 1) if sweep else 0.0,
        )
        with errors_at(f"{file}, line {number}"):
            request = maker.request(text, budget)
        yield number, request
