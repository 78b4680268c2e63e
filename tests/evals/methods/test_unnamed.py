"""Models without a preset: folders, GGUF files, hub names; adapters of PEFT merged into their base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import TINY_SHAPE

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights, for_folder_or_hub, load_preset
from evals.methods.weights import identity, load_base
from evals.methods.weights import peft_adapter as adapters

WINDOW = TINY_SHAPE["max_position_embeddings"]


def test_a_folder_is_a_model_with_its_name_and_window(tiny_llama: Path) -> None:
    preset = load_preset(str(tiny_llama))
    assert (preset.name, preset.method, preset.max_context) == (tiny_llama.name, "full", WINDOW)
    assert preset.weights == Weights(source=str(tiny_llama))
    assert for_folder_or_hub(str(tiny_llama), "streaming_llm").method == "streaming_llm"


def test_a_hub_name_is_a_model() -> None:
    for name in ("some-org/some.model-7b", "hub:some-org/some.model-7b"):
        preset = load_preset(name)
        assert (preset.name, preset.weights.source) == ("some.model-7b", "hub:some-org/some.model-7b")
        assert preset.max_context is None
    assert load_preset("hub:gpt2").weights.name == "gpt2"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("tuned/checkpoint-500", "tuned-checkpoint-500"),
        ("tuned/final", "tuned-final"),
        ("models--a--b/snapshots/" + "0" * 40, "snapshots-" + "0" * 40),
        ("with space [and] marks", "with-space-and-marks"),
        ("日本", "日本"),
    ],
)
def test_names_of_folders_are_telling_and_plain(path: str, name: str, tmp_path: Path) -> None:
    (tmp_path / path).mkdir(parents=True)
    assert load_preset(str(tmp_path / path)).name == name


@pytest.mark.parametrize(
    "name",
    ["no/such/folder", "a b/c", "fulll-135m", "", "hub:", "hub:a/b/c", "a/../b", "x" * 5000, "a\0b", "-x/y"],
)
def test_what_is_no_model_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as error:
        load_preset(name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_a_run_over_a_folder_needs_no_preset(tiny_llama: Path, tmp_path: Path, command: Any) -> None:
    options = ("--device", "cpu", "--offline", "--no-perf", "--length", 512, "--limit", 1, "--output", tmp_path / "out")
    result = command("--task", "needle", "--model", tiny_llama, *options)
    assert result.code == 0, result.err
    (cell,) = result.last["cells"]
    assert (cell["model"], cell["status"], cell["max_context"]) == (tiny_llama.name, "ok", WINDOW)


# --- PEFT


def write_adapter(folder: Path, base: Path, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """A LoRA of the attention's query projections; returns what it adds to each of them."""
    peft = pytest.importorskip("peft")

    model = load_base(Weights(source=str(base)), Runtime(), None)[0]
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], base_model_name_or_path=str(base))
    adapted = peft.get_peft_model(model, config)
    added = {}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    for i, layer in enumerate(adapted.base_model.model.model.layers):
        lora = layer.self_attn.q_proj
        product = lora.lora_B["default"].weight @ lora.lora_A["default"].weight
        added[f"model.layers.{i}.self_attn.q_proj.weight"] = 2.0 * product.detach()
    adapted.save_pretrained(folder)
    return added


def test_a_peft_adapter_is_merged_into_its_base(tiny_llama: Path, tmp_path: Path) -> None:
    added = write_adapter(tmp_path / "adapter", tiny_llama)
    base = load_base(Weights(source=str(tiny_llama)), Runtime(), None)[0].state_dict()
    named = Weights(source=str(tmp_path / "adapter")), Runtime()
    given = Weights(source=str(tiny_llama)), Runtime(checkpoint=str(tmp_path / "adapter"))
    for weights, runtime in (named, given):
        model, tokenizer = load_base(weights, runtime, None)
        merged = model.state_dict()
        assert merged.keys() == base.keys()
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, base[name] + added.get(name, 0.0))
        assert tokenizer.bos_token == "<s>"
        assert not model.training


def test_the_identity_of_an_adapter_is_its_own_and_its_bases(tiny_llama: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    write_adapter(tmp_path / "one", base)
    write_adapter(tmp_path / "two", base, scale=1.001)

    def of(name: str) -> str:
        return identity(Weights(source=str(base)), Runtime(checkpoint=str(tmp_path / name)), None)

    first = of("one")
    assert first != of("two")
    assert first == identity(Weights(source=str(tmp_path / "one")), Runtime(), None)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert of("one") != first


def test_adapters_that_do_not_fit_are_refused(tiny_llama: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    write_adapter(folder, tiny_llama)
    weights = Weights(source=str(folder))
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    first = min(tensors)
    damages = [
        ({name: t for name, t in tensors.items() if name != first}, "does not fit its base at"),
        ({**tensors, first.replace("layers.0", "layers.7"): tensors[first].clone()}, "does not fit its base at"),
        ({**tensors, first: torch.zeros(3, 3)}, "cannot be read"),
    ]
    for damaged, message in damages:
        save_file(damaged, path)
        with pytest.raises(UserError, match=message):
            load_base(weights, Runtime(), None)
    path.write_bytes(b"cut")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_base(weights, Runtime(), None)
    path.unlink()
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        load_base(weights, Runtime(), None)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="names no base model"):
        load_base(weights, Runtime(), None)
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install peft"):
        load_base(Weights(source=str(tiny_llama)), Runtime(checkpoint=str(folder)), None)


def test_an_adapter_cannot_name_a_module_to_import(tiny_llama: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "adapter"
    write_adapter(folder, tiny_llama)
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    hostile = {**config, "megatron_config": {"a": 1}, "megatron_core": "hostile"}
    (folder / "adapter_config.json").write_text(json.dumps(hostile))
    with pytest.raises(UserError, match="Megatron"):
        load_base(Weights(source=str(folder)), Runtime(), None)
    assert not (tmp_path / "mark").exists()


# --- GGUF


def test_a_gguf_folder_and_file_are_models(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("gguf")
    from test_weights import write_gguf

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors = write_gguf(tmp_path / "folder")
    file = tmp_path / "folder" / "tiny.gguf"
    assert load_preset(str(file)).name == "tiny"
    for source in (tmp_path / "folder", file):
        weights = load_preset(str(source)).weights
        model = load_base(weights, Runtime(), None)[0]
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    (converted,) = (tmp_path / "cache" / "sharedllm").glob("tiny-*")
    whole = (converted / "model.safetensors").read_bytes()
    (converted / "model.safetensors").write_bytes(whole[:-9])  # a damaged cache is made again
    load_base(weights, Runtime(), None)
    assert (converted / "model.safetensors").read_bytes() == whole
    assert identity(Weights(source=str(file)), Runtime(), None) == identity(weights, Runtime(), None)
    shutil.copy(file, tmp_path / "folder" / "other.gguf")
    with pytest.raises(UserError, match="2 GGUF files: name one of them"):
        load_base(Weights(source=str(tmp_path / "folder")), Runtime(), None)
    file.write_bytes(b"GGUF" + b"\0" * 50)
    with pytest.raises(UserError, match=r"tiny\.gguf"):
        load_base(Weights(source=str(file)), Runtime(), None)
