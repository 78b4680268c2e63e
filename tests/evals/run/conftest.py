"""Fixtures of the tests of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from driver_desk import Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A driver on a small run; see driver_desk.py."""
    pytest.importorskip("ray")
    from driver_desk import Desk

    made = Desk(tmp_path, monkeypatch)
    with made.store:
        yield made
