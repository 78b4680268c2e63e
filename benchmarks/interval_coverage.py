"""How often the intervals of a report cover the truth, and how often `compare` finds the difference that it calls
detectable: by simulation, with the very functions that reports use.

python benchmarks/interval_coverage.py [--trials 2000] [--seed 0]

Prints two Markdown tables. About five minutes on two cores with the defaults; a margin of 1 % on each entry.
"too few": the report gives no interval for most such cells.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from evals.records.models import Answer, SampleRecord
from evals.report.stats.clusters import clustered_mean
from evals.report.stats.interval import Interval
from evals.report.stats.means import mean_interval
from evals.report.stats.paired_tests import PairedTest, paired_scores, paired_statistic
from evals.report.stats.statistics import statistic_intervals

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Codes, float]]
"""Values of one simulated cell, their clusters, and the true mean."""
PairedDraw = Callable[[np.random.Generator, int, float], tuple[Floats, Floats, Codes]]
"""Scores of two models that differ by the given amount, and their clusters."""

CLUSTERS = (2, 3, 5, 10, 20, 50)
PER_CLUSTER = 5


# ---- One model ---------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, n: int) -> tuple[Floats, Codes, float]:
    """Independent values, positive and negative."""
    return rng.normal(0.0, 1.0, n), np.arange(n), 0.0


def clustered_normal(rng: np.random.Generator, n: int, sizes: str = "equal") -> tuple[Floats, Codes, float]:
    """Values whose clusters share a third of the variance."""
    codes = cluster_of(rng, n, sizes)
    return rng.normal(0.0, 0.7, n)[codes] + rng.normal(0.0, 1.0, len(codes)), codes, 0.0


def skewed(rng: np.random.Generator, n: int) -> tuple[Floats, Codes, float]:
    """Positive, exponentially distributed values, as latencies are."""
    return rng.exponential(1.0, n), np.arange(n), 1.0


def binary(rng: np.random.Generator, n: int, share: float) -> tuple[Floats, Codes, float]:
    """Independent 0/1 scores."""
    return (rng.random(n) < share).astype(float), np.arange(n), share


def clustered_binary(rng: np.random.Generator, n: int, share: float, sizes: str) -> tuple[Floats, Codes, float]:
    """0/1 scores whose clusters differ in difficulty (beta-binomial, correlation 0.25)."""
    codes = cluster_of(rng, n, sizes)
    difficulty = rng.beta(3 * share, 3 * (1 - share), n)
    return (rng.random(len(codes)) < difficulty[codes]).astype(float), codes, share


def graded(rng: np.random.Generator, n: int) -> tuple[Floats, Codes, float]:
    """Independent scores between 0 and 1 with most of their mass at the ends, as F1 has."""
    return rng.beta(0.5, 0.8, n), np.arange(n), 0.5 / 1.3


def clustered_graded(rng: np.random.Generator, n: int) -> tuple[Floats, Codes, float]:
    """Such scores in clusters that differ in difficulty."""
    codes = cluster_of(rng, n, "equal")
    a, b = 0.5 + rng.beta(2, 2, n), 0.5 + rng.beta(2, 2, n)
    return rng.beta(a[codes], b[codes]), codes, 0.5


def any_share(rng: np.random.Generator, n: int) -> tuple[Floats, Codes, float]:
    """Independent 0/1 scores whose share is itself drawn: the average over shares, as single ones are covered more
    and less often by turns (counts are whole numbers).
    """
    return binary(rng, n, rng.uniform(0.02, 0.98))


def cluster_of(rng: np.random.Generator, n: int, sizes: str) -> Codes:
    """The cluster of each sample: PER_CLUSTER samples each, or geometric sizes with that mean."""
    counts = np.full(n, PER_CLUSTER) if sizes == "equal" else rng.geometric(1 / PER_CLUSTER, n)
    return np.repeat(np.arange(n), counts)


def covers(found: Interval, truth: float) -> bool | None:
    """Whether an interval covers the truth; None where the report gives none."""
    return None if np.isnan(found.low) else found.low <= truth <= found.high


def mean_covers(draw: Draw, rng: np.random.Generator, n: int) -> bool | None:
    values, codes, truth = draw(rng, n)
    return covers(mean_interval(values, clustered_mean(values, codes)), truth)


def perplexity_covers(rng: np.random.Generator, n: int) -> bool | None:
    """Documents of unequal length whose losses follow a gamma distribution with a mean of 2 nats."""
    counts = 1 + rng.geometric(0.3, n)
    losses = rng.gamma(8.0, 0.25, n)
    samples = [
        record(f"{document}-{i}", str(document), losses[document] + rng.normal(0, 0.1))
        for document, count in enumerate(counts)
        for i in range(count)
    ]
    return covers(statistic_intervals(samples, perplexity)["ppl"], math.exp(2.0))


def record(name: str, group: str, nll: float) -> SampleRecord:
    return SampleRecord(cell="c", sample=name, group=group, metrics={"nll": nll}, output=Answer(text="", tokens=0))


def perplexity(samples: Sequence[SampleRecord]) -> dict[str, float]:
    return {"ppl": math.exp(sum(s.metrics["nll"] for s in samples) / len(samples))}


MEANS: dict[str, Callable[[np.random.Generator, int], bool | None]] = {
    "mean, normal values": partial(mean_covers, normal),
    "mean, clusters of 5": partial(mean_covers, clustered_normal),
    "mean, clusters of unequal size": partial(mean_covers, partial(clustered_normal, sizes="unequal")),
    "mean, exponential values": partial(mean_covers, skewed),
    "perplexity, gamma losses, unequal documents": perplexity_covers,
    "score in 0..1": partial(mean_covers, graded),
    "score in 0..1, clusters of 5": partial(mean_covers, clustered_graded),
    "share, all from 0.02 to 0.98": partial(mean_covers, any_share),
    "share of 0.5": partial(mean_covers, partial(binary, share=0.5)),
    "share of 0.3": partial(mean_covers, partial(binary, share=0.3)),
    "share of 0.1": partial(mean_covers, partial(binary, share=0.1)),
    "share of 0.5, clusters of 5": partial(mean_covers, partial(clustered_binary, share=0.5, sizes="equal")),
    "share of 0.2, clusters of 5": partial(mean_covers, partial(clustered_binary, share=0.2, sizes="equal")),
    "share of 0.2, clusters of unequal size": partial(
        mean_covers, partial(clustered_binary, share=0.2, sizes="unequal")
    ),
}


# ---- Two models --------------------------------------------------------------------------------------------


def paired_normal(rng: np.random.Generator, n: int, difference: float) -> tuple[Floats, Floats, Codes]:
    """Scores that share the difficulty of a sample."""
    shared = rng.normal(0.0, 2.0, n)
    return shared + rng.normal(0, 0.7, n), shared + rng.normal(difference, 0.7, n), np.arange(n)


def paired_clusters(rng: np.random.Generator, n: int, difference: float) -> tuple[Floats, Floats, Codes]:
    """Clusters of unequal size, in which the difference varies too."""
    codes = cluster_of(rng, n, "unequal")
    first = rng.normal(0.0, 1.0, len(codes))
    return first, first + rng.normal(difference, 0.7, n)[codes] + rng.normal(0, 1.0, len(codes)), codes


def paired_binary(rng: np.random.Generator, n: int, difference: float) -> tuple[Floats, Floats, Codes]:
    """Independent 0/1 scores; the models disagree on three pairs in ten, or on as many as the difference needs."""
    disagree = max(0.3, abs(difference))
    uniform, shared = rng.random(n), (rng.random(n) < 0.5).astype(float)
    gain, loss = uniform < (disagree + difference) / 2, uniform > 1 - (disagree - difference) / 2
    return (
        np.where(gain, 0.0, np.where(loss, 1.0, shared)),
        np.where(gain, 1.0, np.where(loss, 0.0, shared)),
        np.arange(n),
    )


def paired_clustered_binary(rng: np.random.Generator, n: int, difference: float) -> tuple[Floats, Floats, Codes]:
    """0/1 scores in clusters of 5; the second model answers three in ten samples again, independently."""
    codes = cluster_of(rng, n, "equal")
    difficulty = rng.beta(2, 3, n)[codes]
    first = (rng.random(len(codes)) < difficulty).astype(float)
    anew = (rng.random(len(codes)) < 0.4 + difference / 0.3).astype(float)
    return first, np.where(rng.random(len(codes)) < 0.3, anew, first), codes


def gain_binary(rng: np.random.Generator, n: int, difference: float) -> tuple[Floats, Floats, Codes]:
    """0/1 scores with another context, at a floor of 0.05, and with the own one."""
    other, own = rng.random(n) < 0.05, rng.random(n) < 0.05 + difference
    return other.astype(float), own.astype(float), np.arange(n)


def test_of(draw: PairedDraw, rng: np.random.Generator, n: int, difference: float) -> PairedTest:
    return paired_scores(*draw(rng, n, difference))


def perplexity_test(rng: np.random.Generator, n: int, difference: float) -> PairedTest:
    """Losses of documents with a mean of 2 nats, as `compare` tests perplexities."""
    losses = rng.gamma(8.0, 0.25, n)
    sides = [losses + rng.normal(0, 0.1, n), losses + math.log1p(difference / math.exp(2.0)) + rng.normal(0, 0.1, n)]
    first, second = ([record(str(i), "", loss) for i, loss in enumerate(side)] for side in sides)
    found = paired_statistic(first, second, perplexity, "ppl")
    assert found is not None
    return found[2]


PAIRS: dict[str, Callable[[np.random.Generator, int, float], PairedTest]] = {
    "mean, normal values": partial(test_of, paired_normal),
    "mean, clusters of unequal size": partial(test_of, paired_clusters),
    "0/1 scores": partial(test_of, paired_binary),
    "0/1 scores, clusters of 5": partial(test_of, paired_clustered_binary),
    "gain of 0/1 scores": partial(test_of, gain_binary),
    "perplexity": perplexity_test,
}
SHIFT = dict.fromkeys(
    ["mean, normal values", "mean, clusters of unequal size", "gain of 0/1 scores", "perplexity"], 0.5
)
"""True difference of the coverage column; 0.1 for scores in 0..1."""


def simulate_means(name: str, trials: int, seed: int) -> tuple[str, list[float]]:
    """Coverage of one row at each number of clusters; NaN where fewer than half of the cells have an interval."""
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    rows = []
    for n in CLUSTERS:
        found = [known for _ in range(trials) if (known := MEANS[name](rng, n)) is not None]
        rows.append(sum(found) / len(found) if len(found) > trials / 2 else math.nan)
    return name, rows


def simulate_pairs(name: str, trials: int, seed: int) -> tuple[str, list[tuple[float, float, float]]]:
    """Coverage, false verdicts without a difference, and power at the median detectable difference."""
    rng = np.random.default_rng([seed, len(name), *name.encode()])
    draw, shift, rows = PAIRS[name], SHIFT.get(name, 0.1), []
    for n in CLUSTERS:
        covered, false, claimed = 0, 0, []
        for i in range(trials):
            low, high = draw(rng, n, shift).limits()
            covered += low <= shift <= high
            null = draw(rng, n, 0.0)
            false += null.p <= 0.05
            if i < trials // 5:
                claimed.append(null.detectable())
        if reachable(name, claimed):
            power = sum(draw(rng, n, claimed[i % len(claimed)]).p <= 0.05 for i in range(trials)) / trials
        else:
            power = math.nan
        rows.append((covered / trials, false / trials, power))
    return name, rows


def reachable(name: str, claimed: list[float]) -> bool:
    """Whether the claimed differences exist for this kind of score."""
    limit = {"0/1 scores": 1.0, "0/1 scores, clusters of 5": 0.18, "gain of 0/1 scores": 0.95}.get(name, math.inf)
    return max(claimed) < limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=2000, help="simulations per entry")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulations")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    chosen = parser.parse_args()
    with ProcessPoolExecutor(chosen.jobs) as executor:
        how = chosen.trials, chosen.seed
        means = [executor.submit(simulate_means, name, *how) for name in MEANS if chosen.only in name]
        pairs = [executor.submit(simulate_pairs, name, *how) for name in PAIRS if chosen.only in name]
        head = " | ".join(f"{n}" for n in CLUSTERS)
        print(f"| coverage with this many clusters | {head} |\n| --- |{' ---: |' * len(CLUSTERS)}", flush=True)
        for future in means:
            name, row = future.result()
            cells = ["too few" if math.isnan(value) else f"{100 * value:.1f}" for value in row]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print(
            f"\n| `compare`: coverage / false verdicts / power | {head} |\n| --- |{' ---: |' * len(CLUSTERS)}",
            flush=True,
        )
        for comparison in pairs:
            name, rows = comparison.result()
            cells = ["/".join("-" if math.isnan(v) else f"{100 * v:.0f}" for v in tested) for tested in rows]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
