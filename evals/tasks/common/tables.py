"""Rows of Parquet and Arrow files, and of folders that `datasets` has saved, through the library `datasets`.

It streams: a file of many gigabytes is never held. (JSON Lines are read by `evals.tasks.common.rows`.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from evals.errors import UserError
from evals.tasks.common.files import require_regular, shown

SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
"""File suffixes and the names that `datasets` has for these formats."""
MOST_NAMES = 8
"""Fields of a row that are told."""


def is_table(path: Path) -> bool:
    """Whether a file is read here."""
    return path.suffix in SUFFIXES


def read(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, str, object]]:
    """Numbers (from 1) of a file's rows, with the name and the value of the first of `columns` that the file has.

    Raises UserError for a file that cannot be read or has none of the columns.
    """
    for number, row in rows(path):
        column = next((name for name in columns if name in row), None)
        if column is None:
            raise lacking(shown(path), "column", columns, row)
        yield number, column, row[column]


def lacking(where: str, kind: str, wanted: Sequence[str], found: Iterable[str]) -> UserError:
    """Of a row that has none of the fields or columns (`kind`) in which a text stands: another benchmark's, mostly."""
    names = ", ".join(f"{name:.40}" for name in list(found)[:MOST_NAMES]) or "none"
    return UserError(
        f"{where} has no {kind} {' or '.join(f'`{name}`' for name in wanted)} (it has {names}): give --data-dir a "
        "folder that holds texts only."
    )


def rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Numbers (from 1) and rows of a file. Raises UserError for one that cannot be read."""
    import pyarrow

    number = 0
    try:
        require_regular(path)
        for row in _stream(path):
            number += 1
            yield number, row
    except UnicodeDecodeError as error:
        where = f"{shown(path)}, row {number + 1}"
        raise UserError(f"{where} is not UTF-8 (byte {error.start}): fix or delete the row.") from error
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        form = SUFFIXES[path.suffix].capitalize()
        raise UserError(f"{shown(path)} cannot be read as {form} ({reason}): download it again.") from error


def _stream(path: Path) -> Iterator[Mapping[str, object]]:
    import datasets
    import pyarrow.parquet

    if path.suffix == ".parquet" and not pyarrow.parquet.ParquetFile(path).metadata.num_rows:
        return  # `datasets` takes the number of rows for a batch size
    with open(path, "rb"):  # a missing file is an OSError with a reason, not a list of patterns
        pass
    with tempfile.TemporaryDirectory() as cache:  # nothing is cached, but lock files are left there
        loaded = datasets.load_dataset(
            SUFFIXES[path.suffix], data_files=str(path), split="train", streaming=True, cache_dir=cache
        )
        yield from cast("Iterator[Mapping[str, object]]", iter(loaded))
