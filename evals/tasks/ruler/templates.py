"""The official texts of RULER in two revisions, read from the installed lm-evaluation-harness, checked by hash.

lm-eval carries the texts as constants of its task modules. The modules are parsed, not imported: importing them
downloads nltk data. Repairs bring them to the official form: the answer prefix of the needle tasks is an f-string
there, that of question answering lost its leading space, and variable tracking has the spelling of 2024.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from evals.errors import UserError
from evals.tasks.common import official_prompts

Revision = Literal["2025-06", "2024-12"]
"""Texts and formats of github.com/NVIDIA/RULER by date. "2024-12": commit c5341b4, as in the paper and in lm-eval
0.4.13. "2025-06": commit 9f1c84d; the newest commit that was compared (c3f5e3b, July 2026) has the same."""

Constant = str | int | list["Constant"] | dict[str, "Constant"] | None

SPELLING = {"2024-12": "assgined", "2025-06": "assigned"}
"""The one word that differs, in the answer prefix of variable tracking."""

SHA256 = {
    "niah": "0085bba9db9754912f6f4ea5b25a39c7fa7eb3c1625fcd42d67ad767569a173e",
    "vt": "c5c26643da53fc0d4a25c2bd8f2e0f3fe1090228534c9590575566e718118f13",
    "cwe": "a5199b048bceea6fc3c2fa06e7f7710cff46ed0eb66264ec461552b0b8268e5c",
    "fwe": "002a5c2a6b8f4e3b85b1b3ad1aff437a4c2fdd765abfab48ff19e00d7bb41b66",
    "qa": "59688fe0e10df6c49a7392bd6fc0a49474e05f4967f43b10cf72912c84758647",
}
"""Of task text + answer prefix + snippets of every family, in that order, in the revision 2025."""
VT_2024 = "e741649dad6d1b9d3554b01f86dafa6bfe1efee23811ad3afe87fbde2ea5ebba"


@dataclass(frozen=True)
class Template:
    """text: the task with a `{context}` slot; answer_prefix: what the model continues (after a chat template).

    snippets: building blocks of the context (needle sentence, noise sentence, heading of a document).
    """

    text: str
    answer_prefix: str
    snippets: tuple[str, ...]

    @property
    def full(self) -> str:
        """The whole official text."""
        return self.text + self.answer_prefix

    @property
    def before(self) -> str:
        """What stands before the context: the instruction."""
        return self.text.split("{context}")[0]

    @property
    def after(self) -> str:
        """What stands after the context: the question, without the answer prefix."""
        return self.text.split("{context}")[1]


class _Text(NamedTuple):
    """A template as it is read, before its hash is known to be official."""

    text: str
    answer_prefix: str
    snippets: tuple[str, ...] = ()


@cache
def template(family: str, revision: Revision = "2025-06") -> Template:
    """The official template of `niah`, `vt`, `cwe`, `fwe` or `qa`.

    Raises UserError where the installed lm-eval holds another text than the official one.
    """
    text, answer_prefix, snippets = _READERS[family]()
    if family == "vt":
        for word in SPELLING.values():
            answer_prefix = answer_prefix.replace(word, SPELLING[revision])
    expected = VT_2024 if (family, revision) == ("vt", "2024-12") else SHA256[family]
    joined = "\x00".join([text, answer_prefix, *snippets])
    official_prompts.check(joined, expected, f"RULER {family}", official_prompts.version())
    return Template(text, answer_prefix, snippets)


def _niah() -> _Text:
    (plural,) = (
        node.orelse
        for node in ast.walk(_tree("prepare_niah"))
        if isinstance(node, ast.IfExp) and isinstance(node.orelse, ast.JoinedStr)
    )
    answer_prefix = " " + "".join(
        str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
        for part in plural.values
        if isinstance(part, ast.Constant | ast.FormattedValue)
    )
    needle = _text(_constants("prepare_niah"), "NEEDLE")
    return _Text(_text(_constants("niah_utils"), "TEMPLATE"), answer_prefix, (needle, _noise()))


def _vt() -> _Text:
    config = _table(_table(_constants("vt_utils"), "CONFIG"), "variable_tracking")
    return _Text(_text(config, "template"), _text(config, "answer_prefix"), (_noise(),))


def _words(module: str) -> _Text:
    config = _table(_constants(module), "CONFIG")
    return _Text(_text(config, "template"), _text(config, "answer_prefix"))


def _qa() -> _Text:
    constants = _constants("qa_utils")
    config = _table(constants, "CONFIG")
    heading = _text(constants, "DOCUMENT_PROMPT")
    return _Text(_text(config, "template"), " " + _text(config, "answer_prefix"), (heading,))


_READERS: dict[str, Callable[[], _Text]] = {
    "niah": _niah,
    "vt": _vt,
    "cwe": lambda: _words("cwe_utils"),
    "fwe": lambda: _words("fwe_utils"),
    "qa": _qa,
}


def _noise() -> str:
    return _text(_constants("vt_utils"), "noise").strip()


def _text(constants: dict[str, Constant], name: str) -> str:
    value = constants.get(name)
    if not isinstance(value, str):
        raise _other(name)
    return value


def _table(constants: dict[str, Constant], name: str) -> dict[str, Constant]:
    value = constants.get(name)
    if not isinstance(value, dict):
        raise _other(name)
    return value


def _other(name: str) -> UserError:
    return UserError(
        f"The RULER files of {official_prompts.version()} have no text {name}: pip install 'lm-eval==0.4.13'."
    )


def _constants(module: str) -> dict[str, Constant]:
    """Literal assignments `NAME = value` of one of lm-eval's RULER modules, wherever they stand in it."""
    found: dict[str, Constant] = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # not a literal
                continue
    return found


@cache
def _tree(module: str) -> ast.Module:
    path = official_prompts.tasks_folder() / "ruler" / f"{module}.py"
    if not path.is_file():
        raise UserError(f"{official_prompts.version()} has no RULER file {path.name}: pip install 'lm-eval==0.4.13'.")
    return ast.parse(path.read_text(encoding="utf-8"))
