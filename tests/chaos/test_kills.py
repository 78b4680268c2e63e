"""A small part of the kill campaign; `python tests/chaos/kills.py` is the whole."""

from __future__ import annotations

import subprocess
import sys

import folders


def test_runs_that_are_killed_lose_and_double_nothing() -> None:
    """In a process of its own: the campaign forks, which a process with threads of other tests must not."""
    script = folders.TESTS / "chaos" / "kills.py"
    words = [sys.executable, str(script), "--kills", "3", "--measured", "0"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folders.ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills=3, lost=0, doubled=0, different=0" in done.stdout
