"""Statistics against closed forms, scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from evals.records.models import Answer, SampleRecord
from evals.report import stats


def records(values, groups=None, name="score"):
    groups = groups if groups is not None else [""] * len(values)
    return [
        SampleRecord(cell="c", sample=str(i), group=g, metrics={name: float(v)}, output=Answer(text="", tokens=0))
        for i, (v, g) in enumerate(zip(values, groups, strict=True))
    ]


def test_standard_error_of_a_mean_is_the_analytic_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = stats.mean_intervals(records(values))["score"]
    analytic = values.std(ddof=1) / math.sqrt(len(values))
    assert found.estimate == pytest.approx(values.mean())
    assert found.se == pytest.approx(analytic, rel=0.05)
    assert found.high - found.low == pytest.approx(2 * 1.96 * analytic, rel=0.06)


def test_clusters_widen_the_interval_as_the_analytic_cluster_error_says() -> None:
    rng = np.random.default_rng(1)
    per, clusters = 10, 80
    values = np.repeat(rng.normal(0, 1, clusters), per) + rng.normal(0, 0.1, clusters * per)
    groups = [f"context-{i // per}" for i in range(clusters * per)]
    found = stats.mean_intervals(records(values, groups))["score"]
    means = values.reshape(clusters, per).mean(1)
    assert found.se == pytest.approx(means.std(ddof=1) / math.sqrt(clusters), rel=0.06)
    assert found.se > 2.5 * stats.mean_intervals(records(values))["score"].se


def test_unequal_clusters_follow_the_ratio_estimator() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 12, 150)
    groups = [str(g) for g, n in enumerate(sizes) for _ in range(n)]
    values = np.concatenate([rng.normal(rng.normal(), 0.5, n) for n in sizes])
    found = stats.mean_intervals(records(values, groups))["score"]
    sums = np.array([values[[g == str(c) for g in groups]].sum() for c in range(len(sizes))])
    linear = (sums - values.mean() * sizes) / sizes.mean()  # linearised ratio of sums
    assert found.se == pytest.approx(linear.std(ddof=1) / math.sqrt(len(sizes)), rel=0.08)


def test_percentiles_agree_with_scipy() -> None:
    values = np.random.default_rng(3).exponential(2.0, 300)
    found = stats.mean_intervals(records(values))["score"]
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    )
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.03)
    assert found.se == pytest.approx(theirs.standard_error, rel=0.05)


@pytest.mark.parametrize("clusters", [5, 8, 20])
def test_intervals_cover_with_few_clusters(clusters) -> None:
    """A plain percentile interval of 5 values covers about 83 %; the expanded one must come near its 95 %."""
    rng = np.random.default_rng(4)
    trials = 400
    hits = 0
    for trial in range(trials):
        values = rng.normal(0, 1, clusters)[:, None]
        distribution = stats.bootstrap_means(values, np.ones_like(values), 1000, seed=trial)[:, 0]
        found = stats.interval(float(values.mean()), distribution, clusters)
        hits += found.low <= 0 <= found.high
    assert hits / trials > 0.90


def test_a_statistic_that_is_the_mean_gives_the_intervals_of_the_mean() -> None:
    values = np.random.default_rng(5).normal(0, 1, 60)
    groups = [str(i // 3) for i in range(60)]
    slow = stats.statistic_intervals(
        records(values, groups), lambda rows: {"score": float(np.mean([r.metrics["score"] for r in rows]))}
    )["score"]
    fast = stats.mean_intervals(records(values, groups))["score"]
    assert slow.estimate == pytest.approx(fast.estimate)
    assert slow.se == pytest.approx(fast.se, rel=0.1)


def test_perplexity_interval_matches_the_delta_method() -> None:
    nll = np.random.default_rng(6).normal(2.0, 0.3, 100)
    found = stats.statistic_intervals(
        records(nll, [str(i) for i in range(100)], "nll"),
        lambda rows: {"perplexity": math.exp(sum(r.metrics["nll"] for r in rows) / len(rows))},
    )["perplexity"]
    assert found.se == pytest.approx(math.exp(nll.mean()) * nll.std(ddof=1) / 10, rel=0.08)
    assert 0 < found.low < found.estimate < found.high


def test_all_right_or_all_wrong_is_not_certainty() -> None:
    right = stats.mean_intervals(records([1] * 10))["score"]
    assert right.high == pytest.approx(1.0)
    assert right.low == pytest.approx(0.7225, abs=1e-3)
    assert math.isnan(stats.mean_intervals(records([0.5] * 10))["score"].low)
    shared = stats.mean_intervals(records([0] * 10, ["a"] * 5 + ["b"] * 5))["score"]
    assert shared.high == pytest.approx(stats.wilson(0, 2)[1])


def test_wilson_agrees_with_scipy() -> None:
    theirs = scipy_stats.binomtest(7, 30).proportion_ci(method="wilson")
    assert stats.wilson(7, 30) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("n", range(1, 40))
def test_wilson_stays_between_0_and_1(n) -> None:
    assert stats.wilson(0, n)[0] == 0
    assert stats.wilson(n, n)[1] == 1


def test_one_cluster_has_no_interval() -> None:
    found = stats.mean_intervals(records([0.2, 0.4], ["one", "one"]))["score"]
    assert found.estimate == pytest.approx(0.3)
    assert math.isnan(found.low)
    assert math.isnan(found.se)


def test_missing_metrics_do_not_count() -> None:
    rows = records([1, 0, 1, 0])
    rows[0].metrics["rare"] = 0.5
    rows[1].metrics["rare"] = 0.7
    assert stats.mean_intervals(rows)["rare"].estimate == pytest.approx(0.6)


def test_same_seed_same_interval() -> None:
    rows = records(np.random.default_rng(7).normal(size=30))
    assert stats.mean_intervals(rows, seed=3) == stats.mean_intervals(rows, seed=3)
    assert stats.mean_intervals(rows, seed=3) != stats.mean_intervals(rows, seed=4)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    first = np.array([1] * 9 + [0] * 3 + [1] * 20 + [0] * 5, dtype=float)
    second = np.array([0] * 9 + [1] * 3 + [1] * 20 + [0] * 5, dtype=float)
    assert stats.mcnemar(first, second) == pytest.approx(2 * sum(math.comb(12, k) for k in range(4)) / 2**12)
    assert stats.mcnemar(first, first) == 1.0


def test_sign_flip_lists_every_arrangement() -> None:
    assert stats.sign_flip(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 / 16)
    assert stats.sign_flip(np.array([1.0, -1.0])) == 1.0
    assert stats.sign_flip(np.zeros(4)) == 1.0


def test_sign_flip_agrees_with_scipy_beyond_enumeration() -> None:
    differences = np.random.default_rng(8).normal(0.5, 1.0, 30)
    theirs = scipy_stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    )
    assert stats.sign_flip(differences) == pytest.approx(theirs.pvalue, abs=0.01)


def test_sign_flip_holds_its_level() -> None:
    rng = np.random.default_rng(9)
    found = [stats.sign_flip(rng.normal(size=10)) for _ in range(1500)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_holm_worked_example() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values) -> None:
    adjusted = stats.holm(p_values)
    for raw, found in zip(p_values, adjusted, strict=True):
        assert raw <= found <= min(1.0, raw * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= -1e-12).all()


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    pairs, spread = 50, 1.0
    difference = stats.smallest_difference(spread / math.sqrt(pairs), pairs, pairs, binary=False)
    rng = np.random.default_rng(10)
    data = rng.normal(difference, spread, (2000, pairs))
    power = (scipy_stats.ttest_1samp(data, 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.03)


def test_a_yes_no_score_needs_six_disagreements() -> None:
    assert stats.smallest_difference(0.0, 100, 100, binary=True) == pytest.approx(0.06)
    assert stats.smallest_difference(0.1, 100, 5, binary=True) == math.inf
    disagree = np.ones(6)
    assert stats.mcnemar(np.zeros(6), disagree) <= 0.05 < stats.mcnemar(np.zeros(5), np.ones(5))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(1, 6))
def test_intervals_stay_in_the_range_of_the_data(values, per) -> None:
    groups = [str(i // per) for i in range(len(values))]
    found = stats.mean_intervals(records(values, groups))["score"]
    if not math.isnan(found.low):
        assert -1e-9 <= found.low <= found.high <= 1 + 1e-9


def test_the_interval_of_a_perplexity_is_that_of_its_loss() -> None:
    losses = [0.5, 3.1, 2.2, 4.0]
    samples = records(losses, list("abcd"), "nll")

    def statistic(part: list[SampleRecord]) -> dict[str, float]:
        nll = sum(s.metrics["nll"] for s in part) / len(part)
        return {"nll": nll, "ppl": math.exp(nll)}

    found = stats.statistic_intervals(samples, statistic)
    assert found["ppl"].low == pytest.approx(math.exp(found["nll"].low))
    assert found["ppl"].low > 0
    assert found["ppl"].high == pytest.approx(math.exp(found["nll"].high))
