"""The official prompt: lm-eval's text with the official slots and last line, checked by hash."""

from __future__ import annotations

from functools import cache

from evals.errors import UserError
from evals.tasks.common import official_prompts
from evals.tasks.longbench_v2.rows import Row

FORMAT = 'Format your response as follows: "The correct answer is (insert answer here)".'
"""The official last line, without which no answer can be parsed; lm-eval asks by likelihood and ends in "Answer:"."""
SLOTS = {
    "{{context}}": "$DOC$",
    "{{question.strip()}}": "$Q$",
    "{{choices[0]}}": "$C_A$",
    "{{choices[1]}}": "$C_B$",
    "{{choices[2]}}": "$C_C$",
    "{{choices[3]}}": "$C_D$",
}


@cache
def template() -> str:
    """The official prompts/0shot.txt. Raises UserError where the installed lm-eval has another text."""
    config = official_prompts.read_yaml("longbench2/_longbench_common_yaml")
    if config is None:
        raise UserError(f"{official_prompts.version()} has no LongBench v2: pip install 'lm-eval==0.4.13'.")
    text = config["doc_to_text"]
    for theirs, official in SLOTS.items():
        text = text.replace(theirs, official)
    text = text.removesuffix("Answer:") + FORMAT
    expected = official_prompts.hashes()["longbench_v2"]["0shot"]
    return official_prompts.check(text, expected, "LongBench v2", official_prompts.version())


def render(row: Row) -> tuple[str, str, str]:
    """Text before and after the document, and the question with its choices; values are stripped, as officially."""
    before, _, after = template().partition("$DOC$")
    start, end = after.index("$Q$"), after.index("$C_D$") + len("$C_D$")
    question = after[start:end].replace("$Q$", row.question.strip())
    for letter in "ABCD":
        question = question.replace(f"$C_{letter}$", getattr(row, f"choice_{letter}").strip())
    return before, after[:start] + question + after[end:], question
