"""Intervals of means, shares and perplexities against closed forms, scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from evals.records.models import Answer, SampleRecord
from evals.report.stats.clusters import clustered_mean, degrees_of_freedom
from evals.report.stats.means import mean_interval, mean_intervals, share_limits
from evals.report.stats.statistics import statistic_intervals
from evals.report.tables import text


def records(values, groups=None, name="score"):
    groups = groups if groups is not None else [""] * len(values)
    return [
        SampleRecord(cell="c", sample=str(i), group=g, metrics={name: float(v)}, output=Answer(text="", tokens=0))
        for i, (v, g) in enumerate(zip(values, groups, strict=True))
    ]


def test_the_interval_of_a_mean_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(0.0, 2.0, 12)
    found = mean_intervals(records(values))["score"]
    theirs = scipy_stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.se == pytest.approx(scipy_stats.sem(values))


def test_positive_skewed_values_get_the_interval_of_the_logarithm() -> None:
    values = np.random.default_rng(0).exponential(3.0, 12)
    found = mean_intervals(records(values))["score"]
    factor = math.exp(scipy_stats.t.ppf(0.975, 11) * scipy_stats.sem(values) / values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() / factor, values.mean() * factor))


def test_clusters_of_equal_size_count_as_their_means() -> None:
    rng = np.random.default_rng(1)
    means = rng.normal(0, 1, 12)
    values = np.repeat(means, 5) + np.tile([-2, -1, 0, 1, 2], 12)
    found = mean_intervals(records(values, [str(i // 5) for i in range(60)]))["score"]
    theirs = scipy_stats.ttest_1samp(means, 0.0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_degrees_of_freedom_are_those_of_the_matrices_they_summarise() -> None:
    """Bell and McCaffrey's formula, with the matrices written out."""
    counts = np.array([3.0, 1.0, 9.0, 2.0, 5.0])
    total, clusters = counts.sum(), len(counts)
    share = counts / total
    codes = np.repeat(np.arange(clusters), counts.astype(int))
    member = np.eye(clusters)[codes]  # samples x clusters
    residual = np.eye(len(codes)) - 1 / total
    weights = residual @ member / np.sqrt(1 - share) / total
    expected = []
    for working in (np.eye(len(codes)), member @ member.T):
        form = weights.T @ working @ weights
        expected.append(np.trace(form) ** 2 / (form**2).sum())
    assert degrees_of_freedom(counts) == pytest.approx(scipy_stats.hmean(expected))
    assert degrees_of_freedom(np.full(8, 4.0)) == pytest.approx(7)


def test_a_share_has_mid_p_exact_limits() -> None:
    low, high = share_limits(3, 10)
    for limit, tail in ((low, scipy_stats.binom.sf(2, 10, low)), (high, scipy_stats.binom.cdf(3, 10, high))):
        assert tail - scipy_stats.binom.pmf(3, 10, limit) / 2 == pytest.approx(0.025)
    assert share_limits(0, 10) == pytest.approx((0, 1 - 0.05 ** (1 / 10)))
    assert share_limits(10, 10) == pytest.approx((0.05 ** (1 / 10), 1))


def test_all_right_or_all_wrong_is_not_certainty() -> None:
    right = mean_intervals(records([1] * 10))["score"]
    assert (right.low, right.high) == pytest.approx((0.05 ** (1 / 10), 1.0))
    half = mean_intervals(records([0.5] * 10))["score"]
    assert half.low < 0.3
    assert half.high > 0.7
    assert math.isnan(mean_intervals(records([2.5] * 10))["score"].low)
    shared = mean_intervals(records([0] * 10, ["a"] * 5 + ["b"] * 5))["score"]
    assert shared.high > 0.9  # two contexts say next to nothing


@pytest.mark.parametrize("values", [[0.01, 0.02], [0.4, 0.3, 0.6], [2.0, 7.0, 1.0, 3.0], list(range(-4, 5))])
def test_few_values_that_are_no_shares_have_no_interval(values) -> None:
    found = mean_intervals(records(values))["score"]
    assert found.estimate == pytest.approx(np.mean(values))
    assert math.isnan(found.low)
    assert text(found).endswith("[too few]")
    assert not math.isnan(mean_intervals(records([*values, 0.0, 1.0][-2:]))["score"].low)  # of shares two are enough


