"""Hub repositories: which files are fetched, and presets of released checkpoints on stand-ins with the hub's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from released import FakeHub, as_bin_shards, write_sentencepiece
from shapes import TINY_SHAPE

from evals import registry
from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Query, Runtime
from evals.methods.presets import Weights, load_preset
from evals.methods.weights import hub as hub_module
from evals.methods.weights import load_base
from evals.methods.weights.hub import snapshot

LLAMA = json.dumps({"model_type": "llama", **TINY_SHAPE})
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
BIN_INDEX = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr("evals.hub.reachable", lambda: True)
    return fake


def repository(hub: FakeHub, folder: Path, **files: str) -> Weights:
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    hub.repositories["org/name"] = folder
    return Weights(source="hub:org/name")


CASES: dict[str, tuple[dict[str, str], set[str], set[str]]] = {
    "vocab.json and merges.txt": (
        {"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": "{}", "model.safetensors": ""},
        {"vocab.json", "merges.txt", "tokenizer_config.json", "model.safetensors"},
        set(),
    ),
    "shards and a consolidated copy": (
        {
            "tokenizer.json": "{}",
            "consolidated.safetensors": "",
            "model.safetensors.index.json": INDEX,
            "model-00001-of-00002.safetensors": "",
            "model-00002-of-00002.safetensors": "",
            "params.json": "{}",
        },
        {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"},
        {"consolidated.safetensors", "params.json"},
    ),
    "bin beside ONNX": (
        {"tokenizer.json": "{}", "pytorch_model.bin": "", "onnx__model.safetensors": "", "onnx__model.onnx": ""},
        {"pytorch_model.bin"},
        {"onnx/model.safetensors", "onnx/model.onnx"},
    ),
    "bin beside safetensors": (
        {"tokenizer.model": "", "pytorch_model.bin": "", "model.safetensors": ""},
        {"model.safetensors", "tokenizer.model"},
        {"pytorch_model.bin"},
    ),
    "bin in shards, other formats": (
        {
            "tokenizer.json": "{}",
            "pytorch_model.bin.index.json": BIN_INDEX,
            "pytorch_model-00001-of-00001.bin": "",
            "tf_model.h5": "",
            "flax_model.msgpack": "",
            "training_args.bin": "",
            "optimizer.pt": "",
            "README.md": "",
            "modeling_x.py": "",
        },
        {"pytorch_model-00001-of-00001.bin"},
        {"tf_model.h5", "flax_model.msgpack", "training_args.bin", "optimizer.pt", "README.md", "modeling_x.py"},
    ),
    "chat templates": (
        {
            "tokenizer.json": "{}",
            "chat_template.jinja": "",
            "additional_chat_templates__rag.jinja": "",
            "generation_config.json": "{}",
            "model.safetensors": "",
        },
        {"chat_template.jinja", "additional_chat_templates/rag.jinja", "generation_config.json"},
        set(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_load_reads_is_fetched_and_nothing_else(name: str, hub: FakeHub, tmp_path: Path) -> None:
    files, needed, left_out = CASES[name]
    weights = repository(hub, tmp_path / "remote", **{"config.json": LLAMA, **files})
    snapshot(weights, offline=False)
    assert needed <= set(hub.fetched)
    assert not left_out & set(hub.fetched)
    assert len(hub.fetched) == len(set(hub.fetched))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": LLAMA, "model.safetensors": ""}, "has no tokenizer"),
        ({"config.json": "{}", "model.safetensors": "", "tokenizer.json": "{}"}, "names no model_type"),
        ({"config.json": "[", "model.safetensors": "", "tokenizer.json": "{}"}, "cannot be read"),
        (
            {"config.json": LLAMA, "model.safetensors.index.json": "{}", "tokenizer.json": "{}"},
            "no weight_map",
        ),
    ],
)
def test_what_must_fail_does_so_before_weights_are_fetched(
    files: dict[str, str], message: str, hub: FakeHub, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        snapshot(repository(hub, tmp_path / "remote", **files), offline=False)
    assert not [name for name in hub.fetched if name.endswith((".safetensors", ".bin"))]


def test_the_identity_of_a_branch_fetches_its_config_alone(hub: FakeHub, tmp_path: Path) -> None:
    weights = repository(hub, tmp_path / "remote", **{"config.json": LLAMA, "model.safetensors": "x"})
    assert hub_module.commit(weights, offline=False) == "0" * 40
    assert hub.fetched == ["config.json"]


# Files of the releases as they stand on the hub; beacon's and CEPE's were not all seen.
SMALL = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
RELEASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "yarn-7b-128k": ({}, {"AutoConfig": "configuration_llama.LlamaConfig"}, True),
    "yarn-7b-64k": ({}, {"AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM"}, True),
    "longllama-3b": ({"mem_layers": [1, 2]}, {"AutoConfig": "configuration_longllama.LongLlamaConfig"}, False),
    "longllama-3b-v1.1": ({"mem_layers": [1, 2]}, {"AutoConfig": "configuration_longllama.LongLlamaConfig"}, True),
    "cepe-7b": (
        {"num_cross_attn_layers": 4, "encoder_hidden_size": 32, "encoder_config": {"model_type": "llama", **SMALL}},
        {},
        True,
    ),
    "beacon-qwen2-7b": (
        {"beacon_window": 32, "beacon_ratio": [2, 4], "num_key_value_heads": 2},
        {"AutoConfig": "x.Qwen2Config"},
        False,
    ),
}


def write_release(preset: presets.Preset, changes: dict[str, Any], folder: Path, remote_code: dict[str, Any]) -> Any:
    """A tiny random model of the preset's method, saved with sentencepiece's tokenizer.model; returns the method."""
    shape = {**(preset.shape or {}), **SMALL, **changes}
    tiny = preset.model_copy(update={"shape": shape})
    made = registry.method(preset.method).load(tiny, Runtime(random_weights=True, offline=True))
    made.model.save_pretrained(folder)  # type: ignore[attr-defined]
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_sentencepiece(folder, normalization_rule_name="nmt_nfkc")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": remote_code}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    code = {"AutoTokenizer": ["tokenization.Custom", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "auto_map": code}))
    return made


@pytest.mark.parametrize("name", RELEASES)
def test_presets_of_releases_load_the_files_of_the_hub(name: str, hub: FakeHub, tmp_path: Path) -> None:
    preset, (changes, remote_code, as_bin) = load_preset(name), RELEASES[name]
    folder = tmp_path / "remote"
    made = write_release(preset, changes, folder, remote_code)
    if as_bin:
        as_bin_shards(folder)
    hub.repositories[preset.weights.name] = folder
    loaded = registry.method(preset.method).load(preset, Runtime())
    assert hub.revisions[0] == preset.weights.revision
    assert loaded.tokenizer("Hello ﬁ")["input_ids"][0] == loaded.tokenizer.bos_token_id
    context = list(range(3, 60))
    one, other = (m.prefill(context).score(Query([5, 6]), [7, 8]) for m in (made, loaded))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", presets.names())
def test_a_hub_preset_is_pinned_or_says_that_it_is_not(name: str) -> None:
    preset = load_preset(name)
    weights = preset.weights
    if weights.kind == "hub":
        assert weights.size
        assert weights.licence
        assert ("no commit pinned" in weights.facts) == (weights.revision is None)
        assert weights.revision is None or len(weights.revision) == 40


def test_nothing_is_fetched_offline(hub: FakeHub, tmp_path: Path) -> None:
    weights = repository(hub, tmp_path / "remote", **{"config.json": LLAMA, "model.safetensors": "x"})
    with pytest.raises(UserError, match="hf download org/name"):
        load_base(weights, Runtime(offline=True), None)
    assert hub.fetched == []
