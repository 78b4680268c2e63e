"""LongBench's prompt templates: lm-eval's text, white space repaired, accepted by sha256.

A template is text with the official slots {context} and {input}, filled by `str.format`.
"""

from __future__ import annotations

from functools import cache

from evals import official_prompts
from evals.errors import UserError

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
"""Characters at the end of lcc's code that stand with the question, from the first whole line among them."""


@cache
def template(dataset: str) -> str:
    """The official template of a data set (its plain name). Raises UserError if its hash is not the official one."""
    task = official_prompts.read_yaml(f"longbench/{dataset}.yaml")
    if task is None:
        raise UserError(f"{official_prompts.version()} has no prompt of LongBench {dataset}: pip install 'lm-eval==0.4.13'.")
    text = task["doc_to_text"].replace("{{context}}", "{context}").replace("{{question}}", "{input}")
    official = official_prompts.hashes()["longbench"][dataset]
    if dataset in REPAIRS and official_prompts.sha256(text) != official:
        at, missing = REPAIRS[dataset]
        at = len(text) if at is None else at
        text = text[:at] + missing + text[at:]
    return official_prompts.check(text, official, f"LongBench {dataset}", "pip install 'lm-eval==0.4.13'")


def parts(dataset: str, context: str, question: str) -> tuple[str, str, str, tuple[int, int]]:
    """A filled prompt as (prefix, context, query, span of the question in characters of the query).

    Joined, the three are the official prompt, letter by letter. The prefix is the instruction before {context};
    the query is all that follows it. The question is what fills {input}, and the whole query where a template
    asks without one (summaries, passage_count). Few-shot sets: the examples are the context. Code:
    repobench-p's context is the other files and its question the file to go on with; lcc has the file alone,
    so its last lines move into the query, for a method that compresses the context must not lose the line that
    is to be continued.
    """
    before, _, after = template(dataset).partition("{context}")
    if dataset == "lcc":
        context, tail = _last_lines(context)
        return before.format(), context, tail + after.format(), (0, len(tail))
    start, slot, _ = after.partition("{input}")
    query = after.format(input=question)
    if not slot:
        return before.format(), context, query, (0, len(query))
    begin = len(start.format())
    return before.format(), context, query, (begin, begin + len(question))


def _last_lines(code: str) -> tuple[str, str]:
    """Code cut in two, the second part being its last whole lines within CODE_TAIL characters."""
    tail = code[-CODE_TAIL:]
    if len(tail) < len(code):
        newline = tail.find("\n", 0, -1)
        tail = tail[newline + 1 :]
    return code[: len(code) - len(tail)], tail
