"""Answers that are not numbers: a sample whose log-probabilities or scores are NaN or infinite has no score."""

from __future__ import annotations

import math

from evals.methods.base import Session
from evals.run.samples import Asked
from evals.tasks.base import Output

ADVICE = "the weights may be damaged, or half precision overflows: try --dtype float32"


def unusable_output(asked: Asked, output: Output) -> str | None:
    """Why an answer cannot be scored; None where it can be.

    A model whose logits are NaN generates the first token of its vocabulary, or stops at once. So an answer that looks
    like that is scored once more, and NaN among its log-probabilities tells it from a true one.
    """
    if asked.instance.target is not None:
        wrong = [value for value in output.logprobs if not math.isfinite(value)]
        return f"a log-probability is {wrong[0]}: {ADVICE}" if wrong else None
    if output.ids and 0 not in output.ids:
        return None
    return f"the logits are NaN: {ADVICE}" if _scores_nan(asked.session, asked, output) else None


def _scores_nan(session: Session, asked: Asked, output: Output) -> bool:
    found = session.score(asked.instance.prompt.as_query(), output.ids or [0])
    return bool(found.isnan().any())
