"""Whether weights are here, as `--list` says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.methods.presets import Weights
from evals.methods.presets.presence import is_here

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_packages_and_folders_are_looked_for(tmp_path: Path) -> None:
    assert is_here(Weights(source="package:sharedllm"))
    assert not is_here(Weights(source="package:nobody-has-this"))
    assert is_here(Weights(source=str(tmp_path)))
    assert not is_here(Weights(source=str(tmp_path / "nowhere")))


def test_the_hubs_cache_is_looked_through_for_weights_of_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    pinned, any_commit = Weights(source="hub:org/name", revision=COMMIT), Weights(source="hub:org/name")
    folder = tmp_path / "models--org--name" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    assert not is_here(any_commit), "a config alone is not the weights"
    (folder / "model.safetensors").touch()
    assert is_here(pinned)
    assert is_here(any_commit)
    assert not is_here(Weights(source="hub:org/name", revision="f" * 40))
