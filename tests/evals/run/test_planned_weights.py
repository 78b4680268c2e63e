"""A preset's own weights, where they are here, are looked at in a plan: what a load would refuse is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def changed_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def peft_adapter(folder: Path, base: str) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))


def a_text_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a model")


def a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def a_cut_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def an_encoder(folder: Path) -> None:
    changed_config(folder, model_type="bert")


def a_trained_adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "sharedllm_adapter.json").write_text("{}")


def a_peft_adapter_without_weights(folder: Path) -> None:
    pytest.importorskip("peft")
    peft_adapter(folder, "org/base")


def a_peft_adapter_of_itself(folder: Path) -> None:
    pytest.importorskip("peft")
    peft_adapter(folder, str(folder))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


WRONG: dict[Callable[[Path], None], str] = {
    a_text_file: "is a file: name the folder that holds it and its config.json",
    a_folder_without_weights: "a folder with config.json and *.safetensors is needed",
    a_cut_file: "that its header names",
    an_encoder: "models of type 'bert' are not decoders",
    a_trained_adapter: "holds what sharedllm-train made of a base, not a model",
    a_peft_adapter_without_weights: "There is no adapter_model.safetensors in",
    a_peft_adapter_of_itself: "names its own folder as the base model",
}


@pytest.fixture
def planned(command: Callable[..., Any]) -> Callable[[Path], Any]:
    """A plan of a run of a preset."""
    return lambda preset: command("--task", "needle", "--model", preset, "--length", 1024, "--dry-run")


@pytest.fixture
def preset(tiny_llama: Path, tiny_presets: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes a preset of a method over a copy of the tiny model, which `change` has changed."""

    def make(change: Callable[[Path], None], method: str = "full", **more: object) -> Path:
        folder = Path(shutil.copytree(tiny_llama, tmp_path / "own"))
        change(folder)
        return tiny_presets(method, "own", weights={"source": str(folder)}, shape=None, **more)

    return make


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_weights_of_a_preset_are_refused_in_a_plan(
    wrong: Callable[[Path], None], preset: Callable[..., Path], planned: Callable[[Path], Any]
) -> None:
    found = planned(preset(wrong))
    assert found.code == 2
    assert WRONG[wrong] in found.err


def test_so_are_those_that_an_adapter_is_laid_over(preset: Callable[..., Path], planned: Callable[[Path], Any]) -> None:
    found = planned(preset(a_cut_file, "sharedllm", adapter={"source": "nowhere"}))
    assert found.code == 2
    assert WRONG[a_cut_file] in found.err


def test_a_peft_adapter_is_refused_where_a_whole_checkpoint_is_wanted(
    preset: Callable[..., Path], planned: Callable[[Path], Any]
) -> None:
    found = planned(preset(lambda folder: peft_adapter(folder, "org/base"), "longllama"))
    assert found.code == 2
    assert "this method takes whole checkpoints" in found.err


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("cepe", "This is not a CEPE model: its config.json has no `encoder_config`"),
        ("longllama", "is of type 'llama', not a LongLLaMA checkpoint"),
        ("activation_beacon", "these are not the weights of an Activation Beacon model"),
    ],
)
def test_a_plain_model_is_refused_where_a_method_has_a_class_of_its_own(
    preset: Callable[..., Path], planned: Callable[[Path], Any], method: str, sentence: str
) -> None:
    found = planned(preset(lambda folder: None, method))
    assert found.code == 2
    assert sentence in found.err


def test_sound_weights_and_those_still_to_come_have_a_plan(
    preset: Callable[..., Path], planned: Callable[[Path], Any], tmp_path: Path
) -> None:
    sound, will_be = preset(lambda folder: None), f"The weights of own will be at {tmp_path / 'own'} before the run"
    assert will_be not in planned(sound).out
    shutil.rmtree(tmp_path / "own")
    assert will_be in planned(sound).out
