"""The report of a run as one self-contained HTML page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evals.records.json import Json, dumps
from evals.records.models import SampleRecord
from evals.report.contests import contests
from evals.report.data import Data
from evals.report.effective import THRESHOLD
from evals.report.findings import findings, verdict
from evals.report.hints import hints
from evals.report.html import rendered
from evals.report.load import Run
from evals.report.matrix import costs, matrices
from evals.report.missing import missing
from evals.report.summary import records
from evals.report.tables import Table, fairness_table

MOST_SAMPLES = 5000
MOST_CHARACTERS = 20_000_000
"""Limits of the sample browser: a page over about 20 MB opens slowly."""
FIELDS = {
    "cell", "sample", "status", "error", "metrics", "output", "reference", "group", "meta", "audit", "trace",
    "prompt", "seconds", "control",
}  # fmt: skip


def write_page(
    data: Data,
    plots: Sequence[tuple[str, str, Path]],
    tables: Sequence[Table],
    path: Path,
    plan: Table | None = None,
    threshold: float = THRESHOLD,
) -> None:
    """Write the report of a run to `path`. threshold: of the effective lengths that the findings are about."""
    samples, left_out = embedded(data.run)
    found, cost = contests(data), costs(data)
    text = rendered(
        "page.html.j2",
        ("basis", "state", "matrix", "table", "samples", "start"),
        {"cells": with_errors(data), "samples": samples, "matrices": matrices(found), "costs": cost},
        title=title(data.run),
        facts=facts(data),
        notes=[*data.run.notes, *missing(data.run)],
        verdict=verdict(found),
        findings=findings(data, found, threshold),
        hints=hints(data),
        contests=found,
        costs=cost,
        plots=[inline(name, caption, file) for name, caption, file in plots],
        tables=[shown(table) for table in tables],
        plan=shown(plan) if plan else None,
        fairness=shown(fairness_table(data)),
        left_out=left_out,
        environment=json.dumps(background(data.run), indent=1, ensure_ascii=False, default=str),
    )
    path.write_text(text, encoding="utf-8")


def title(run: Run) -> str:
    """The heading of the page."""
    return f"Report of {run.path.resolve().name}"


def facts(data: Data) -> list[str]:
    """When the run started and how large it is, for the head of the page."""
    run, status = data.run, data.summary["status"].value_counts(sort=False)
    samples = sum(len(s) for s in run.samples.values())
    cells = f"{len(run.cells)} cells ({', '.join(f'{count} {name}' for name, count in status.items())})"
    when = datetime.fromisoformat(run.meta.created).strftime("%Y-%m-%d %H:%M %Z")
    return [when, f"{data.summary['model'].nunique()} models", cells, f"{samples} samples"]


def background(run: Run) -> Json:
    """The run record without models and cells."""
    return {k: v for k, v in run.meta.as_json().items() if k not in ("models", "cells")}


def with_errors(data: Data) -> list[Json]:
    """The summary as JSON, each cell with the error that ended it, if any."""
    return [{**row, "error": data.run.cells[row["cell"]].error} for row in records(data.summary)]


def embedded(run: Run) -> tuple[list[Json], str]:
    """The samples that the page holds and a sentence about those it does not.

    Where there are too many, the cells take turns with their first samples, so that each cell is represented.
    """
    total = sum(map(len, run.samples.values()))
    taken: dict[str, list[Json]] = {cell: [] for cell in run.samples}
    characters = 0
    for cell, sample in islice(_in_turn(run), MOST_SAMPLES):
        chosen = sample.model_dump(include=FIELDS)
        characters += len(dumps(chosen))
        if characters > MOST_CHARACTERS:
            break
        taken[cell].append(chosen)
    held = list(chain.from_iterable(taken.values()))
    lost = total - len(held)
    note = (
        f"{lost} of {total} samples are left out to keep this page fast. All of them are in samples.jsonl "
        "and count in every number on this page."
    )
    return held, note if lost else ""


def _in_turn(run: Run) -> Iterator[tuple[str, SampleRecord]]:
    """The first sample of each cell, then the second of each, ..."""
    for position in range(max(map(len, run.samples.values()), default=0)):
        for cell, samples in run.samples.items():
            if position < len(samples):
                yield cell, samples[position]


def inline(name: str, caption: str, file: Path) -> dict[str, Any]:
    """A plot as an inline SVG element. Its ids get the name of the plot, so that they are unique on the page."""
    svg = file.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    return {"caption": caption, "svg": Markup(svg), "wide": width > 300}


def shown(table: Table) -> dict[str, object]:
    """A table as text for the template."""
    frame = table.text()
    return {
        "title": table.title,
        "columns": list(frame.columns),
        "rows": frame.to_numpy().tolist(),
        "notes": table.notes,
    }
