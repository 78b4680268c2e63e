"""All tables in the paper's layout that a run has data for."""

from __future__ import annotations

from itertools import chain

from evals.report.data import Data
from evals.report.paper import overheads, perplexity, requests, variants, views
from evals.report.tables import Table


def paper_tables(data: Data) -> list[Table]:
    """Every table that the run has data for."""
    parts = (perplexity, views, variants, requests, overheads)
    return list(chain.from_iterable(part.tables(data) for part in parts))
