"""Tables show what comes from outside as it is."""

from __future__ import annotations

import io

from rich.console import Console

from evals.cli.tables import add_row, new_table
from evals.cli.terminal import results_table


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


def test_names_of_models_in_the_results_are_text() -> None:
    """A preset may be called `[/bold]`, which Rich's markup would refuse."""
    cell = {"model": "[/bold] \u202eevil", "task": "needle", "length": 512, "status": "ok", "beyond_window": False}
    out = io.StringIO()
    Console(file=out, width=200).print(results_table([{**cell, "n": 1, "metric": "score", "metrics": {"score": 1.0}}]))
    text = out.getvalue()
    assert "[/bold] \\u202eevil" in text
    assert "\u202e" not in text
