"""One self-contained HTML page per run: it opens from a disk or a mail, without network or server.

Text from models and data reaches the page in two ways only: through Jinja2's escaping, or as JSON whose `<`, `>`
and `&` are written as escapes and which the script shows through `textContent`. Both show control characters and
bidirectional overrides as escapes. A content security policy allows the page's own script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals.records.json import Json, dumps
from evals.records.models import SampleRecord
from evals.report.findings import findings, verdict
from evals.report.frames import Data
from evals.report.hints import hints
from evals.report.load import Run
from evals.report.matrix import costs, matrices
from evals.report.missing import missing
from evals.report.pairwise import contests
from evals.report.summary import records
from evals.report.tables import Table, fairness_table
from evals.safe_text import plain_json, plain_text

TEMPLATE = Path(__file__).with_name("template")
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
) -> None:
    """Write the report of a run to `path`."""
    env = Environment(
        loader=PackageLoader("evals.report", "template"), autoescape=True, undefined=StrictUndefined, finalize=visible
    )
    script = scripts("basis", "state", "matrix", "table", "samples", "start")
    samples, left_out = embedded(data.run)
    found, cost = contests(data), costs(data)
    text = env.get_template("page.html.j2").render(
        title=title(data.run),
        facts=facts(data),
        notes=[*data.run.notes, *missing(data.run)],
        verdict=verdict(found),
        findings=findings(data, found),
        hints=hints(data),
        contests=found,
        costs=cost,
        style=Markup((TEMPLATE / "page.css").read_text(encoding="utf-8")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        plots=[inline(name, caption, file) for name, caption, file in plots],
        tables=[shown(table) for table in tables],
        plan=shown(plan) if plan else None,
        fairness=shown(fairness_table(data)),
        left_out=left_out,
        environment=json.dumps(background(data.run), indent=1, ensure_ascii=False, default=str),
        data=script_json({"cells": with_errors(data), "samples": samples, "matrices": matrices(found), "costs": cost}),
    )
    path.write_text(text, encoding="utf-8")


def scripts(*names: str) -> Markup:
    """The parts of the page's script, joined: one element, whose hash the content security policy names."""
    return Markup("\n".join((TEMPLATE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in names))


def visible(value: object) -> object:
    """What the template writes: text with its unsafe characters as escapes. Markup is ours and stays."""
    return plain_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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
    missing = total - len(held)
    note = (
        f"{missing} of {total} samples are left out to keep this page fast. All of them are in samples.jsonl "
        "and count in every number on this page."
    )
    return held, note if missing else ""


def _in_turn(run: Run) -> Iterator[tuple[str, SampleRecord]]:
    """The first sample of each cell, then the second of each, ..."""
    for position in range(max(map(len, run.samples.values()), default=0)):
        for cell, samples in run.samples.items():
            if position < len(samples):
                yield cell, samples[position]


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a script element."""
    text = plain_json(dumps(value))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


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
