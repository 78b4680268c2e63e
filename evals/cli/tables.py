"""Tables in the terminal. What comes from outside is shown as it is: never as markup, without control characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from evals.safe_text import plain_text


def plain(value: object) -> Text:
    """A value as text: without markup, each unsafe character as its escape."""
    return Text(plain_text(str(value)).replace("\t", r"\t"))


def new_table(columns: Sequence[str], left: Iterable[str] = ()) -> Table:
    """An empty table. left: columns that are aligned to the left; the others hold numbers."""
    aligned = set(left)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in aligned else "right")
    return table


def add_row(table: Table, *cells: object) -> None:
    """Add a row of plain cells; a `Text` keeps its style."""
    table.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in cells))
