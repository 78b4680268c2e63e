"""LongLLaMA's heads of odd sizes are padded in its weights: the same function, in memory of another size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shapes import TINY_SHAPE
from test_longllama import IDS, close, fields, preset
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.longllama.adapter import LongLLaMA
from baselines.longllama.heads import pad_heads
from baselines.longllama.initial import over_base
from baselines.longllama.memory import LongLlamaState
from baselines.longllama.modeling import LongLlamaConfig, LongLlamaForCausalLM
from evals.methods.base import Runtime


@pytest.mark.parametrize("bias", [False, True])
def test_padded_heads_compute_the_same(bias: bool) -> None:
    """Heads of 10 become 16: the same logits within a window, past it and from memory."""
    shape = fields() | {"hidden_size": 40, "initializer_range": 0.3, "last_context_length": 16, "attention_bias": bias}
    torch.manual_seed(0)
    model = LongLlamaForCausalLM(LongLlamaConfig(**shape)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    ids, states, logits = torch.tensor([IDS[:90]]), [], []
    with torch.inference_mode():
        for pad in (False, True):
            added = pad_heads(model.decoder) if pad else 0
            state = model.new_state()
            hidden = [model.read(ids[:, :80], state), model.append(ids[:, 80:], state)]
            logits.append(model.lm_head(torch.cat(hidden, 1)))
            states.append(state)
    close(logits[1], logits[0])
    assert [state.layers[1].keys.shape[-1] for state in states] == [10, 16]
    assert states[1].nbytes == model_bytes(states[1], 16)
    assert added == 4 * 4 * (4 * 6) * 40 * 4  # layers, projections, rows of zeros, hidden, float32
    assert pad_heads(model.decoder) == 0


@pytest.mark.parametrize("rope_type", ["default", "longrope"])
@torch.inference_mode()
def test_padded_heads_leave_the_base_alone(rope_type: str) -> None:
    """Whose tensors and table of rotations the model shares. Tables that are made while it runs fit, too."""
    rope: dict[str, Any] = {"rope_theta": 1e4, "rope_type": rope_type}
    if rope_type == "longrope":
        factors = {"short_factor": [1.0] * 5, "long_factor": [2.0] * 5}
        rope |= factors | {"factor": 4.0, "original_max_position_embeddings": 8}
    shape = {**TINY_SHAPE, "hidden_size": 40, "head_dim": 10, "rope_parameters": rope, "initializer_range": 0.3}
    base = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    model, ids = over_base(base, 16, None), torch.tensor([IDS[:50]])
    wanted, read = base(ids).logits, model(ids)
    assert (pad_heads(model.decoder) > 0) == (rope_type == "default")
    close(model(ids), read)
    close(base(ids).logits, wanted, 0)


def model_bytes(state: LongLlamaState, head_dim: int) -> int:
    """4 heads in float32: two tensors a layer, and in each of two memory layers two copies and raw keys."""
    return 4 * head_dim * 4 * (4 * 2 * state.local + 2 * (2 * (state.stored + state.local) + state.local))


def test_cost_leaves_out_the_zeros_of_padded_heads() -> None:
    shape = fields() | {"hidden_size": 40, "vocab_size": 258}
    wanted = LongLlamaForCausalLM(LongLlamaConfig(**shape))
    method = LongLLaMA.load(preset("nowhere").model_copy(update={"shape": shape}), Runtime(random_weights=True))
    assert method.model.decoder.layers[0].self_attn.head_dim == 16
    assert method.cost(40, 8).weight_bytes == sum(weight.nbytes for weight in wanted.parameters())
