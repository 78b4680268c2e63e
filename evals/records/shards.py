"""The shards of a grid as one run folder: what a run of the whole grid would have written.

Lines of `samples.jsonl` are copied as they are. The result can be reported, compared, and continued by the command of
the grid without `--shard`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from evals.errors import UserError
from evals.records.disk import replace_file
from evals.records.json import Json, dumps
from evals.records.models import RunMeta, ShardEntry
from evals.records.read import RUN_FILE, SAMPLES_FILE, read_answers, read_run, whole_lines
from evals.records.run_files import RUN_FILE_NAME
from evals.records.store import LOCK_FILE

NAME = re.compile(r"shard-([0-9]+)-of-([0-9]+)")


def shard_folder(grid: Path, index: int, count: int) -> Path:
    """Where the index-th of count shards of a grid is, below the grid's folder."""
    return grid / f"shard-{index}-of-{count}"


def shards_below(folder: Path) -> list[Path]:
    """The run folders of shards right below a folder that is no run itself, by number; empty where there are none."""
    if (folder / RUN_FILE).exists() or not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    found.sort(key=lambda entry: (int(entry[0][2]), int(entry[0][1])))
    return [path for _, path in found if (path / RUN_FILE).exists()]


class Piece(NamedTuple):
    """A shard on the disk."""

    folder: Path
    meta: RunMeta
    entry: ShardEntry


@dataclass(frozen=True)
class Merged:
    """A merge. incomplete: sentences about shards that are missing or not finished."""

    folder: Path
    incomplete: list[str] = field(default_factory=list)


def merge_shards(folders: Sequence[Path], output: Path) -> Merged:
    """Write the run that the shards are parts of. An earlier merge of the same grid is replaced.

    Raises UserError where the folders are not shards of one grid, where two of them answered the same sample
    differently, and where `output` holds something else.
    """
    pieces = _distinct([_piece(folder) for folder in folders])
    try:
        output.mkdir(parents=True, exist_ok=True)
        with FileLock(output / LOCK_FILE).acquire(timeout=0):
            _require_free(output, pieces[0].entry.key)
            sizes = _copy_lines(pieces, output)
            replace_file(output / RUN_FILE, dumps(_meta(pieces, sizes).as_json(), indent=1).encode())
            _copy_run_file(pieces[0].folder, output)
    except Timeout as error:
        raise UserError(f"Another process writes to {output}: wait for it or choose another --output.") from error
    except OSError as error:
        raise UserError(
            f"The shards cannot be merged into {output} ({error.strerror or error}): choose another --output."
        ) from error
    return Merged(output, [*_missing(pieces), *_unfinished(pieces)])


def _piece(folder: Path) -> Piece:
    meta = read_run(folder)
    if meta.shard is None:
        raise UserError(f"{folder} is a whole run, not a shard: merge shards of one grid, or name the run alone.")
    return Piece(folder, meta, meta.shard)


def _distinct(pieces: Sequence[Piece]) -> list[Piece]:
    """The shards by number, each once. Raises UserError for shards of different grids, and for different copies."""
    first = pieces[0]
    found: dict[int, Piece] = {}
    for piece in pieces:
        if (piece.entry.key, piece.entry.count, piece.entry.split) != (
            first.entry.key,
            first.entry.count,
            first.entry.split,
        ):
            raise UserError(
                f"{first.folder} and {piece.folder} are not parts of one split of one grid: merge shards that the same "
                "command made."
            )
        other = found.setdefault(piece.entry.index, piece)
        if other is not piece:
            _require_same(other.folder, piece.folder)
    return [found[index] for index in sorted(found)]


def _require_same(first: Path, second: Path) -> None:
    """Raises UserError where two copies of a shard do not have the same records."""
    answers = [dict(read_answers(folder)) for folder in (first, second)]  # the newest of each sample
    for key in answers[0].keys() | answers[1].keys():
        if answers[0].get(key) != answers[1].get(key):
            raise UserError(
                f"The cell {key[0]} is in {first} and in {second} with different records (sample {key[1]}): leave one "
                "of the folders out."
            )


