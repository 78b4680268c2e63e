"""Fixtures of the tests of rivals."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@pytest.fixture
def patched_attention() -> Iterator[None]:
    """The attention functions as an import of kvpress leaves them."""
    before = dict(ALL_ATTENTION_FUNCTIONS.items())
    sys.modules["kvpress"].patch_attention_functions()
    yield
    for name, function in before.items():
        ALL_ATTENTION_FUNCTIONS[name] = function
