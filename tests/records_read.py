"""How often records are read from the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evals.records import lines


class _Counting:
    """Stands for the adapter that makes records of lines."""

    def __init__(self, adapter: Any, read: list[bytes]) -> None:
        self.adapter, self.read = adapter, read

    def validate_json(self, text: bytes, **options: Any) -> Any:
        self.read.append(text)
        return self.adapter.validate_json(text, **options)


@contextmanager
def records_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The lines of which records were made."""
    read: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(lines, "_ADAPTER", _Counting(lines._ADAPTER, read))
        yield read
