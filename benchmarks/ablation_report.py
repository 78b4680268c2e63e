"""Makes a table beside the paper's, and bars, from the record of the ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from ablation_bench import REFERENCE, VARIANTS, Variant
from scipy.stats import t as student

from evals.report import published
from evals.report.plots.ablation import bars
from evals.report.plots.style import STYLE
from evals.report.stats import Interval
from evals.report.tables import Table

SCORES = {"use": "use of context (nats per token)", "own": "loss (nats per token)", "digits": "needle digits right"}


def write(record: dict[str, Any], folder: Path) -> None:
    """Table (CSV, Markdown, LaTeX) and bars of the finished variants, once the reference is finished."""
    if REFERENCE in record["variants"]:
        table(record).write(folder)
        plot(record["variants"], folder)


def mean_interval(strata: Sequence[Sequence[float]]) -> Interval:
    """Mean of the strata's means with its 95 % t interval; only the spread within a stratum counts."""
    mean = float(np.mean([np.mean(values) for values in strata]))
    freedom = sum(len(values) - 1 for values in strata)
    if not freedom:
        return Interval(mean)
    within = sum(float(np.var(values)) * len(values) for values in strata) / freedom
    se = math.sqrt(within * sum(1 / len(values) for values in strata)) / len(strata)
    reach = float(student.ppf(0.975, freedom)) * se
    return Interval(mean, mean - reach, mean + reach, se)


def paired(done: dict[str, Any], name: str, score: str) -> Interval:
    """A variant's score minus the reference's on the same windows."""
    mine, reference = (done[n]["scores"][score] for n in (name, REFERENCE))
    return mean_interval([np.subtract(a, b).tolist() for a, b in zip(mine, reference, strict=True)])


def paper_change(variant: Variant, column: str) -> tuple[float | None, float | None]:
    """The paper's value for a variant, and its change: of the logarithm (nats per token) if it is a perplexity."""
    known = published.table(5).set_index(["variant", "column"])["value"]
    value, reference = (known.get((row, column), np.nan) for row in (variant.paper, variant.paper_reference))
    if pd.isna(value):
        return None, None
    change = math.log(value / reference) if column == "Arxiv" else value - reference
    return float(value), None if variant.paper == variant.paper_reference else float(change)


def table(record: dict[str, Any]) -> Table:
    """One row per variant: ours with paired intervals, then the paper's."""
    done = record["variants"]
    rows = []
    for name in (n for n in VARIANTS if n in done):
        (ppl, nats), (qa, points) = (paper_change(VARIANTS[name], c) for c in ("Arxiv", "MD-QA"))
        means = {s: mean_interval(done[name]["scores"][s]).estimate for s in found_scores(done)}
        changes = {s: None if name == REFERENCE else paired(done, name, s) for s in means}
        ours = {k: v for s in means for k, v in ((SCORES[s], means[s]), (f"change of {SCORES[s]}", changes[s]))}
        theirs = {"paper: Arxiv ppl": ppl, "in nats, change": nats, "paper: MD-QA": qa, "MD-QA, change": points}
        rows.append({"variant": name, **ours, "entries per chunk": done[name]["entries"], **theirs})
    reference = ", ".join(f"{k}={v}" for k, v in done[REFERENCE]["method"].items())
    recipe = record["budget"]
    notes = [
        f"Ours: {recipe['settings']['steps']} steps each, same batches; mean over {', '.join(recipe['heldout'])}, "
        f"{recipe['windows']} windows each; reference: {reference}.",
        "Use of context: loss with another document's context minus loss with the own one. Changes are against the "
        "reference on the same held-out windows; in brackets their 95 % t interval over windows from these documents, "
        "one training seed: it does not cover other documents or seeds.",
        "Paper (arXiv 2410.19318v1, table 5): LLaMA-2-7B at 32K, trained in full, changes against its default; its "
        "default has noise, so split_noise=0.2 is compared with its change from 'without noise' to the default.",
    ]
    return Table("ablation", "Ablations (layout of table 5)", pd.DataFrame(rows, dtype=object), notes)


def found_scores(done: dict[str, Any]) -> list[str]:
    """The scores that the runs have: needles only if they were requested."""
    return [s for s in SCORES if s in done[REFERENCE]["scores"]]


def plot(done: dict[str, Any], folder: Path) -> None:
    """One figure per score: bars if higher is better, the paired change as dots for the loss."""
    names = [n for n in VARIANTS if n in done]
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"backend": "agg"}):
        for score in found_scores(done):
            higher = score != "own"
            found = [mean_interval(done[n]["scores"][score]) for n in names]
            if not higher:
                found = [paired(done, n, score) for n in names]
            rows = pd.DataFrame({"model": names, "score": [i.estimate for i in found]})
            rows = rows.assign(low=[i.low for i in found], high=[i.high for i in found], higher_is_better=higher)
            label = SCORES[score] if higher else "change of loss, nats"
            figure = bars(rows.assign(metric=label), {n: n for n in names})
            figure.savefig(folder / f"ablation-{score}.svg", metadata={"Date": None, "Creator": None})
            figure.savefig(folder / f"ablation-{score}.png")
