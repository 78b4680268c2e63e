"""What the README shows works: its snippets run as pasted, its method is dense attention, its commands are accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from not_empty import not_empty

from evals import LongContextModel, Preset, Query, Runtime, Weights, load_preset
from evals.methods.weights import resolve

README = (folders.ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.M | re.S)
    return [text for name, text in fenced if name == language]


def test_the_first_snippet_runs_as_pasted_and_finds_the_number(tmp_path: Path) -> None:
    """The 135M base that `doctor --fix` prepares and the shipped adapter; only this checkout on the path."""
    code, _, _ = blocks("python")
    resolve(load_preset("sharedllm-135m").weights, Runtime(offline=True))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(folders.ROOT), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == " 4179392\n"


FAMILIES = {"llama": {}, "qwen2": {}, "mistral": {"sliding_window": None}, "qwen3": {"head_dim": 8}}
"""Config fields besides those of SHAPE; Qwen2's config has no head_dim."""
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def readme_method(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[LongContextModel]]:
    """The class that the README shows, imported from a file of exactly its text."""
    _, _, code = blocks("python")
    assert len(code.splitlines()) < 40
    folder = tmp_path_factory.mktemp("readme")
    (folder / "readme_method.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield import_module("readme_method").Dense


@pytest.mark.parametrize("family", FAMILIES)
def test_the_method_of_the_readme_is_dense_attention(readme_method: type[LongContextModel], family: str) -> None:
    from baselines.dense import FullAttention

    shape = {"model_type": family, **SHAPE, **FAMILIES[family]}
    preset = Preset(name="tiny", method="full", description="", weights=Weights(source="none"), shape=shape)
    runtime = Runtime(random_weights=True, offline=True)
    ours, full = readme_method.load(preset, runtime), FullAttention.load(preset, runtime)
    context, query, target = list(range(5, 90)), Query([7, 8, 9]), [1, 2, 3, 4]
    for ids in (context, []):
        session, expected = ours.prefill(ids, [256]), full.prefill(ids, [256])
        for _ in range(2):
            assert torch.allclose(session.score(query, target), expected.score(query, target), atol=1e-5)
            assert session.generate(query, 5) == expected.generate(query, 5)
        assert session.state_bytes == ours.cost(len(ids) + 1, 3).state_bytes


def test_the_model_of_the_readme_generates(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    _, code, _ = blocks("python")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(tmp_path)
    chunks, question = torch.randint(64, (1, 2, 1024)), torch.randint(64, (1, 5))
    found: dict[str, Any] = {"context_ids": chunks, "input_ids": question}
    code = code.replace("meta-llama/Llama-2-7b-hf", str(tmp_path)).replace("model.generate", "answer = model.generate")
    exec(code, found)
    assert found["answer"].shape[1] > question.shape[1]


COMMANDS = [
    line.replace("\\\n", " ")
    for block in blocks("")
    for line in re.findall(r"^sharedllm-eval(?:.*\\\n)*.*$", block, flags=re.M)
    if "[" not in line and not line.startswith("sharedllm-eval doctor")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_can_be_planned(command: Callable[..., Any], tmp_path: Path, line: str) -> None:
    for name in ("prose", "verse"):
        (tmp_path / f"{name}.txt").write_text(f"A sentence of the {name} is made up. " * 16_000, encoding="utf-8")
    arguments = shlex.split(line.replace("TEXTS", str(tmp_path)))[1:]
    result = command(*arguments, "--dry-run")
    assert result.code == 0, result.err
    assert all(cell["status"] == "planned" for cell in not_empty(result.last["cells"]))


def test_the_readme_names_every_option(command: Callable[..., Any]) -> None:
    [usage] = [block for block in blocks("") if "[--length" in block]
    shown = set(re.findall(r"--[a-z-]+", command("--help").out))
    assert set(re.findall(r"--[a-z-]+", usage)) <= shown
    assert COMMANDS
