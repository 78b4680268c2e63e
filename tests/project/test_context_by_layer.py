"""benchmarks/context_by_layer.py: all layers equal dense attention, none equal no context, others lie between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmark_scripts import load
from transformers import AttentionInterface, AutoModelForCausalLM

from sharedllm.training.loss import next_token_loss


@torch.no_grad()
def test_rungs_between_dense_attention_and_no_context(tiny_llama: Path) -> None:
    script = load("context_by_layer")
    attention = script.SomeLayers()
    AttentionInterface.register(script.NAME, attention)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=script.NAME, dtype=torch.float32)
    dense = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="sdpa", dtype=torch.float32)
    context, text = torch.randint(200, (1, 40), generator=torch.manual_seed(0)).split([24, 16], dim=1)
    spans = [script.span(layers) for layers in ("0-3", "0-0", "0-2", "1-3", "0-3")]
    found = script.losses(model, attention, context, text, spans)

    def loss(ids: torch.Tensor, positions: torch.Tensor) -> float:
        hidden = dense.model(input_ids=ids, position_ids=positions).last_hidden_state[:, -16:]
        return float(next_token_loss(hidden, dense.lm_head.weight, text))

    every = torch.arange(40)[None]
    assert found[0] == pytest.approx(loss(torch.cat([context, text], 1), every), abs=1e-5)
    assert found[1] == pytest.approx(loss(text, every[:, 24:]), abs=1e-5)
    assert found[4] == found[0] and len(set(found)) == 4, "one choice of layers does not affect the next"


def test_the_command_writes_every_window(tiny_llama: Path, tmp_path: Path) -> None:
    texts = tmp_path / "held.jsonl"
    rows = [" ".join(f"{start}word{n}" for n in range(90)) for start in "ab"]
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    sizes = ["--context", "96", "--running", "32", "--windows", "2", "--layers", "0-0", "0-3"]
    output = tmp_path / "found.json"
    load("context_by_layer").main(["--base", str(tiny_llama), "--heldout", str(texts), *sizes, "--output", str(output)])
    record = json.loads(output.read_text(encoding="utf-8"))
    assert [r["layers"] for r in record["summary"]] == ["0-0", "0-3"]
    assert len(record["windows"]["held"]) == 2
    assert record["summary"][0]["use"] == pytest.approx(0, abs=1e-6), "no layer sees the context"
