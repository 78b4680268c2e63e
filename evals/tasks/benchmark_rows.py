"""Checks of rows that several benchmarks share, in addition to those of the types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from evals.errors import UserError
from evals.tasks.common.rows import Visible

Row = TypeVar("Row")
REPAIR = "fix the row or download the file again"


def _plain(text: str) -> str:
    if "\x00" in text:
        raise ValueError("it holds a NUL character")
    return text


Plain = Annotated[str, AfterValidator(_plain)]
"""Text of a question or an answer, maybe empty. Contexts may hold whatever was extracted from a document."""
PlainVisible = Annotated[Visible, AfterValidator(_plain)]
"""As `Plain`, with something in it besides white space."""


def one_or_more(numbered: Iterable[tuple[int, Row]], file: object) -> Iterator[tuple[int, Row]]:
    """Numbers and rows (or lines) of a file as they come. Raises UserError at the end of a file without any."""
    empty = True
    for entry in numbered:
        empty = False
        yield entry
    if empty:
        raise UserError(f"{file} has no rows: download it again.")


def first(rows: Iterable[Row], limit: int | None) -> Iterator[Row]:
    """The first `limit` rows, or all of them; no row after them is read."""
    if limit is None:
        yield from rows
        return
    for _, row in zip(range(limit), rows, strict=False):
        yield row
