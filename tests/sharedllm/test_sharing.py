"""Adapters on the hub: pushed with a model card, and loaded by name from its cache, base and all. Nothing is sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM
from sharedllm.model_card import rows_of
from sharedllm.sources import load_base

METHOD: dict[str, Any] = {"chunk_size": 16, "ratios": [4, 2], "lower_layers": 2, "policy": "maxsim"}
COMMITS = {"org/base": "b" * 40, "org/name": "a" * 40}


def into_cache(cache: Path, repository: str, folder: Path) -> None:
    """What a download of a repository leaves in the hub's cache."""
    place = cache / f"models--{repository.replace('/', '--')}"
    commit = COMMITS[repository]
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options that load from a cache alone; it holds org/base, and whatever is uploaded while the test runs."""
    into_cache(tmp_path, "org/base", tiny_llama)

    def upload(self: Any, repo_id: str, folder_path: str, **options: Any) -> SimpleNamespace:
        into_cache(tmp_path, repo_id, Path(folder_path))
        return SimpleNamespace(oid=COMMITS[repo_id])

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **options: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    return {"cache_dir": tmp_path, "local_files_only": True}


@pytest.fixture
def model(hub: dict[str, Any]) -> SharedLLMForCausalLM:
    made = SharedLLMForCausalLM.from_base(load_base("org/base", **hub), **METHOD)
    for parameter in made.base.parameters():
        parameter.requires_grad_(False)
    for cross in made.cross_attention:
        nn.init.normal_(cross.o_proj.weight, std=0.3)
    return made.eval()


@torch.no_grad()
def logits(model: SharedLLMForCausalLM) -> torch.Tensor:
    ids = torch.arange(40)
    return model(ids[None, 32:], ids[None, :32].view(1, 2, 16), query_length=4).logits


def test_what_is_pushed_comes_back_by_name_with_its_base(hub: dict[str, Any], model: SharedLLMForCausalLM) -> None:
    quality = [{"length": "8K", "needles": 0.85}, {"length": "128K", "needles": 0.8, "note": "a | b"}]
    model.push_to_hub("org/name", training_data="Novels before 1920.", quality=quality, licence="apache-2.0")
    (snapshot,) = (hub["cache_dir"] / "models--org--name" / "snapshots").iterdir()
    card = (snapshot / "README.md").read_text(encoding="utf-8")
    for said in (
        "base_model: org/base",
        "base_model_relation: adapter",
        "license: apache-2.0",
        f"`org/base`, commit {COMMITS['org/base']}",
        "| policy | maxsim | last_token |",
        "Novels before 1920.",
        "| length | needles | note |",
        "| 128K | 0.8 | a \\| b |",
        'from_pretrained("org/name")',
    ):
        assert said in card
    assert str(hub["cache_dir"]) not in "".join(path.read_text() for path in snapshot.glob("*.json"))
    loads: list[Callable[..., Any]] = [SharedLLMForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained]
    for load in loads:
        again = load("org/name", **hub)
        assert type(again) is SharedLLMForCausalLM
        assert again.adapter_base == "org/base"
        assert again.base.config._commit_hash == COMMITS["org/base"]
        assert (logits(again) - logits(model)).abs().max() < 0.05  # an adapter is stored in bfloat16
        assert load("org/name", policy="right", **hub).config.policy == "right"
    assert load("org/name", dtype=torch.bfloat16, **hub).dtype == torch.bfloat16
    config = AutoConfig.from_pretrained("org/name", **hub)
    assert type(config) is SharedLLMConfig
    assert config.ratios == [4, 2]


def test_an_adapter_without_its_base_is_a_sentence(hub: dict[str, Any], model: SharedLLMForCausalLM) -> None:
    model.push_to_hub("org/name")
    shutil.rmtree(hub["cache_dir"] / "models--org--base")
    with pytest.raises(ValueError, match=r"The base org/base cannot be read \(.*: name its folder in base="):
        SharedLLMForCausalLM.from_pretrained("org/name", **hub)
    with pytest.raises(OSError):  # transformers says what it looked for
        SharedLLMForCausalLM.from_pretrained("org/none", **hub)


def test_a_base_that_others_cannot_load_needs_a_name(tiny_llama: Path, hub: dict[str, Any]) -> None:
    model = SharedLLMForCausalLM.from_base(str(tiny_llama), **METHOD)
    with pytest.raises(ValueError, match="which others do not have: name its hub repository, base_name="):
        model.push_to_hub("org/name")
    model.push_to_hub("org/name", base_name="org/base")
    assert SharedLLMForCausalLM.from_pretrained("org/name", **hub).adapter_base == "org/base"


def test_results_become_rows() -> None:
    results = {"needles": {2: {"exact": 0.5}}, "loss": 1, "note": "x"}
    assert list(rows_of(results)) == [
        {"measure": "needles, 2, exact", "value": 0.5},
        {"measure": "loss", "value": 1.0},
    ]
