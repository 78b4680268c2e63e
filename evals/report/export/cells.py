"""What all exports need of a run: its scored cells by model, and names that are safe in a path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

from evals.records.json import Json
from evals.report.data import Data
from evals.report.summary import records

LIBRARY = {"name": "sharedllm", "version": version("sharedllm")}


def scored(data: Data) -> Iterator[tuple[str, list[Json]]]:
    """Each model with the summary entries of its cells that have a score, in the order of the run."""
    rows = [row for row in records(data.summary) if row["metric"] in row["metrics"]]
    for model in data.models:
        if found := [row for row in rows if row["model"] == model]:
            yield model, found


def cell_name(row: Json) -> str:
    """Task and length as one name: `needle@8192`."""
    return f"{row['task']}@{row['length']}" if row["length"] else str(row["task"])


def path_name(text: str) -> str:
    """A name as one part of a path."""
    return re.sub(r"[^\w+().-]+", "-", text).strip(".-") or "unnamed"


def base_name(data: Data, model: str) -> str:
    """Where the weights of a model come from: `ORG/NAME` on the hub, else the name of the package or folder."""
    entry = data.run.models.get(model)
    source = str((entry.preset.get("weights") or {}).get("source", "")) if entry else ""
    kind, _, name = source.partition(":")
    return name if kind in ("hub", "package") and name else source.rstrip("/").rpartition("/")[2] or model
