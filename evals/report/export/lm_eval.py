"""The results file of lm-evaluation-harness 0.4, one for each model: its table maker and what reads its files take it.

A cell is a task whose name has the length (`needle@8192`). lm-eval knows standard errors and no intervals, so `stderr`
is N/A; the intervals are in the summary.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from evals.records.disk import replace_file
from evals.records.json import Json, dumps
from evals.report.data import Data
from evals.report.export.cells import LIBRARY, base_name, cell_name, path_name, scored

FILTER = "none"
"""lm-eval's name of an answer that no filter changed."""


def write(data: Data, folder: Path) -> list[Path]:
    """Write MODEL/results.json for every model of a run; returns the files."""
    written = []
    for model, rows in scored(data):
        path = folder / path_name(model) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, dumps(_results(data, model, rows), indent=2).encode())
        written.append(path)
    return written


def _results(data: Data, model: str, rows: list[Json]) -> Json:
    meta = data.run.meta
    named = {cell_name(row): row for row in rows}
    states = {name: data.run.cells[row["cell"]] for name, row in named.items()}
    return {
        "results": {name: _metrics(name, row) for name, row in named.items()},
        "group_subtasks": {name: [] for name in named},
        "configs": {
            name: {"task": name, "metadata": {"version": s.task_version, **s.settings}} for name, s in states.items()
        },
        "versions": {name: state.task_version for name, state in states.items()},
        "n-shot": dict.fromkeys(named, 0),
        "higher_is_better": {name: {row["metric"]: row["higher_is_better"]} for name, row in named.items()},
        "n-samples": {name: {"original": row["n"], "effective": row["n"]} for name, row in named.items()},
        "config": {
            "model": data.run.method(model),
            "model_args": {"pretrained": base_name(data, model), **data.run.fairness(model)},
            "batch_size": meta.spec.get("batch_size", 1),
            "device": meta.spec.get("device"),
            "limit": meta.spec.get("limit"),
            "random_seed": meta.spec.get("seed"),
        },
        "git_hash": (meta.environment.get("git") or {}).get("commit"),
        "date": datetime.fromisoformat(meta.created).timestamp(),
        "model_name": model,
        "model_source": LIBRARY["name"],
    }


def _metrics(name: str, row: Json) -> Json:
    found: Json = {"alias": name}
    for metric, value in row["metrics"].items():
        found |= {f"{metric},{FILTER}": value, f"{metric}_stderr,{FILTER}": "N/A"}
    return found
