"""InfiniteBench's prompt templates: the "gpt4" family from lm-eval, any official family from a file, by hash.

Slots are the official ones: {context}, {input} or {question}, {OPTION_A} ..., {func}, {func_call}, {prefix}.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from evals.errors import UserError, unknown
from evals.tasks.common import official_prompts

CHAT_FAMILIES = ("gpt4", "claude2", "kimi")
"""Written for chat models; yarn_mistral's texts are to be continued."""
FAMILIES = (*CHAT_FAMILIES, "yarn_mistral")

FILES = {
    "longbook_qa_eng": "longbook_qa_en",
    "longbook_choice_eng": "longbook_choice_en",
    "longbook_sum_eng": "longbook_sum_en",
    "longdialogue_qa_eng": "longdialogue_qa_en",
}
"""lm-eval's names of the tasks, where they differ."""

MATH_CALC = "Compute the intermediate values in the following long expression.\n\n{context}"
"""The one official text (src/prompt.py, MIT) that lm-eval 0.4.13 lacks. The official code never used it: for
GPT-4 it sent the bare expression, after a chat example."""

EXAMPLE = {
    "context": "{context}",
    "input": "func_0(1)",
    "options": ["{OPTION_A}", "{OPTION_B}", "{OPTION_C}", "{OPTION_D}"],
}
"""A document made of slots: what lm-eval's functions make of it is the template."""


def template(task: str, family: str = "gpt4", file: Path | None = None) -> str:
    """The official template of a task in a family.

    file: the official src/prompt.py, or JSON {family: {task: text}} or {task: text}; without one there is
    gpt4 only. Raises UserError for an unknown family, a missing text, or a hash that is not the official one.
    """
    if family not in FAMILIES:
        raise unknown("prompt family", family, FAMILIES)
    if file is None:
        if family != "gpt4":
            raise UserError(
                f"The prompts of the family {family} do not come with lm-eval: give src/prompt.py of "
                "github.com/OpenBMB/InfiniteBench as --set templates=FILE."
            )
        return _from_lm_eval(task)
    texts = _from_file(file, family)
    if task not in texts:
        raise UserError(f"{file} has no text for {task} in the family {family}: add it, or choose another family.")
    return _check(texts[task], task, family, str(file))


def _check(text: str, task: str, family: str, source: str) -> str:
    expected = official_prompts.hashes()["infinitebench"][family][task]
    return official_prompts.check(text, expected, f"InfiniteBench {task} ({family})", source)


@cache
def _from_lm_eval(task: str) -> str:
    """Description + doc_to_text; where the latter is a function, it is given a document of slots."""
    if task == "math_calc":
        return _check(MATH_CALC, task, "gpt4", "this package")
    name = f"infinitebench/infinitebench_{FILES.get(task, task)}.yaml"
    config = official_prompts.read_yaml(name)
    if config is None:
        raise UserError(f"{official_prompts.version()} has no file {name}: pip install 'lm-eval==0.4.13'.")
    text = config["doc_to_text"]
    if text.startswith("utils."):
        module = official_prompts.read_module("infinitebench/utils.py")
        text = getattr(module, text.removeprefix("utils."))(EXAMPLE)
        for filled, slot in _slots_of(task):
            text = text.replace(filled, slot)
    else:
        slot = "{question}" if task.startswith("longbook_qa") else "{input}"
        text = text.replace("{{context}}", "{context}").replace("{{input}}", slot)
    return _check(config.get("description", "") + text, task, "gpt4", official_prompts.version())


def _slots_of(task: str) -> list[tuple[str, str]]:
    """What lm-eval's function made of the document's input, and the official slot in its place."""
    if task == "code_run":
        return [("func_0(1)", "{func_call}"), ("func_0", "{func}")]
    if task == "math_find":
        return [("func_0(1)\n", "{prefix}\n"), ("func_0(1)", "{input}")]
    return [("func_0(1)", "{question}")]


TEXTS = TypeAdapter(dict[str, str])


@cache
def _from_file(file: Path, family: str) -> dict[str, str]:
    """The texts of a family from prompt.py (read, not run) or JSON."""
    try:
        source = file.read_text(encoding="utf-8")
        if file.suffix == ".py":
            return _from_python(source, family)
        texts = json.loads(source)
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise UserError(f"The templates file {file} cannot be read ({error}): give src/prompt.py or JSON.") from error
    wrong = f"The templates file {file} does not map tasks to texts: it should be {{task: text}} or {{family: ...}}."
    if not isinstance(texts, dict):
        raise UserError(wrong)
    try:
        return TEXTS.validate_python(texts.get(family, texts), strict=True)
    except ValidationError as error:
        raise UserError(wrong) from error


def _from_python(source: str, family: str) -> dict[str, str]:
    """The dictionary `<family>_templates` of the official file; empty where it has none."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if f"{family}_templates" in names:
                pairs = zip(node.value.keys, node.value.values, strict=True)
                return {_text(key): _text(value) for key, value in pairs if key is not None}
    return {}


def _text(node: ast.expr) -> str:
    """A string literal, or a sum of them."""
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return str(ast.literal_eval(node))


def fields(task: str, row_input: str, options: Sequence[str]) -> dict[str, str]:
    """What fills the slots other than {context}, as in the official create_prompt.

    Raises UserError where the input does not name what the template asks for.
    """
    values = {"input": row_input, "question": row_input}
    values.update((f"OPTION_{letter}", option) for letter, option in zip("ABCD", options, strict=False))
    if task == "code_run":
        call = re.search(r"(func_[0-9]+)\(-?[0-9]+\)", row_input)
        if call is None:
            raise UserError("the input names no call such as func_1(2): fix or delete the row.")
        values.update(func=call.group(1), func_call=call.group(0))
    if task == "math_find":
        target = re.search("The .+ of", row_input)
        if target is None:
            raise UserError('the input does not say "The ... of": fix or delete the row.')
        values["prefix"] = f"What is {target.group(0).lower()[:-3]} in the following list?"
    return values
