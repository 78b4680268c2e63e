"""The commands say in one sentence what lies in the place of `evals` or `baselines`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import folders
import pytest

import sharedllm.commands as commands

EVALUATE = "from sharedllm.commands import evaluate; evaluate()"


def test_the_packages_of_this_checkout_are_ours() -> None:
    commands.check_names(*commands.BESIDE)


@pytest.mark.parametrize("name", commands.BESIDE)
@pytest.mark.parametrize("kind", ["package", "folder", "module"])
def test_a_foreign_package_is_named(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = tmp_path / name
    if kind == "module":
        foreign = tmp_path / f"{name}.py"
        foreign.touch()
    else:
        foreign.mkdir()
    if kind == "package":
        (foreign / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    roots = [path for path in sys.path if path and Path(path).resolve() != folders.ROOT]
    kept = roots if kind == "folder" else sys.path  # a folder without __init__ gives way to any package
    monkeypatch.setattr(sys, "path", [str(tmp_path), *kept])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if "editable" not in repr(f).lower()])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ValueError, match=f"does not find sharedllm's package {name}, another one lies in .*{name}"):
        commands.check_names(name)


@pytest.mark.parametrize("foreign", [True, False])
def test_the_command_ends_with_that_sentence(foreign: bool, tmp_path: Path) -> None:
    (tmp_path / "evals").mkdir()
    if foreign:
        (tmp_path / "evals" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, "--version"],
        env=os.environ | {"PYTHONPATH": str(folders.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if foreign else 0)
    assert len(done.stderr.splitlines()) == foreign
    assert ("another one lies in" in done.stderr) == foreign
