"""What `--checkpoint` names is looked at before anything is loaded, in a dry run and in a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained_runs import train
from transformers import AutoModelForCausalLM

from sharedllm.adapter_files import CONFIG, SHIPPED

METHODS = {
    "sharedllm": "sharedllm",
    "window": "window",
    "beacon": "activation_beacon",
    "cepe": "cepe",
    "longllama": "longllama",
}
"""Trained methods and their names in the harness."""


@pytest.fixture
def planned(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Plans a run of a preset with `--checkpoint`: what is said where it fails, nothing where it does not."""

    def plan(preset: Path, folder: Path, *more: object) -> str:
        words = ["--task", "needle", "--model", preset, "--length", 1024, "--checkpoint", folder, "--dry-run", *more]
        result = command(*words)
        assert result.code in (0, 2)
        return str(result.err) if result.code else ""

    return plan


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize("name", METHODS)
def test_a_plan_says_what_does_not_fit_in_an_adapter(
    name: str,
    planned: Callable[..., str],
    tiny_llama: Path,
    tiny_presets: Callable[..., Path],
    texts: Path,
    tmp_path: Path,
) -> None:
    train(name, tiny_llama, texts, tmp_path / "run", steps=1)
    settings = {"window": 64} if name == "cepe" else {}
    preset = tiny_presets(METHODS[name], f"{name}-planned", adapter={"source": "nowhere"}, settings=settings)
    adapter = tmp_path / "run" / "adapter"
    assert planned(preset, adapter) == ""
    assert "There is no adapter in" in planned(preset, tmp_path)
    assert f"itself: name {adapter}" in planned(preset, tmp_path / "run")

    foreign = tiny_presets(METHODS["window" if name != "window" else "cepe"], "foreign", adapter={"source": "nowhere"})
    assert f"is of the method '{name}', not" in planned(foreign, adapter)

    cut = copied(adapter, tmp_path / "cut")
    (file,) = cut.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    assert f"{file} is not a whole safetensors file" in planned(preset, cut)
    file.unlink()
    assert "has no adapter-*.safetensors: copy the whole folder" in planned(preset, cut)

    poor = copied(adapter, tmp_path / "poor")
    (file,) = poor.glob("*.safetensors")
    whole = load_file(file)
    save_file({**whole, "other": torch.zeros(1)}, file)
    assert "has weights this model has no place for: other" in planned(preset, poor)
    missing = min(whole)
    save_file({name: tensor for name, tensor in whole.items() if name != missing}, file)
    assert f"lacks {missing}: check its files" in planned(preset, poor)
    for dtype, said in ((torch.int32, "I32"), (torch.float8_e4m3fn, "F8_E4M3")):
        save_file({**whole, missing: whole[missing].to(dtype)}, file)
        assert f"{file} holds {missing} as {said}: save it as BF16, F16, F32, F64." in planned(preset, poor)

    odd = copied(adapter, tmp_path / "odd")
    (record,) = odd.glob("*_adapter.json")
    record.write_text(record.read_text().replace("chunk_size", "chunk_sise"))
    assert "chunk_sise" in planned(preset, odd)


def test_an_adapter_of_another_base_is_found_by_the_values_in_its_files(
    planned: Callable[..., str], tiny_llama: Path, tiny_presets: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """A copy in half precision is the same base; one that is quantised or not in files of that form says nothing."""
    train("window", tiny_llama, texts, tmp_path / "run", steps=1)
    adapter = tmp_path / "run" / "adapter"
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    half, other = copied(tiny_llama, tmp_path / "half"), copied(tiny_llama, tmp_path / "other")
    model.half().save_pretrained(half)
    model.float().model.layers[1].mlp.up_proj.weight.data.normal_()
    model.save_pretrained(other)
    presets = {
        folder: tiny_presets("window", f"over-{folder.name}", weights={"source": str(folder)}, adapter={"source": "-"})
        for folder in (half, other)
    }
    assert planned(presets[half], adapter) == ""
    assert "this base has other weights, choose an adapter of it" in planned(presets[other], adapter)
    (file,) = other.glob("*.safetensors")
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    assert planned(presets[other], adapter) == ""
    file.rename(file.with_name("pytorch_model.bin"))
    assert planned(presets[other], adapter) == ""


def test_settings_that_an_adapter_has_for_good_are_refused_in_a_plan(
    planned: Callable[..., str], tiny_llama: Path, tiny_presets: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    train("sharedllm", tiny_llama, texts, tmp_path / "run", steps=1)
    preset = tiny_presets("sharedllm", "set", adapter={"source": "nowhere"})
    said = planned(preset, tmp_path / "run" / "adapter", "--set", "injection=top")
    assert "injection is 'top', but the weights of the adapter" in said
    assert planned(preset, tmp_path / "run" / "adapter", "--set", "policy=right") == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["nodes=all", "chunk_size=18"], "chunk_size 18 has no 4 equal parts"),
        (["chunk_size=3"], "chunk_size 3 cannot be halved 2 times"),
        (["leaf_overlap=20", "chunk_size=20"], "leaf_overlap is 20"),
        (["chunk_size=null"], "chunk_size: "),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused_in_a_plan(
    changes: list[str], said: str, command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    record = json.loads((SHIPPED / "smollm2-135m" / CONFIG).read_text())
    record["settings"] |= {"chunk_size": 16, "ratios": [4, 2], "leaf_overlap": None}
    adapter = copied(SHIPPED / "smollm2-135m", tmp_path / "adapter")
    (adapter / CONFIG).write_text(json.dumps(record))
    preset = tiny_presets("sharedllm", "together", adapter={"source": str(adapter)})
    words = ["--task", "needle", "--model", preset, "--length", 1024, "--dry-run"]
    assert command(*words).code == 0
    result = command(*words, "--set", *changes)
    assert result.code == 2
    assert said in result.err
    record["settings"] |= {"attention": "joint"}
    (adapter / CONFIG).write_text(json.dumps(record))
    assert "joint attention runs on one GPU; set gpus=1" in command(*words, "--set", "gpus=2").err


def test_a_damaged_checkpoint_is_found_in_a_plan(
    planned: Callable[..., str], tiny_llama: Path, tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    preset = tiny_presets("full", "whole")
    assert planned(preset, tiny_llama) == ""
    assert "There is no model in" in planned(preset, tmp_path)
    cut = copied(tiny_llama, tmp_path / "cut")
    (file,) = cut.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    assert f"{file} has " in planned(preset, cut)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert "peft" in planned(preset, tmp_path / "peft")


def test_an_adapter_that_is_not_there_yet_can_be_planned(
    command: Callable[..., Any], tiny_presets: Callable[..., Path]
) -> None:
    preset = tiny_presets("window", "later", adapter={"source": "nowhere"})
    words = ["--task", "needle", "--model", preset, "--length", 1024]
    wanted = "The adapter of later will be at nowhere before the run: nothing is there now."
    plan = command(*words, "--dry-run")
    assert plan.code == 0
    assert wanted in plan.out
    assert wanted not in command(*words, "--dry-run", "--random-weights").out
    assert command(*words).code == 2
