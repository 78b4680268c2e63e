"""A comparison as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evals.report.compare import Difference, Refusal
from evals.report.effective import THRESHOLD, Effective
from evals.report.stats.interval import LEVEL
from evals.safe_text import plain_line

HEAD = (
    "task", "metric", "pairs", "first", "second", "difference", "interval", "p", "test", "detectable", "verdict",
)  # fmt: skip


def verdicts(
    found: Sequence[Difference],
    refused: Sequence[Refusal],
    lengths: Sequence[Effective] = (),
    threshold: float = THRESHOLD,
) -> str:
    """One line per task and length, what could not be compared, and the effective lengths at the threshold."""
    lines = []
    for pair in dict.fromkeys((d.first_model, d.second_model) for d in found):
        mine = [d for d in found if (d.first_model, d.second_model) == pair]
        lines += [plain_line(f"{pair[1]} minus {pair[0]}"), *_table(mine), ""]
    lines += [plain_line(f"Not compared: {_where(r)}: {r.reason}.") for r in refused]
    if lengths:
        lines += ["", f"Effective length: the score stays at {100 * threshold:.4g} % or more of that at the shortest."]
        lines += [plain_line(f"{e.task}, {e.model}: {e}") for e in lengths] + [""]
    confidence = found[0].confidence if found else 1 - LEVEL
    adjusted = "" if len(found) == 1 else f", adjusted by Holm for the {len(found)} lines"
    lines.append(
        f"p: two-sided{adjusted}. Interval: {100 * confidence:.4g} %, the inversion of the same test: it leaves out 0 "
        f"exactly where p is at most {LEVEL:g}. Detectable: the true difference that this many samples show 4 times in "
        f"5 at p < {LEVEL:g}, before any adjustment."
    )
    return "\n".join(lines)


def _table(rows: Sequence[Difference]) -> list[str]:
    body = [
        [
            _where(d),
            d.metric,
            f"{d.n} in {d.groups}",
            f"{d.first:.4g}",
            f"{d.second:.4g}",
            f"{d.difference:+.4g}",
            "none" if np.isnan(d.low) else f"{d.low:+.3g} to {d.high:+.3g}",
            f"{d.p_holm:.2g}",
            d.test,
            _detectable(d),
            d.verdict,
        ]
        for d in rows
    ]
    lines = [[plain_line(text) for text in line] for line in ([*HEAD], *body)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _detectable(row: Difference) -> str:
    if np.isfinite(row.smallest):
        return f"{row.smallest:.3g}"
    if row.groups < 2:
        return "too few groups"
    return "unknown" if np.isnan(row.low) else "too few pairs"


def _where(row: Difference | Refusal) -> str:
    return row.task if row.length is None else f"{row.task} {row.length}"
