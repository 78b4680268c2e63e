"""From samples to the numbers of a cell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from evals.records.models import SampleRecord
from evals.tasks.perplexity.settings import PerplexitySettings

LARGEST_NLL = 700.0
"""exp of more is infinite; the perplexity of a broken model stays a number."""


def summarize(samples: Sequence[SampleRecord], protocol: PerplexitySettings) -> dict[str, float]:
    """ppl and nll of the first control named (`own` unless it was left out), those of the other controls with their
    name, use_of_context over the windows that have both scores, bits_per_byte, and ppl and use_of_context of each
    domain where there is more than one. A control without samples has no numbers, and no other takes its place.
    """
    domains = sorted({sample.meta["domain"] for sample in samples})
    metrics = _of_all(samples, protocol)
    if len(domains) > 1:
        for domain in domains:
            part = _of_all([sample for sample in samples if sample.meta["domain"] == domain], protocol)
            chosen = ("ppl", "use_of_context")
            metrics |= {f"{name}/{domain}": part[name] for name in chosen if name in part}
    return metrics


def _of_all(samples: Sequence[SampleRecord], protocol: PerplexitySettings) -> dict[str, float]:
    by_control: dict[str, list[SampleRecord]] = defaultdict(list)
    for sample in samples:
        by_control[sample.meta["control"]].append(sample)
    nll = {
        control: aggregate(by_control[control], protocol.aggregate)
        for control in protocol.context
        if by_control[control]
    }
    metrics: dict[str, float] = {}
    main = protocol.context[0]
    for control, value in nll.items():
        suffix = "" if control == main else f"_{control}"
        metrics |= {f"ppl{suffix}": math.exp(min(value, LARGEST_NLL)), f"nll{suffix}": value}
    own, other = (_windows(by_control[control]) for control in ("own", "other"))
    if both := own.keys() & other.keys():
        lost, kept = (
            aggregate([s for w, s in found.items() if w in both], protocol.aggregate) for found in (other, own)
        )
        metrics["use_of_context"] = lost - kept
    if main in nll and (bits := bits_per_byte(by_control[main])) is not None:
        metrics["bits_per_byte"] = bits
    return metrics


def _windows(samples: Sequence[SampleRecord]) -> dict[str, SampleRecord]:
    """Samples of one control by their windows."""
    return {sample.meta["window"]: sample for sample in samples}


def aggregate(samples: Sequence[SampleRecord], how: str) -> float:
    """Mean nll of samples (all of one control) over windows, documents or tokens."""
    if how == "document":
        documents: dict[str, list[SampleRecord]] = defaultdict(list)
        for sample in samples:
            documents[sample.meta["document"]].append(sample)
        means = [aggregate(group, "token") for group in documents.values()]
        return sum(means) / len(means)
    weights: list[float] = [sample.meta["target_tokens"] if how == "token" else 1 for sample in samples]
    values: list[float] = [sample.metrics["nll"] for sample in samples]
    return sum(w * nll for w, nll in zip(weights, values, strict=True)) / sum(weights)


def bits_per_byte(samples: Sequence[SampleRecord]) -> float | None:
    """Bits of all targets over their bytes of UTF-8: comparable between vocabularies. None where they have no bytes
    (single targets inside a character).
    """
    target_bytes: float = sum(sample.meta["target_bytes"] for sample in samples)
    nats: float = sum(sample.metrics["nll"] * sample.meta["target_tokens"] for sample in samples)
    return nats / math.log(2) / target_bytes if target_bytes else None
