"""Tables show what comes from outside as it is, and cut neither names nor numbers where a terminal is narrow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from evals.cli.overview import show_overview
from evals.cli.pipes import PipeConsole
from evals.cli.tables import Column, add_row, fitted, new_table
from evals.cli.terminal import show_results


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
    show_results(PipeConsole(out, width=200), [{**cell, "n": 1, "metric": "score", "metrics": {"score": 1.0}}], "")
    text = out.getvalue()
    assert "[/bold] \\u202eevil" in text
    assert "\u202e" not in text


def test_a_large_time_has_no_exponent() -> None:
    rows = [cell(model, "needle", length, ttft_s=193.4) for model in MODELS for length in (1024, 2048)]
    out = io.StringIO()
    assert show_overview(PipeConsole(out, width=200), rows, "")
    text = out.getvalue()
    assert "190" in text
    assert "e+" not in text


MODELS = ("full-135m", "sharedllm-135m", "expectedattention-llama3.1-8b-instruct")


def cell(model: str, task: str, length: int, **more: Any) -> dict[str, Any]:
    metrics = {"exact_match": 0.8125, "digit_accuracy": 0.9107, "strict_match": 0.8125}
    costs = {"ttft_s": 12.34, "tpot_ms": 159.2, "peak_gib": 1.649, "state_gib": 0.1737}
    known = {"model": model, "task": task, "length": length, "status": "ok", "n": 16, "metric": "exact_match"}
    intervals = {"exact_match": [0.5721, 0.9346]}
    return {**known, "beyond_window": False, "metrics": metrics, "intervals": intervals, **costs, **more}


def printed(rows: Sequence[dict[str, Any]], width: int) -> str:
    out = io.StringIO()
    show_results(PipeConsole(out, width=width), rows, "runs/x/summary.csv")
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("models", [MODELS[:2], MODELS], ids=["short names", "long names"])
def test_a_narrow_table_drops_columns_and_never_cuts_a_name_or_a_number(width: int, models: Sequence[str]) -> None:
    rows = [cell(model, task, 131072) for model in models for task in ("needle", "infinitebench:longbook_choice_eng")]
    text = printed(rows, width)
    table = text.partition("No room for")[0]
    assert all(len(line.rstrip()) <= width for line in table.splitlines())
    assert "\u2026" not in text, "an ellipsis stands for what was cut"
    words = table.split()
    for row in rows:
        assert {row["model"], row["task"], "131072", "exact_match", "0.8125"} <= set(words)
    shown = {
        "12.34": "TTFT s",
        "159.2": "ms/token",
        "1.649": "peak GiB",
        "0.1737": "state GiB",
        "0.9346": "95 % interval",
    }
    for number, column in shown.items():
        assert (number in words) == (column not in text.partition("No room for")[2]), column
    assert ("12.34" in words) or width == 80


def test_a_wide_table_has_every_column() -> None:
    assert "No room for" not in printed([cell("sharedllm-135m", "needle", 8192)], 200)


def test_a_table_too_narrow_for_what_must_stay_puts_names_above_their_rows() -> None:
    name = "a" * 60
    table, lost = fitted([Column("model", [name, name], left=True), Column("score", ["0.1234567"] * 2)], 50)
    out = io.StringIO()
    Console(file=out, width=50, soft_wrap=True).print(table)
    assert lost == []
    assert out.getvalue().replace("\n", "").count(name) == 1
    assert out.getvalue().count("0.1234567") == 2


def test_a_status_that_says_something_stays() -> None:
    text = printed([cell("a" * 40, "needle", 8192, status="failed", metrics={})], 80)
    assert "failed" in text


def test_times_whose_repeats_disagree_are_marked() -> None:
    text = printed([cell("a", "needle", 8192, unsteady=True)], 200)
    assert "~12.34" in text
    assert "the machine was busy" in text
    assert "may be disturbed too" in text, "repeats that agree prove nothing"
    assert "~" not in printed([cell("a", "needle", 8192)], 200)


def test_the_overview_has_a_column_per_length_and_a_row_per_model() -> None:
    rows = [cell(model, "needle", length) for model in MODELS[:2] for length in (2048, 8192)]
    rows += [cell("full-135m", "needle", 12288, beyond_window=True, metrics={"exact_match": 0.0})]
    rows += [cell("sharedllm-135m", "needle", 12288, status="oom", metrics={})]
    out = io.StringIO()
    assert show_overview(PipeConsole(out, width=80), rows, "runs/x/report.html")
    lines = out.getvalue().splitlines()
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert len(lines) < 20
    [head] = [line.split() for line in lines if "2,048" in line]
    assert head == ["model", "2,048", "8,192", "12,288"]
    assert ["needle,", "exact_match", "full-135m", "0.812", "0.812", "0*"] in [line.split() for line in lines]
    assert ["sharedllm-135m", "0.812", "0.812", "oom"] in [line.split() for line in lines]


def test_one_length_or_too_many_make_no_overview() -> None:
    out = PipeConsole(io.StringIO(), width=80)
    assert not show_overview(out, [cell("a", "needle", 8192)], "")
    assert not show_overview(out, [cell("a", "needle", 1024 * n) for n in range(1, 30)], "")
