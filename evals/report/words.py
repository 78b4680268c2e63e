"""How tables, plots and sentences write lengths, metrics and lists."""

from __future__ import annotations

from collections.abc import Iterable


def tokens(length: float) -> str:
    """A length as people write it: 8192 is 8K, 1048576 is 1M."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if length >= size:
            return f"{length / size:.4g}{unit}"
    return f"{length:.0f}"


def place(task: str, length: int | None) -> str:
    """`needle at 8192 tokens`; the task alone where its rows have lengths of their own."""
    return task if length is None else f"{task} at {length} tokens"


def two_digits(value: float) -> str:
    """A time or size in two significant digits and without an exponent: 0.034, 6.2, 190."""
    return f"{float(f'{value:.2g}'):g}"


def metric_label(metric: str, higher_is_better: bool) -> str:
    """A metric in words, with its direction if lower is better."""
    return {"ppl": "perplexity"}.get(metric, metric.replace("_", " ")) + (
        "" if higher_is_better else " (lower is better)"
    )


def listed(items: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
