"""Tables show what comes from outside as it is."""

from __future__ import annotations

import io

from rich.console import Console

from evals.cli.tables import add_row, new_table


def test_markup_and_control_characters_stay_text() -> None:
    table = new_table(("name", "score"), left=("name",))
    add_row(table, "[bold]a[/b] [/]", 1)
    add_row(table, "red\x1b[31m \u202eabc\u202c tab\t", 0.5)
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    text = out.getvalue()
    assert "[bold]a[/b] [/]" in text
    assert "red\\x1b[31m \\u202eabc\\u202c tab\\t" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
