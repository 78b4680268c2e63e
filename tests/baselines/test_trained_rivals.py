"""CEPE and LongLLaMA under `sharedllm-train`: exact resume, evaluation, record and card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from not_empty import not_empty
from trained_runs import adapter, train

SETTINGS: dict[str, Any] = {"steps": 3, "drop_context": 0.3, "lr": 0.01, "warmup": 0, "gradient_checkpointing": False}


@pytest.mark.parametrize("name", ["cepe", "longllama"])
def test_a_stopped_run_resumes_to_the_same_adapter(name: str, tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    """The first step of CEPE's three is of its first stage."""
    held = [texts / "others.jsonl.gz"]
    whole = train(name, tiny_llama, texts, tmp_path / "whole", heldout=held, **SETTINGS)
    assert set(whole["evaluation"]["language modelling"]["mean"]) == {"own", "other", "none", "use"}
    for step in (1, 2, 3):
        summary = train(name, tiny_llama, texts, tmp_path / "cut", max_seconds=0, **SETTINGS)
        assert summary["step"] == step
    assert summary["tokens"] == whole["tokens"]
    mine, expected = adapter(tmp_path / "cut"), adapter(tmp_path / "whole")
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[n], expected[n]) for n in not_empty(expected))
    assert f"--method {name}" in (tmp_path / "cut" / "adapter" / "README.md").read_text()


def test_the_stages_of_cepe_follow_the_steps(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    """Windows of 2 chunks of 64 and 64 tokens, two a step: in the first stage the running text is read twice."""
    options = {"chunk_size": 64, "encoder_layers": 1, "encoder_chunk": 48, "start": "zero"}
    for same_text, tokens in ((0, 2 * 384), (0.5, 384 + 256), (1, 2 * 256)):
        summary = train("cepe", tiny_llama, texts, tmp_path / str(same_text), {**options, "same_text": same_text})
        assert summary["tokens"] == tokens
