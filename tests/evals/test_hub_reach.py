"""Where the hub cannot be reached, a load fails at once and in one sentence: its client would retry every file."""

from __future__ import annotations

import time
from collections.abc import Iterator

import huggingface_hub
import pytest

from evals.errors import UserError
from evals.hub import reachable
from evals.methods.presets import Weights
from evals.methods.weights.hub import snapshot
from evals.tasks.common.documents import HUB
from evals.tasks.common.hub import fetch, fetch_folder

PINNED = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub at an address where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    reachable.cache_clear()
    yield
    reachable.cache_clear()


@pytest.mark.usefixtures("no_hub")
def test_pinned_weights_and_data_fail_at_once_without_a_hub(caplog: pytest.LogCaptureFixture) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match="hf download nobody/nothing --revision 0123"):
        snapshot(Weights(source="hub:nobody/nothing", revision=PINNED), offline=False)
    with pytest.raises(UserError, match=r"data\.zip of the data set nobody/rows .* the hub does not answer"):
        fetch("nobody/rows", "data.zip", PINNED, offline=False)
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch_folder(HUB["pg19"], offline=False)
    assert time.monotonic() - begin < 10
    assert "Retrying" not in caplog.text


@pytest.mark.usefixtures("no_hub")
def test_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not reachable()
    monkeypatch.setattr(huggingface_hub, "get_session", pytest.fail)
    assert not reachable()
