"""How often the interval of an effective length holds the true one: by simulation, with the functions of the report.

python benchmarks/effective_length_coverage.py [--trials 1000] [--seed 0]

Prints a Markdown table. About two minutes on one core with the defaults; a margin of 1.4 % on each entry.
"""

from __future__ import annotations

import argparse

import numpy as np

from evals.report.effective import THRESHOLD, Point, effective_length
from evals.report.stats.bootstrap import drawn_means

CONTEXTS = (10, 20, 50, 100)
PER_CONTEXT = {"one question per context": 1, "five questions per context": 5}
LENGTHS = tuple(1024 << place for place in range(5))


def trial(rng: np.random.Generator, contexts: int, per: int) -> tuple[bool, bool]:
    """Whether the interval covers the truth, and whether the estimate is the truth.

    A share of 0.6 to 1 is right at the shortest length; it falls by up to 30 % with each doubling. Several questions
    on a context share its difficulty (beta-binomial, correlation 0.25).
    """
    shares = rng.uniform(0.6, 1.0) * np.cumprod([1.0, *rng.uniform(0.7, 1.0, len(LENGTHS) - 1)])
    truth = LENGTHS[int(np.logical_and.accumulate(shares >= THRESHOLD * shares[0]).sum()) - 1]
    codes = np.repeat(np.arange(contexts), per)
    curve = {}
    for length, share in zip(LENGTHS, shares, strict=True):
        difficulty = rng.beta(3 * share, 3 * (1 - share), contexts) if per > 1 else np.full(contexts, share)
        values = (rng.random(len(codes)) < difficulty[codes]).astype(float)
        draws = drawn_means(values, codes, str(rng.integers(1 << 62)))
        curve[length] = Point(float(values.mean()), draws, contexts, 0.0)
    found = effective_length("model", "task", curve)
    if found.low is None or found.high is None:
        return False, False  # a base score at chance: not one of these
    return found.low <= truth <= found.high, found.length == truth


def simulate(contexts: int, per: int, trials: int, seed: int) -> tuple[float, float]:
    """Shares of trials in which the interval covers, and in which the estimate is right."""
    rng = np.random.default_rng([seed, contexts, per])
    covered, right = np.mean([trial(rng, contexts, per) for _ in range(trials)], axis=0)
    return float(covered), float(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--trials", type=int, default=1000, help="simulations per entry")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulations")
    chosen = parser.parse_args()
    head = " | ".join(map(str, CONTEXTS))
    print(f"| coverage / exact estimates, by contexts per length | {head} |\n| --- |{' ---: |' * len(CONTEXTS)}")
    for name, per in PER_CONTEXT.items():
        rows = [simulate(contexts, per, chosen.trials, chosen.seed) for contexts in CONTEXTS]
        cells = [f"{100 * covered:.1f} / {100 * right:.0f}" for covered, right in rows]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
