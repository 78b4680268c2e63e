"""What L-Eval asks, and what it asks a judge: the official texts out of a clone, by hash, or a wording of our own.

The official texts are under the GPL and so are not in this project. The clone's scripts are parsed, never run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evals.errors import UserError
from evals.tasks.common.official_prompts import sha256
from evals.tasks.common.source import DataSource
from evals.tasks.leval.rows import CLOSED, beside

SCRIPTS = ("Baselines/LEval_config.py", "Baselines/turbo16k-test.py", "Evaluation/llm_eval.py")
HASHES = {
    "gsm100": "676ea94667c658a7ba82890884048fbc0ea613e745b98a47d2443c8143d1cf7a",
    "topic_retrieval_longchat": "bd666e7f7b4892c827d5f5211be8eacfaf5e2ce19ec01ee6642705da42f8b84a",
    "coursera": "4201769f9f5eaabf7139ed4bd9d0ec1a215813db366f1f69f0f24ef1344c0649",
    "codeU": "c97c5c50a4c58bcf144526236d9ff4f8822fd0f8275630e7ce63da483930d12e",
    "sci_fi": "b72b3bc8f17ec290fb990c5c37652532b46847438be087708c80a92131895c8f",
    "closed": "c69304dd4e3b822872782279aa2a1b151832d6daef6192cee3c40c6d85fab3f0",
    "open": "a11d27cab51e49d5a722845429ea4b50908ac8a1e4b61431ef7af113b4ca9e42",
    "closed form": "c7cee03dec59cd4c86931421541116cf77ea8fb2dd2ad168e9a2e02edc840a39",
    "open form": "1ce7b18b5490c01717185ca0f3e3f2ac31dd73964b768f462f14709364a5d09a",
    "hint": "c325f25f3c32e98e2b85444caa388a17c7b1c31d650dfbe0d3727f56c4d4580c",
    "hint end": "a7fd14b722395df28032d4630cebf9e3a9b6bccec076f257797f0c880b44f098",
    "judge": "fdbcd914c96b9830e39ca1fca80070bb7cc438f8a9ee15b9295efde88baa4cda",
    "judge form": "10e7c057a6235eca7569f3ffa085a5f27f782d598c45cb9d29909cd031478fb8",
}
"""sha256 of the string constants of the scripts that are wanted, by our names."""
OWN = {
    "gsm100": "Here are worked examples. Solve the last problem in the same way, and end with: The answer is _ .",
    "topic_retrieval_longchat": "Here is a long conversation about many topics, each of which the user opens by naming "
    "it. Questions about the names of the topics follow it.",
    "coursera": "Answer the question about the document. One choice may be right, or several: reply with their letters "
    "alone, such as A or AB.",
    "codeU": "Here are the functions of a program, with comments. A question about calls of them follows.",
    "sci_fi": "Reply True or False, by what the story says and not by what you know.",
    "closed": "Answer the question about the document. One choice is right: reply with its letter alone. Without "
    "choices, reply as briefly as you can.",
    "open": "Do with the document what the instruction after it says.",
    "closed form": "Document:\n{}\n\nQuestion: {}\nReply with the answer alone.\nAnswer: ",
    "open form": "Document:\n{}\n\nInstruction: {}\n",
    "hint": "Write about ",
    "hint end": " words.\nOutput: ",
    "judge": "You compare two answers, A and B, to a question about a long document that you do not see. A person "
    "wrote the reference answer: what it does not say is no advantage, and what contradicts it is the worst fault. "
    "Neither the order of the answers nor their length matters. Explain your choice, then end with [[A]] or [[B]] for "
    "the better answer, or [[C]] where they are equally good.",
    "judge form": "Question:\n{question}\n\nReference answer:\n{ref_answer}\n\nAnswer A:\n{answer_a}\n\n"
    "Answer B:\n{answer_b}",
}
"""The same in our words."""
BARE = ("gsm100", "codeU")
"""Data sets whose question follows the document without a form around both."""


@dataclass(frozen=True)
class Text:
    """A prompt: what stands before and after the document. template: the text around document and question."""

    before: str
    after: str
    template: str


def texts(own: bool, data: DataSource) -> Mapping[str, str]:
    """All texts by our names. Raises UserError where the clone lacks an official one."""
    return OWN if own else _official(tuple(beside(data, script, "--set wording=own") for script in SCRIPTS))


@lru_cache(maxsize=4)
def _official(scripts: tuple[Path, ...]) -> Mapping[str, str]:
    known = {sha256(text): text for script in scripts for text in _constants(script)}
    missing = [name for name, digest in HASHES.items() if digest not in known]
    if missing:
        raise UserError(
            f"{scripts[0].parent.parent} lacks the official text of {missing[0]} (sha256 {HASHES[missing[0]][:12]}): "
            "use commit cd34b05, or --set wording=own."
        )
    return {name: known[digest] for name, digest in HASHES.items()}


def _constants(script: Path) -> list[str]:
    try:
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{script} is not a Python file that can be read: clone the repository again.") from error
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def prompt(known: Mapping[str, str], dataset: str, instruction: str, reference: str) -> Text:
    """The prompt of a question, as `turbo16k-test.py` puts it together, with the system prompt in front.

    For open-ended questions it names the length of the reference in words (L-Eval's length instruction).
    """
    system = known.get(dataset) or known["closed" if dataset in CLOSED else "open"]
    if dataset in BARE:
        form = "{}\n\n{}"
    elif dataset in CLOSED:
        form = known["closed form"]
    else:
        form = f"{known['open form']}{known['hint']}{len(reference.split())}{known['hint end']}"
    head, between, tail = form.split("{}")
    return Text(f"{system}\n\n{head}", f"{between}{instruction}{tail}", f"{system}\n\n{form}")
