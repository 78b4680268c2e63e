"""Intervals and tests for scores of samples that come in clusters (several questions on one context).

Each method is chosen because it covers (docs/protocols.md has the table, benchmarks/interval_coverage.py measures it):
exact limits with an effective sample size for shares, t limits with cluster-robust errors for means, the same on the
logarithm for positive values, and paired tests whose interval is the inversion of the test.
"""

from evals.report.stats.interval import Interval as Interval
