"""Imports go down only: the contracts of pyproject.toml hold."""

from __future__ import annotations

import subprocess
import sys

import folders


def test_the_import_contracts_hold() -> None:
    words = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*words, "--no-cache"], cwd=folders.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
