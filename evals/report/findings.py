"""What a run shows, in sentences made from its statistics: who is best where, where each breaks, what is open."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evals.report.contests import Column, Contest
from evals.report.data import Data
from evals.report.effective import THRESHOLD, Effective, effective_lengths
from evals.report.words import listed, metric_label, tokens, two_digits

MOST = 8
"""Contests with sentences of their own; a page of more would be read by nobody."""
MOST_UNDECIDED = 4
BROKEN = 2.0
"""A metric that is better when lower counts as broken from this multiple of its value at the shortest length on."""
COSTS = {
    "total_s": ("a request takes", "s"),
    "ttft_s": ("the first token takes", "s"),
    "tpot_ms": ("each further token takes", "ms"),
    "peak_gib": ("peak memory is", "GiB"),
}


@dataclass(frozen=True)
class Finding:
    """Sentences about one contest, or about costs."""

    title: str
    sentences: list[str]


def verdict(found: Sequence[Contest]) -> str:
    """The whole run in one sentence or two."""
    if not found:
        return "This run measured costs only: there are no scores to compare."
    best = [b for contest in found for b in contest.best.values()]
    if not best:
        return "No two models have scores in the same task and length, so there is nothing to compare."
    where = f"{len(best)} combinations of task and length" if len(best) > 1 else "the one task and length"
    won = Counter(b.model for b in best if b.shown).most_common()
    if not won:
        return f"No model is shown to be better than every other in {'any of the ' if len(best) > 1 else ''}{where}."
    (first, count), *others = won
    text = f"{first} is better than every other model in {count} of {where}"
    text += "".join(f", {model} in {count}" for model, count in others)
    open_ = len(best) - sum(count for _, count in won)
    return text + (f"; in {open_} no model is shown to be." if open_ else ".")


def findings(data: Data, found: Sequence[Contest], threshold: float = THRESHOLD) -> list[Finding]:
    """For each contest what its tests show; then what requests cost."""
    lengths = effective_lengths(data, threshold)
    result = [Finding(contest.title, list(_sentences(contest, lengths, threshold))) for contest in found[:MOST]]
    if len(found) > MOST:
        result.append(Finding("more", [f"{len(found) - MOST} more tasks have their numbers below."]))
    costs = _costs(data)
    return [f for f in [*result, Finding("cost", [costs] if costs else [])] if f.sentences]


def name(contest: Contest, column: Column) -> str:
    """A column of a contest: its length, or the task in the benchmark."""
    if not contest.by_length:
        return column.task.partition(":")[2]
    return "own length" if column.length is None else tokens(column.length)


def _sentences(contest: Contest, lengths: Sequence[Effective], threshold: float) -> Iterator[str]:
    yield from _best(contest)
    yield from _undecided(contest)
    if contest.by_length:
        yield from _broken(contest, [e for e in lengths if e.task == contest.title], threshold)
        yield from _grown(contest)
    differing, pairs = contest.differing()
    if pairs > 1:
        yield f"Of {pairs} pairs of models {differing or 'none'} {'is' if differing == 1 else 'are'} shown to differ."


def _best(contest: Contest) -> Iterator[str]:
    shown: dict[str, list[Column]] = {}
    for column, best in contest.best.items():
        if best.shown:
            shown.setdefault(best.model, []).append(column)
    for model, columns in shown.items():
        span = _span([contest.scored(column)[model] for column in columns])
        metrics = listed(dict.fromkeys(metric_label(c.metric, c.higher_is_better) for c in columns))
        p = _p(max(contest.best[column].p for column in columns), "at most " if len(columns) > 1 else "")
        where = _at(contest, columns)
        yield f"{model} has the best {metrics}{where}: {span}, better than that of every other model (p {p})."


def _undecided(contest: Contest) -> Iterator[str]:
    """For each leader and the model that comes closest to it the columns where it is not shown to be better."""
    pairs: dict[tuple[str, str], list[Column]] = {}
    for column, best in contest.best.items():
        if not best.shown:
            pairs.setdefault((best.model, best.second), []).append(column)
    clauses = [_clause(contest, columns) for columns in list(pairs.values())[:MOST_UNDECIDED]]
    more = sum(map(len, list(pairs.values())[MOST_UNDECIDED:]))
    if clauses:
        yield f"Nothing is decided{';'.join(clauses)}{f'; nor in {more} more cases' if more else ''}."


def _clause(contest: Contest, columns: Sequence[Column]) -> str:
    found = [contest.best[column] for column in columns]
    best, leads = found[0], [abs(best.difference) for best in found]
    said = f"{_at(contest, columns)}: {best.model}"
    if not any(leads):
        return f"{said} and {best.second} tie"
    least = [best.detectable for best in found]
    if any(map(math.isnan, least)):
        return f"{said} and {best.second} were not asked the same"
    enough = "too few samples to show any" if math.isinf(min(least)) else f"detectable: {_span(least)}"
    p = _p(min(best.p for best in found), "at least " if len(columns) > 1 else "")
    return f"{said} is ahead of {best.second} by {_span(leads)} (p {p}; {enough})"


def _broken(contest: Contest, lengths: Sequence[Effective], threshold: float) -> Iterator[str]:
    """Where scores that are better when higher fall below a share of the one at the shortest length."""
    measured: dict[str, list[int]] = defaultdict(list)
    for model, cell in contest.cells:
        if cell.length:
            measured[model].append(cell.length)
    falls: dict[int, list[str]] = {}
    holds: dict[int, list[str]] = {}
    floor: dict[int, list[str]] = {}
    shortest = {e.shortest for e in lengths}
    for e in lengths:
        if e.length is None:
            if e.score is not None and len(measured[e.model]) > 1:
                floor.setdefault(e.shortest, []).append(e.model)
        elif beyond := [length for length in measured[e.model] if length > e.length]:
            falls.setdefault(min(beyond), []).append(e.model)
        elif len(measured[e.model]) > 1:
            holds.setdefault(e.longest, []).append(e.model)
    where = f" at {tokens(*shortest)}" if len(shortest) == 1 else " at the shortest length"
    below = f"{100 * threshold:.4g} % of {{}}{where}"
    for length, models in sorted(falls.items()):
        fall, own = ("falls", "its own score") if len(models) == 1 else ("fall", "their own scores")
        yield f"At {tokens(length)} {listed(models)} {fall} below {below.format(own)}."
    for length, models in sorted(holds.items()):
        keep, own = ("keeps", "its own score") if len(models) == 1 else ("keep", "their own scores")
        yield f"Up to {tokens(length)} {listed(models)} {keep} at least {below.format(own)}."
    for length, models in sorted(floor.items()):
        are, break_ = ("is", "it breaks") if len(models) == 1 else ("are", "they break")
        yield (
            f"At {tokens(length)} {listed(models)} {are} not shown to score above chance, "
            f"so where {break_} is not judged."
        )


def _grown(contest: Contest) -> Iterator[str]:
    """Where what is better when lower grows to a multiple of its value at the shortest length."""
    first, *others = contest.columns
    if first.higher_is_better or not others:
        return
    base = contest.scored(first)
    clauses = []
    for model, value in base.items():
        later = [(c, score) for c in others if (score := contest.scored(c).get(model)) is not None]
        worse = [(c, score) for c, score in later if score >= BROKEN * value > 0]
        if worse:
            column, score = worse[0]
            clauses.append(f"{model} at {name(contest, column)} ({score:.3g} after {value:.3g})")
    label = metric_label(first.metric, True)
    told = listed(clauses) if clauses else "No model"
    reach, own = ("reach", "their") if len(clauses) > 1 else ("reaches", "its")
    yield f"{told} {reach} {BROKEN:g} times {own} own {label} at {name(contest, first)}."


def _costs(data: Data) -> str:
    """The cheapest and dearest model at the longest length at which two were timed."""
    rows = data.costs
    timed = rows[rows["ttft_s"].notna()]
    if timed.empty:
        return ""
    counts = timed.groupby("length")["model"].nunique()
    length = int(counts[counts >= min(2, counts.max())].index.max())
    mine, clauses = timed[timed["length"] == length], []
    for quantity, (label, unit) in COSTS.items():
        if quantity in mine and len(known := mine[mine[quantity].notna()]) > 1:
            low, high = (known.loc[known[quantity].astype(float).agg(which)] for which in ("idxmin", "idxmax"))
            least, most = (f"{two_digits(row[quantity])} {unit} ({row['model']})" for row in (low, high))
            clauses.append(f"{label} {least} to {most}")
    lost = list(dict.fromkeys(rows[(rows["status"] == "oom") & (rows["length"] == length)]["model"]))
    if lost:
        clauses.append(f"{listed(lost)} {'runs' if len(lost) == 1 else 'run'} out of memory")
    return f"At {tokens(length)} {'; '.join(clauses)}. These are cold requests, without intervals." if clauses else ""


def _at(contest: Contest, columns: Sequence[Column]) -> str:
    if len(contest.columns) == 1:
        return ""
    return f" {'at' if contest.by_length else 'in'} {listed(name(contest, column) for column in columns)}"


def _p(value: float, bound: str = "") -> str:
    return "< 0.0001" if value < 0.0001 else f"{bound if bound and value < 1 else '= '}{value:.2g}"


def _span(values: Sequence[float]) -> str:
    """`0.85 to 1`; without those that are infinite."""
    low, high = (f"{end:.3g}" for end in (min(values), max(value for value in values if not math.isinf(value))))
    return low if low == high else f"{low} to {high}"
