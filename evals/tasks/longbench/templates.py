"""LongBench's prompt templates: lm-eval's text, white space repaired, accepted by sha256.

A template is text with the official slots {context} and {input}, filled by `str.format`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from evals.errors import UserError
from evals.tasks.common import official_prompts
from evals.tasks.common.prompt_builder import fill

REPAIRS: dict[str, tuple[int | None, str]] = {
    "triviaqa": (151, "\n"),
    "samsum": (95, "\n"),
    "passage_count": (None, " "),
    "passage_retrieval_en": (None, " "),
    "lcc": (None, "\n"),
    "repobench-p": (None, "\n"),
}
"""White space that lm-eval 0.4.13 lacks: where (None: at the end) and what."""

CODE_TAIL = 1000
"""Characters at the end of lcc's code that may stand with the question."""


@cache
def template(dataset: str) -> str:
    """The official template of a data set (its plain name). Raises UserError if its hash is not the official one."""
    task = official_prompts.read_yaml(f"longbench/{dataset}.yaml")
    if task is None:
        raise UserError(
            f"{official_prompts.version()} has no prompt of LongBench {dataset}: pip install 'lm-eval==0.4.13'."
        )
    text = task["doc_to_text"].replace("{{context}}", "{context}").replace("{{question}}", "{input}")
    official = official_prompts.hashes()["longbench"][dataset]
    if dataset in REPAIRS and official_prompts.sha256(text) != official:
        at, missing = REPAIRS[dataset]
        at = len(text) if at is None else at
        text = text[:at] + missing + text[at:]
    return official_prompts.check(text, official, f"LongBench {dataset}", official_prompts.version())


class Parts(NamedTuple):
    """The texts of a filled prompt: joined, before + context + after are the official prompt, letter by letter.

    question: what in `after` a search over the context may look at.
    """

    before: str
    context: str
    after: str
    question: str


def parts(dataset: str, context: str, question: str) -> Parts:
    """A filled prompt in its parts.

    The instruction stands before the context; what follows it is the query. The question is what fills {input},
    or the whole query where a template asks without one (summaries, passage_count). Few-shot sets: the examples
    are the context. Code: repobench-p's context is the other files and its question the file to go on with; lcc
    has that file alone, so its last lines move into the query, since a method that compresses the context must
    not lose the line to be continued.
    """
    before, after = fill(template(dataset), input=question)
    if dataset == "lcc":
        context, tail = _last_lines(context)
        return Parts(before, context, tail + after, tail)
    asked = question if "{input}" in template(dataset) else ""
    return Parts(before, context, after, asked or after)


def _last_lines(code: str) -> tuple[str, str]:
    """Code cut in two; the second part is its last whole lines within CODE_TAIL characters, and half of it at most."""
    tail = code[-min(CODE_TAIL, len(code) // 2) :] if len(code) > 1 else ""
    tail = tail[tail.find("\n", 0, -1) + 1 :]
    return code[: len(code) - len(tail)], tail
