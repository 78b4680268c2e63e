"""The fused elementwise pieces against the stock modules of the bases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from sharedllm import SharedLLMForCausalLM
from sharedllm.nn import fused
from sharedllm.nn.attention import numbered, rows, take

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture(params=["llama", "qwen3"])
def base(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(request.param, **SHAPE)).eval()


@pytest.fixture
def rowwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU with the compiler left out: rows are flattened and restored, functions run as they are."""
    monkeypatch.setattr(fused, "compiles", lambda x: True)
    monkeypatch.setattr(fused, "_compiled", lambda function, **_: function)
    monkeypatch.setattr(fused, "_place_in_kernel", fused._place)


@pytest.mark.usefixtures("rowwise")
def test_the_pieces_are_those_of_the_stock_layer(base: Any) -> None:
    layer, x, update = base.model.layers[0], torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.nn.init.normal_(layer.input_layernorm.weight)
        torch.testing.assert_close(fused.rms_norm(layer.input_layernorm, x), layer.input_layernorm(x))
        total, normed = fused.add_norm(layer.input_layernorm, x, update)
        torch.testing.assert_close(total, x + update)
        torch.testing.assert_close(normed, layer.input_layernorm(x + update))
        torch.testing.assert_close(fused.mlp(layer.mlp, x), layer.mlp(x))
        cos, sin = base.model.rotary_emb(x, torch.arange(5)[None])
        query = torch.randn(2, 5, 4, 8).transpose(1, 2)
        stock = apply_rotary_pos_emb(query, query, cos, sin)[0]
        torch.testing.assert_close(fused.rotate(query, cos[:, None], sin[:, None]), stock)


def test_a_model_says_the_same_row_by_row(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape that the model hands over survives flattening, one token and a batch included."""
    model = SharedLLMForCausalLM.from_base(base, chunk_size=16, ratios=[4, 2], lower_layers=2, policy="maxsim").eval()
    for cross in model.cross_attention:
        torch.nn.init.normal_(cross.o_proj.weight, std=0.1)
    text, context = torch.randint(64, (2, 9)), torch.randint(64, (2, 3, 16))

    def logits() -> torch.Tensor:
        with torch.no_grad():
            out = model(text, context_ids=context, query_length=4, use_cache=True)
            more = model(text[:, :1], context=out.context, past_key_values=out.past_key_values)
            return torch.cat([out.logits, more.logits], 1)

    plain = logits()
    monkeypatch.setattr(fused, "compiles", lambda x: True)
    monkeypatch.setattr(fused, "_compiled", lambda function, **_: function)
    monkeypatch.setattr(fused, "_place_in_kernel", fused._place)
    torch.testing.assert_close(logits(), plain, atol=1e-5, rtol=1e-5)


def test_rows_are_those_of_gather() -> None:
    x, tokens = torch.randn(3, 7, 2, 4), torch.randint(7, (3, 5))
    found = take(x, numbered(tokens, 7))
    torch.testing.assert_close(found, x.gather(1, tokens[..., None, None].expand(-1, -1, 2, 4)))
    torch.testing.assert_close(rows(x.transpose(1, 2), numbered(tokens, 7)), found.transpose(1, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiled_on_a_gpu(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SharedLLMForCausalLM.from_base(base.cuda(), chunk_size=16, ratios=[4, 2], lower_layers=2).eval()
    text, context = torch.randint(64, (2, 9)).cuda(), torch.randint(64, (2, 3, 16)).cuda()
    with torch.no_grad():
        compiled = model(text, context_ids=context, query_length=4).logits
        monkeypatch.setattr(fused, "compiles", lambda x: False)
        torch.testing.assert_close(compiled, model(text, context_ids=context, query_length=4).logits, atol=1e-4, rtol=0)
