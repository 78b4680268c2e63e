"""What `throughput.py` measured: a file that a second start goes on with, and the summary of a workload."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughput_prompts import Row

from evals.errors import UserError
from sharedllm.files import write_text, writing

SIDES = ("ours", "hf")


class Record:
    """What was measured, in a JSON file that is written after every piece: settings, pieces, results.

    path: None keeps it in memory alone. Raises UserError for a file that is no such record or has other settings, and
    for a place where there cannot be one.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self.settings = path, settings
        self.pieces: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        if not path.exists():
            with writing(path):  # before minutes of measuring
                path.parent.mkdir(parents=True, exist_ok=True)
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            pieces, earlier, results = list(stored["pieces"]), dict(stored["settings"]), dict(stored["results"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no record of this script: choose another --output.") from error
        other = [key for key, value in settings.items() if earlier.get(key) != value]
        if other:
            raise UserError(f"{path} was measured with another {', '.join(other)}: choose another --output.")
        self.pieces, self.results = pieces, results

    def write(self) -> None:
        """Replace the file. Raises UserError where it cannot be written."""
        if self._path is not None:
            text = json.dumps({"settings": self.settings, "results": self.results, "pieces": self.pieces}, indent=1)
            write_text(self._path, text + "\n")

    def of(self, workload: str) -> dict[int, dict[int, dict[str, Any]]]:
        """The pieces of a workload: batch size -> number of the piece -> what was measured."""
        found: dict[int, dict[int, dict[str, Any]]] = {}
        for piece in self.pieces:
            if piece["workload"] == workload:
                found.setdefault(piece["batch_size"], {})[piece["piece"]] = piece
        return found


def summary(rows: Sequence[Row], found: dict[int, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Both sides over the pieces that were answered at every batch size, each at its best size; empty without one.

    found: as of `Record.of`.
    """
    common = set.intersection(*(set(pieces) for pieces in found.values())) if found else set()
    if not common:
        return {}
    chosen = {size: [pieces[number] for number in sorted(common)] for size, pieces in sorted(found.items())}
    seconds = {name: {size: sum(p[name] for p in pieces) for size, pieces in chosen.items()} for name in SIDES}
    samples = sum(piece["samples"] for piece in next(iter(chosen.values())))
    best = {name: samples / min(times.values()) for name, times in seconds.items()}
    tokens = sorted(row.tokens for row in rows)
    return {
        "prompt_tokens": [tokens[0], statistics.median(tokens), tokens[-1]],
        "samples": samples,
        "seconds": seconds,
        "samples_per_s": best,
        "ratio": best["ours"] / best["hf"],
        "equal_answers": sum(p["equal"] for pieces in chosen.values() for p in pieces) / samples / len(chosen),
    }