def test_one_cluster_has_no_interval() -> None:
    found = mean_intervals(records([0.2, 0.4], ["one", "one"]))["score"]
    assert found.estimate == pytest.approx(0.3)
    assert math.isnan(found.low)
    assert math.isnan(found.se)


def test_missing_and_not_finite_metrics_do_not_count() -> None:
    rows = records([1, 0, 1, 0])
    rows[0].metrics["rare"] = 0.5
    rows[1].metrics["rare"] = 0.7
    rows[2].metrics["rare"] = math.nan
    rows[3].metrics["rare"] = math.inf
    assert mean_intervals(rows)["rare"].estimate == pytest.approx(0.6)
    assert "score" not in mean_intervals(records([math.nan] * 3))


def test_a_statistic_that_is_the_mean_gives_the_intervals_of_the_mean() -> None:
    values = np.random.default_rng(5).normal(0, 1, 60)
    groups = [str(i // 3) for i in range(60)]
    slow = statistic_intervals(
        records(values, groups), lambda rows: {"score": float(np.mean([r.metrics["score"] for r in rows]))}
    )["score"]
    fast = mean_intervals(records(values, groups))["score"]
    assert (slow.estimate, slow.low, slow.high) == pytest.approx((fast.estimate, fast.low, fast.high))


def perplexity(part):
    nll = sum(s.metrics["nll"] for s in part) / len(part)
    return {"nll": nll, "ppl": math.exp(min(nll, 700))}


def test_the_interval_of_a_perplexity_is_that_of_its_loss() -> None:
    found = statistic_intervals(records([0.5, 3.1, 2.2, 4.0], name="nll"), perplexity)
    assert found["ppl"].low == pytest.approx(math.exp(found["nll"].low))
    assert found["ppl"].low > 0
    assert found["ppl"].high == pytest.approx(math.exp(found["nll"].high))


def test_an_exploded_loss_does_not_overflow() -> None:
    found = statistic_intervals(records([5.0, 1000.0, 900.0, 700.0], name="nll"), perplexity)
    assert found["nll"].estimate == pytest.approx(2605 / 4)
    assert found["ppl"].high == math.inf


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=30, max_size=50), st.integers(1, 3))
def test_intervals_of_shares_stay_between_0_and_1(values, per) -> None:
    groups = [str(i // per) for i in range(len(values))]
    found = mean_intervals(records(values, groups))["score"]
    if not math.isnan(found.low):
        assert -1e-9 <= found.low <= found.estimate + 1e-9
        assert found.estimate - 1e-9 <= found.high <= 1 + 1e-9


# ---- Coverage; benchmarks/interval_coverage.py has the whole table ---------------------------------------------


@pytest.mark.parametrize("clusters", [10, 30])
@pytest.mark.parametrize("per", [1, 4])
def test_intervals_of_means_cover(clusters, per) -> None:
    rng = np.random.default_rng([clusters, per])
    codes, hits = np.repeat(np.arange(clusters), per), 0
    for _ in range(600):
        values = rng.normal(0, 0.7, clusters)[codes] + rng.normal(0, 1.0, len(codes))
        found = mean_interval(values, clustered_mean(values, codes))
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / 600 <= 0.98


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("per", [1, 4])
def test_intervals_of_shares_cover(share, per) -> None:
    rng = np.random.default_rng(per)
    clusters, hits = 20, 0
    codes = np.repeat(np.arange(clusters), per)
    for _ in range(600):
        difficulty = rng.beta(3 * share, 3 * (1 - share), clusters) if per > 1 else np.full(clusters, share)
        values = (rng.random(len(codes)) < difficulty[codes]).astype(float)
        found = mean_interval(values, clustered_mean(values, codes))
        hits += found.low <= share <= found.high
    assert 0.92 <= hits / 600 <= 0.985
