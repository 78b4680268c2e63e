"""Parity with the released code (its bugs B1 to B3 repaired) on tiny random models, float32 on the CPU."""

from __future__ import annotations

import json

import folders
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM
from sharedllm.convert import from_released

FOLDER = folders.GOLDEN / "sharedllm"
CASES = json.loads((FOLDER / "cases.json").read_text())["cases"]
RULES = [(k, q) for k in ("node", "node+chunk", "chunk") for q in ("n", "n+1")]
FORWARD = [p.stem for p in sorted(FOLDER.glob("lm_*.safetensors"))] + [
    p.stem for p in sorted(FOLDER.glob("query_*.safetensors"))
]


def build(case: str, keys: str = "chunk", query: str = "n") -> SharedLLMForCausalLM:
    spec = CASES[case]
    weights = load_file(FOLDER / f"{spec['weights']}.safetensors")
    kv_heads = 2 if spec["weights"].endswith("gqa") else 4
    base = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    depth, kept = spec["depth"], int(spec["last_p"].split(",")[0])
    # the released code keeps `last_p` entries a node: its ratios follow from the nodes' lengths
    lengths = [spec["chunk"] // 2**w for w in range(1, depth + 1)]
    config = SharedLLMConfig(
        base_config=base,
        chunk_size=spec["chunk"],
        ratios=[length / kept for length in lengths],
        lower_layers=2,
        policy="last_token" if spec["do_retrieval"] else "right",
        key_positions=keys,
        query_position=query,
        sampling="strided" if spec["chunk"] == 100 else "equidistant",
    )
    return from_released(weights, config)


def inputs(case: str, data: dict[str, torch.Tensor]) -> dict[str, object]:
    spec = CASES[case]
    question = None
    if spec["do_retrieval"]:
        question = spec.get("query_length") or spec["q_len"]
    return {
        "input_ids": data["in.input_ids"],
        "context_ids": data["in.encoder_input_ids"],
        "query_length": question,
    }


@pytest.mark.parametrize("case", FORWARD)
def test_logits_loss_and_cross_attention(case: str) -> None:
    data = load_file(FOLDER / f"{case}.safetensors")
    for keys, query in RULES:
        model = build(case, keys, query)
        with torch.no_grad():
            out = model(**inputs(case, data), labels=data["in.labels"])
        name = f"fix.{keys}.{query}"
        torch.testing.assert_close(out.logits, data[f"{name}.logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(out.loss, data[f"{name}.loss"], atol=1e-5, rtol=0)
        if f"{name}.cross.layer0.key" in data:
            torch.testing.assert_close(out.context.keys[0], data[f"{name}.cross.layer0.key"], atol=1e-4, rtol=0)
    values = data["fix.kv.layer1.value"].transpose(0, 1).flatten(1, 2)[None]
    torch.testing.assert_close(out.context.values[1], values, atol=1e-4, rtol=0)
    assert not torch.allclose(out.logits, data["vanilla.logits"], atol=0.5), "the context must matter"


@pytest.mark.parametrize("case", [c for c in FORWARD if c.startswith("query")])
def test_the_search_chooses_the_same_halves(case: str) -> None:
    data = load_file(FOLDER / f"{case}.safetensors")
    with torch.no_grad():
        out = build(case)(**inputs(case, data))
    for level in range(out.context.path.shape[-1]):
        assert out.context.path[0, :, level].long().tolist() == data[f"fix.level{level}.chosen"].tolist()


def test_greedy_generation_searches_once_and_then_steps() -> None:
    case = "gen_query_n3_gqa"
    data = load_file(FOLDER / f"{case}.safetensors")
    for keys, query in RULES:
        model = build(case, keys, query)
        model.generation_config.eos_token_id = None
        out = model.generate(
            **inputs(case, data),
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        name = f"fix.{keys}.{query}"
        assert out.sequences[:, 24:].tolist() == data[f"{name}.tokens"].tolist()
        torch.testing.assert_close(torch.stack(out.logits, 1), data[f"{name}.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("keys", "query"), [("chunk", "n"), ("node+chunk", "n+1")])
def test_gradients(keys: str, query: str) -> None:
    case = "train_lm_n3_mha"
    data = load_file(FOLDER / f"{case}.safetensors")
    model = build(case, keys, query).train()
    out = model(**inputs(case, data), labels=data["in.labels"], use_cache=False)
    out.loss.backward()
    name = f"fix.{keys}.{query}"
    torch.testing.assert_close(out.loss, data[f"{name}.loss"], atol=1e-5, rtol=0)
    mine = dict(model.named_parameters())
    checked = 0
    for key, expected in data.items():
        if not key.startswith(f"{name}.grad."):
            continue
        released = key.removeprefix(f"{name}.grad.")
        layer, cross, part = released.removeprefix("model.layers.").partition(".cross_attn.")
        ours = f"cross_attention.{layer}.{part.replace('layernorm', 'norm')}" if cross else f"base.{released}"
        gradient = mine[ours].grad
        assert gradient is not None, ours
        assert (gradient - expected).norm() <= 1e-4 * expected.norm(), ours
        checked += 1
    assert checked == 19
