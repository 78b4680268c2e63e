"""The official prompts: lm-eval's texts, repaired and checked by the hash of babilong/prompts.py (booydar/babilong)."""

from __future__ import annotations

from functools import cache
from typing import Any

from evals.errors import UserError
from evals.tasks.common import official_prompts

BARE = "<context>\n{context}\n</context>\n\nQuestion: {question}"
"""What is left of the official template without instruction, examples and form of the answer."""
REPAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "qa1": (("'", "\u2019"),),
    "qa2": (
        ("'", "\u2019"),
        ("I will give", "I give"),
        ("question. You", "question.You"),
        (". If a person got", ".\nIf a person got"),
    ),
    "qa3": ((". If a person got", ".\nIf a person got"),),
}
"""What lm-eval changed in the texts of a task, and the official text."""


@cache
def template(task: str) -> str:
    """The official prompt of a task, with the slots {context} and {question}.

    Raises UserError where the installed lm-eval has another text.
    """
    config = official_prompts.read_yaml(f"babilong/babilong_{task}.yaml")
    if config is None:
        raise UserError(f"{official_prompts.version()} has no BABILong {task}: pip install 'lm-eval==0.4.13'.")
    text = config["description"].strip()
    for theirs, official in REPAIRS.get(task, ()):
        text = text.replace(theirs, official)
    instruction, _, form = text.partition("\nAlways " if "\nAlways " in text else "\nYour ")
    form = text[len(instruction) :].strip().replace("\n", " ")
    examples = ("\n\n" if task == "qa1" else "\n").join(map(_example, config["fewshot_config"]["samples"]))
    found = f"{instruction}\n\n{examples}\n\n{form}\n\n{BARE}"
    expected = official_prompts.hashes()["babilong"][task]
    return official_prompts.check(found, expected, f"BABILong {task}", official_prompts.version())


def _example(sample: dict[str, Any]) -> str:
    return f"<example>\n{sample['input']} {sample['question']}\nAnswer: {sample['target']}\n</example>"
