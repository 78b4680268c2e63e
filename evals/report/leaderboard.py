"""Many runs as one static site: a folder that works from a disk, as GitHub Pages and as a Space, copied as it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from evals.errors import UserError
from evals.records.json import Json
from evals.report import write
from evals.report.contests import contests
from evals.report.data import Data
from evals.report.html import rendered
from evals.report.load import Run
from evals.report.run_names import folder_names
from evals.report.summary import records

NAMED = ("torch", "transformers")
"""Packages whose versions the table of runs shows; the page of a run has all of them."""
SPACE = """---
title: Leaderboard of long-context methods
sdk: static
pinned: false
---

Made by `sharedllm-report leaderboard`. Open index.html.
"""
KEPT = ("model", "task", "length", "status", "n", "metric", "higher_is_better", "max_context", "measured",
        "ttft_s", "tpot_ms", "peak_gib")  # fmt: skip


def write_leaderboard(runs: Sequence[Run], folder: Path, threshold: float | None = None) -> int:
    """Write the site to `folder`: index.html, and below `runs/` the report of each run. Returns the number of cells.

    Raises UserError if `folder` cannot be written to.
    """
    names = folder_names([run.path for run in runs])
    rows: list[Json] = []
    entries: list[Json] = []
    for name, run in zip(names, runs, strict=True):
        data = Data(run, write(run, folder / "runs" / name, threshold))
        rows += cells(data, name)
        entries.append(provenance(data, name))
    try:
        _write_index(rows, entries, folder)
    except OSError as error:
        raise UserError(
            f"The leaderboard cannot be written to {folder} ({error.strerror or error}): free some space or choose "
            "another folder with `--output FOLDER`."
        ) from error
    return len(rows)


def _write_index(rows: list[Json], entries: list[Json], folder: Path) -> None:
    text = rendered("leaderboard.html.j2", ("basis", "state", "leaderboard"), {"cells": rows}, runs=entries)
    (folder / "index.html").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(SPACE, encoding="utf-8")
    (folder / ".nojekyll").touch()


def cells(data: Data, run: str) -> list[Json]:
    """One row per cell: scores, cost, device, and whether its model is shown to be the best of its run."""
    best = {
        contest.cells[found.model, column]
        for contest in contests(data)
        for column, found in contest.best.items()
        if found.shown
    }
    result = []
    for row in records(data.summary):
        low, high = row["intervals"].get(row["metric"], (None, None))
        perf = data.run.perf.get(row["cell"])
        result.append(
            {
                **{name: row[name] for name in KEPT if row.get(name) is not None},
                "method": data.run.method(row["model"]),
                "run": run,
                "device": (perf.device if perf and perf.device else None) or device(data.run),
                "score": row["metrics"].get(row["metric"]),
                "low": low,
                "high": high,
                "best": row["cell"] in best,
            }
        )
    return result


def provenance(data: Data, name: str) -> Json:
    """Where a run comes from: command, date, device, versions, commit."""
    meta = data.run.meta
    packages, git = (meta.environment.get(part) or {} for part in ("packages", "git"))
    versions = [f"{package} {packages[package]}" for package in NAMED if package in packages]
    commit = str(git.get("commit") or "")[:12]
    return {
        "name": name,
        "report": f"runs/{name}/report.html",
        "created": datetime.fromisoformat(meta.created).strftime("%Y-%m-%d %H:%M %Z"),
        "command": " ".join(map(str, meta.command)),
        "device": device(data.run),
        "versions": ", ".join(versions),
        "commit": commit + (", with changes" if commit and git.get("changed") else ""),
        "cells": len(data.summary),
    }


def device(run: Run) -> str:
    """Name of the GPU, or else of the processor, as the run recorded it; `unknown` where it did not."""
    gpu = run.meta.environment.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else gpu
    return str(name or run.meta.environment.get("cpu") or "unknown")
