"""Every notebook runs from its text, and the executed file beside it is that text with outputs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import execute
import folders
import nbformat
import pytest
import sample_rows

FOLDER = folders.ROOT / "notebooks"
NAMES = execute.names()
MACHINE = re.compile(r"/(?:work|tmp|root|home|Users|opt|var)/")


def stored(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str) -> None:
    """In its small form; a cell that fails raises. It shows as many things as the stored one does."""
    shown = execute.execute(name)
    kinds = [[o.output_type for o in outputs(notebook)] for notebook in (shown, stored(name))]
    assert kinds[0] == kinds[1], f"python notebooks/execute.py {name} brings the stored outputs up to date"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_notebook_is_its_text_executed(name: str) -> None:
    text, notebook = execute.read(name), stored(name)
    assert [(c.cell_type, c.source) for c in text.cells] == [(c.cell_type, c.source) for c in notebook.cells], (
        f"python notebooks/execute.py {name} brings the stored notebook up to date"
    )
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    assert not [o for o in outputs(notebook) if o.output_type == "error"]


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_say_nothing_about_a_machine_and_are_small(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    texts = [
        str({k: v for k, v in o.get("data", {"text": o.get("text")}).items() if k != "image/png"})
        for o in outputs(stored(name))
    ]
    assert [t for t in texts if MACHINE.search(t) or "\x1b" in t] == []
    assert path.stat().st_size < 600_000


def test_every_notebook_is_small_unless_told_otherwise() -> None:
    for name in NAMES:
        assert re.findall(r"^FULL = (\w+)$", (FOLDER / f"{name}.py").read_text(), re.M) == ["False"]
        assert f"({name}.ipynb)" in (FOLDER / "README.md").read_text()


class Enough(Exception):
    """Raised in the place of showing what a run would have measured."""


@pytest.mark.parametrize("name", [n for n in NAMES if n != "adding_a_method"])  # that one has no other commands
def test_the_commands_at_full_size_can_be_planned(
    name: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The cells up to the first command, with FULL = True and a `run` that only plans."""
    planned = []
    for kind in ("prose", "verse"):
        (tmp_path / f"{kind}.txt").write_text(f"A sentence of the {kind} is made up. " * 16000, encoding="utf-8")

    def run(line: str) -> None:
        program, *words = shlex.split(re.sub(r"--data-dir \S+", f"--data-dir {tmp_path}", line))
        if program == "sharedllm-eval":
            result = command(*[w for w in words if w != "--dry-run"], "--dry-run")
            assert result.code == 0, result.err
            planned.extend(result.last["cells"])

    def enough(*_: Any) -> None:
        raise Enough

    monkeypatch.chdir(FOLDER)
    monkeypatch.setitem(sys.modules, "tools", SimpleNamespace(run=run, origin=enough, data=enough))
    names: dict[str, Any] = {}
    for cell in execute.read(name).cells:
        if cell.cell_type == "code" and not planned:
            try:
                exec(cell.source.replace("FULL = False", "FULL = True"), names)
            except Enough:
                break
    assert planned


def test_stand_in_rows_have_the_official_form(tmp_path: Path) -> None:
    from evals.tasks.base import DataSource
    from evals.tasks.longbench import rows, views

    sample_rows.write(tmp_path)
    for name in views.PAPER:
        [(_, row)] = rows.read(name, rows.locate(name, DataSource(tmp_path)))
        assert row.answers
        assert row.context
