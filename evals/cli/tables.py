"""Tables in the terminal. What comes from outside is shown as it is: never as markup, without control characters.

A table that is too wide loses whole columns, those of least importance first; names and numbers are never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evals.safe_text import plain_text

GAP, EDGES = 3, 2
"""Columns of the terminal between two columns of a table, and outside of them."""


@dataclass(frozen=True)
class Column:
    """cells: plain values; a `Text` keeps its style. left: aligned to the left, else it holds numbers.

    rank: 0 stays whatever the width; of the others the highest goes first. least: width from which on the cells may be
    broken between words; None: they stand on one line.
    """

    name: str
    cells: Sequence[object]
    left: bool = False
    rank: int = 0
    least: int | None = None

    @property
    def width(self) -> int:
        """That it needs."""
        whole = max(cell_len(plain(text).plain) for text in (self.name, *self.cells))
        return whole if self.least is None else min(whole, max(self.least, cell_len(self.name)))


def plain(value: object) -> Text:
    """A value as text: without markup, each unsafe character as its escape."""
    return value if isinstance(value, Text) else Text(plain_text(str(value)).replace("\t", r"\t"))


def new_table(columns: Sequence[str], left: Iterable[str] = ()) -> Table:
    """An empty table. left: columns that are aligned to the left; the others hold numbers."""
    aligned = set(left)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in aligned else "right")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of plain cells; a `Text` keeps its style."""
    table.add_row(*map(plain, cells))


def fitted(columns: Sequence[Column], width: int) -> tuple[RenderableType, list[str]]:
    """A table of at most `width` columns of the terminal, and the names of what had to be left out.

    Where not even what must stay fits, the values of the first column become headings of their rows.
    """
    kept = list(columns)
    while _width(kept) > width and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    lost = [column.name for column in columns if column not in kept]
    return (_table(kept) if _width(kept) <= width else _under_headings(kept)), lost


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1) + EDGES


def _table(columns: Sequence[Column], least: Sequence[int] = ()) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column, narrowest in zip(columns, least or [0] * len(columns), strict=True):
        one_line = column.least is None
        justify = "left" if column.left else "right"
        table.add_column(column.name, justify=justify, no_wrap=one_line, overflow="fold", min_width=narrowest or None)  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in columns), strict=True):
        add_row(table, *row)
    return table


def _under_headings(columns: Sequence[Column]) -> Group:
    """The rows below the value of the first column, one table for each run of equal values."""
    first, *rest = columns
    widths = [column.width for column in rest]
    starts = [at for at, name in enumerate(first.cells) if not at or name != first.cells[at - 1]]
    parts: list[RenderableType] = []
    for start, end in zip(starts, [*starts[1:], len(first.cells)], strict=True):
        parts.append(plain(first.cells[start]))
        parts.append(_table([replace(column, cells=column.cells[start:end]) for column in rest], widths))
    return Group(*parts)
