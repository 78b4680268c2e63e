"""Every method of `method_cases`, one after the other: a test that asks for `model` runs with each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from method_cases import CASES, load

from evals.methods.base import LongContextModel


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Iterator[LongContextModel]:
    return load(CASES[name])
