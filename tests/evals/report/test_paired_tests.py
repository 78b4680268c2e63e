"""Paired tests, their intervals and their power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmark_scripts import load
from hypothesis import given, settings
from hypothesis import strategies as st
from not_empty import not_empty
from scipy import stats as scipy_stats

from evals.report.stats.paired_tests import ScoreTest, holm, holm_level, paired_scores
from evals.report.stats.power import detectable_by_scores, detectable_by_t


def test_differences_of_independent_scores_get_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 9), rng.normal(0.5, 1, 9)
    found = paired_scores(first, second, np.arange(9))
    theirs = scipy_stats.ttest_rel(second, first)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.limits() == pytest.approx(tuple(theirs.confidence_interval()))


def test_independent_yes_no_scores_get_mcnemar() -> None:
    first = np.array([1] * 9 + [0] * 3 + [1] * 20 + [0] * 5, dtype=float)
    second = np.array([0] * 9 + [1] * 3 + [1] * 20 + [0] * 5, dtype=float)
    found = paired_scores(first, second, np.arange(37))
    assert found.name == "McNemar"
    assert found.p == pytest.approx(scipy_stats.chi2.sf((9 - 3) ** 2 / 12, 1))


def test_tangos_published_interval() -> None:
    """Tango (1998), contact lenses: 1 and 3 discordant of 44 pairs; and table III, 7 and 25 of 167."""
    assert ScoreTest(3, 1, 44).limits() == pytest.approx((-0.0584, 0.1618), abs=0.02)
    low, high = ScoreTest(0, 0, 44).limits()
    z = scipy_stats.norm.ppf(0.975)
    assert (low, high) == pytest.approx((-(z**2) / (44 + z**2), z**2 / (44 + z**2)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.05, 0.01, 0.001]))
def test_an_interval_leaves_out_zero_exactly_where_its_test_rejects(gains, losses, others, level) -> None:
    if gains + losses + others == 0:
        return
    found = ScoreTest(gains, losses, gains + losses + others)
    low, high = found.limits(level)
    assert low <= (gains - losses) / found.n <= high
    assert (found.p <= level) == (not low <= 0 <= high)


def test_identical_scores_have_a_p_of_one_and_an_interval_around_zero() -> None:
    same = np.array([0.0, 1.0, 1.0, 0.5] * 5)
    for codes in (np.arange(20), np.arange(20) // 4):
        found = paired_scores(same, same, codes)
        low, high = found.limits()
        assert found.p == 1.0
        assert low == pytest.approx(-high)
        assert 0 < high < 1
        assert math.isfinite(found.detectable())


def test_a_few_clusters_that_agree_do_not_make_certainty() -> None:
    codes = np.arange(12) // 4
    found = paired_scores(np.zeros(12), np.ones(12), codes)
    assert 0.05 < found.p < 1
    assert found.limits()[0] < 0


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    """With the errors that each data set shows, as the table prints it."""
    rng = np.random.default_rng(10)
    for clusters in (4, 10, 40):
        found = 0
        for _ in range(1500):
            claimed = detectable_by_t(clusters - 1.0) * rng.normal(0, 1, clusters).std(ddof=1) / math.sqrt(clusters)
            values = rng.normal(claimed, 1, clusters)
            found += paired_scores(np.zeros(clusters), values, np.arange(clusters)).p <= 0.05
        assert found / 1500 == pytest.approx(0.8, abs=0.035)


def test_the_detectable_difference_of_yes_no_scores_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(11)
    n, disagree, found = 60, 0.3, 0
    for _ in range(1500):
        claimed = detectable_by_scores(rng.binomial(n, disagree), n)
        discordant = rng.binomial(n, max(disagree, claimed))
        gains = rng.binomial(discordant, (1 + claimed / max(disagree, claimed)) / 2)
        found += ScoreTest(gains, discordant - gains, n).p <= 0.05
    assert found / 1500 == pytest.approx(0.8, abs=0.05)


def test_too_few_pairs_detect_nothing() -> None:
    assert detectable_by_scores(3, 3) == math.inf
    assert math.isfinite(detectable_by_scores(2, 30))


def test_holm_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values) -> None:
    adjusted = holm(p_values)
    for raw, found in zip(p_values, adjusted, strict=True):
        assert raw <= found <= min(1.0, raw * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= -1e-12).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=12))
def test_the_level_of_the_intervals_gives_holms_verdicts(p_values) -> None:
    level = holm_level(p_values)
    assert [p <= level for p in p_values] == [p <= 0.05 for p in holm(p_values)]


def test_the_script_that_measures_coverage_runs() -> None:
    script = load("interval_coverage")
    for name in script.MEANS:
        covered = script.simulate_means(name, 12, 0)[1]
        assert all(0.5 <= share <= 1 for share in not_empty(covered[3:]))  # from ten contexts on
        assert all(math.isnan(share) or share >= 0.5 for share in covered[:3])
    _, rows = script.simulate_pairs("0/1 scores", 12, 0)
    assert all(0.5 <= covered <= 1 for covered, _, _ in not_empty(rows))