def _require_free(output: Path, key: str) -> None:
    """Raises UserError where a merge would overwrite something else than an earlier merge."""
    if not (output / RUN_FILE).exists():
        if (output / SAMPLES_FILE).exists():
            raise UserError(f"{output} holds records without a {RUN_FILE}: choose another --output.")
        return
    before = read_run(output)
    merged = sum(int(part.get("bytes", -1)) for part in before.merged)
    if before.key != key or not before.merged:
        raise UserError(f"{output} holds another run: choose another --output.")
    if merged != (output / SAMPLES_FILE).stat().st_size:
        raise UserError(
            f"The run in {output} went on after an earlier merge, which another would undo: choose another --output."
        )


def _copy_lines(pieces: Sequence[Piece], output: Path) -> list[int]:
    """Copy the complete lines of every shard; returns how many bytes came from each."""
    draft, sizes = output / f".{SAMPLES_FILE}", []
    with draft.open("wb") as target:
        for piece in pieces:
            source, begin = piece.folder / SAMPLES_FILE, target.tell()
            if source.exists():
                with source.open("rb") as file:
                    shutil.copyfileobj(file, target, 1 << 20)
                # a shard that still runs may be in the middle of a line
                target.truncate(begin + whole_lines(source, target.tell() - begin))
                target.seek(0, 2)
            sizes.append(target.tell() - begin)
    draft.replace(output / SAMPLES_FILE)
    return sizes


def _copy_run_file(shard: Path, output: Path) -> None:
    """The run file of a shard is that of the whole grid. Shards of earlier versions have none."""
    if (shard / RUN_FILE_NAME).is_file():
        replace_file(output / RUN_FILE_NAME, (shard / RUN_FILE_NAME).read_bytes())


def _meta(pieces: Sequence[Piece], sizes: Sequence[int]) -> RunMeta:
    """`run.json` of the whole: cells in the order of the grid, models in that of the cells."""
    placed = sorted(
        (place, cell, state)
        for piece in pieces
        for place, (cell, state) in zip(piece.entry.places, piece.meta.cells.items(), strict=True)
    )
    known = {name: model for piece in pieces for name, model in piece.meta.models.items()}
    names = dict.fromkeys(state.model for _, _, state in placed)
    first = pieces[0].meta
    return first.model_copy(
        update={
            "key": pieces[0].entry.key,
            "created": min(piece.meta.created for piece in pieces),
            "cells": {cell: state for _, cell, state in placed},
            "models": {name: known[name] for name in names if name in known},
            "resumed": [],
            "timing": [timing for piece in pieces for timing in piece.meta.timing],
            "merged": [_source(piece, size) for piece, size in zip(pieces, sizes, strict=True)],
            "shard": None,
        }
    )


def _source(piece: Piece, size: int) -> Json:
    shard = f"{piece.entry.index} of {piece.entry.count}"
    return {"path": piece.folder.name, "shard": shard, "bytes": size, "environment": piece.meta.environment}


def _missing(pieces: Sequence[Piece]) -> Iterator[str]:
    count = pieces[0].entry.count
    absent = [index for index in range(1, count + 1) if index not in {piece.entry.index for piece in pieces}]
    if absent:
        cells = pieces[0].entry.cells - sum(len(piece.entry.places) for piece in pieces)
        numbers = ", ".join(map(str, absent[:20])) + (", ..." if len(absent) > 20 else "")
        which = "Shard" if len(absent) == 1 else "Shards"
        are = "is" if len(absent) == 1 else "are"
        yield f"{which} {numbers} of {count} {are} missing, with {cells} cells: run them, then this command again."


def _unfinished(pieces: Sequence[Piece]) -> Iterator[str]:
    for piece in pieces:
        cells = piece.meta.cells.values()
        left = sum(state.status == "pending" for state in cells)
        if left:
            yield (
                f"Shard {piece.entry.index} of {piece.entry.count} is not finished ({left} of {len(cells)} cells): the "
                "command of its job goes on with it."
            )
