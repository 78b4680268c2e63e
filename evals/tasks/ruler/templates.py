"""The official texts of RULER, read from the installed lm-evaluation-harness and checked by hash.

lm-eval (0.4.13 at the time of writing) carries the texts as constants of its task modules. The modules are
parsed, not imported: importing them downloads nltk data. Two repairs bring them to the official form: the
answer prefix of the needle tasks is an f-string there, and that of question answering lost its leading space.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evals.errors import UserError

SHA256 = {
    "niah": "0085bba9db9754912f6f4ea5b25a39c7fa7eb3c1625fcd42d67ad767569a173e",
    "vt": "e741649dad6d1b9d3554b01f86dafa6bfe1efee23811ad3afe87fbde2ea5ebba",
    "cwe": "a5199b048bceea6fc3c2fa06e7f7710cff46ed0eb66264ec461552b0b8268e5c",
    "fwe": "002a5c2a6b8f4e3b85b1b3ad1aff437a4c2fdd765abfab48ff19e00d7bb41b66",
    "qa": "59688fe0e10df6c49a7392bd6fc0a49474e05f4967f43b10cf72912c84758647",
}
"""Of task text + answer prefix + snippets of every family, in that order."""


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


@cache
def template(family: str) -> Template:
    """The official template of `niah`, `vt`, `cwe`, `fwe` or `qa`.

    Raises UserError where the installed lm-eval holds another text than the official one.
    """
    text, answer_prefix, snippets = _READERS[family]()
    digest = hashlib.sha256("\x00".join([text, answer_prefix, *snippets]).encode()).hexdigest()
    if digest != SHA256[family]:
        raise UserError(
            f"The RULER template '{family}' in lm-eval {version('lm-eval')} is not the official text "
            f"(sha256 {digest[:12]}, expected {SHA256[family][:12]}): pip install lm-eval==0.4.13."
        )
    return Template(text, answer_prefix, snippets)


def _niah() -> tuple[str, str, tuple[str, ...]]:
    tree = _tree("prepare_niah")
    prefixes = [
        node.orelse for node in ast.walk(tree) if isinstance(node, ast.IfExp) and isinstance(node.orelse, ast.JoinedStr)
    ]
    (plural,) = prefixes
    constants = _constants("prepare_niah")
    answer_prefix = " " + "".join(
        str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
        for part in plural.values
        if isinstance(part, ast.Constant | ast.FormattedValue)
    )
    noise = _constants("vt_utils")["noise"].strip()
    return _constants("niah_utils")["TEMPLATE"], answer_prefix, (constants["NEEDLE"], noise)


def _vt() -> tuple[str, str, tuple[str, ...]]:
    constants = _constants("vt_utils")
    config = constants["CONFIG"]["variable_tracking"]
    return config["template"], config["answer_prefix"], (constants["noise"].strip(),)


def _words(module: str) -> tuple[str, str, tuple[str, ...]]:
    config = _constants(module)["CONFIG"]
    return config["template"], config["answer_prefix"], ()


def _qa() -> tuple[str, str, tuple[str, ...]]:
    constants = _constants("qa_utils")
    config = constants["CONFIG"]
    return config["template"], " " + config["answer_prefix"], (constants["DOCUMENT_PROMPT"],)


_READERS = {
    "niah": _niah,
    "vt": _vt,
    "cwe": lambda: _words("cwe_utils"),
    "fwe": lambda: _words("fwe_utils"),
    "qa": _qa,
}


def _constants(module: str) -> dict[str, Any]:
    """Literal assignments `NAME = value` of one of lm-eval's RULER modules, wherever they stand in it."""
    found = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:  # not a literal
                continue
    return found


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations, "lm-eval is a dependency of this package"
    path = Path(spec.submodule_search_locations[0], "tasks", "ruler", f"{module}.py")
    if not path.is_file():
        raise UserError(f"lm-eval {version('lm-eval')} has no RULER file {path.name}: pip install lm-eval==0.4.13.")
    return ast.parse(path.read_text(encoding="utf-8"))
