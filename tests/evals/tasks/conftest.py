"""A tokenizer and texts for the tasks that draw their samples."""

from __future__ import annotations

import pytest

from evals.methods.weights import byte_tokenizer
from evals.tasks.base import DataSource


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(258)


@pytest.fixture(scope="module")
def plain_texts(tmp_path_factory) -> DataSource:
    """Sentences that have nothing to do with any task."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text(" ".join(f"Line {i} says nothing." for i in range(2000)))
    return DataSource(folder)
