"""Reading many tokens through a stock decoder without masks, against the stock forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from baselines.kv_cache import BufferCache
from baselines.prefill import attend_last, read

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def base(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **changes})).eval()


def compare(model: Any, sizes: list[int]) -> None:
    ids = torch.randint(64, (1, sum(sizes)), device=model.device)
    stock, cache, at = DynamicCache(config=model.config), BufferCache(SHAPE["num_hidden_layers"], 4), 0
    with torch.no_grad():
        for size in sizes:
            piece = ids[:, at : at + size]
            expected = model.base_model(input_ids=piece, past_key_values=stock, use_cache=True).last_hidden_state[0]
            torch.testing.assert_close(read(model, piece, at, cache), expected, atol=1e-5, rtol=1e-4)
            at += size
    assert cache.get_seq_length() == at


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("sizes", [[9], [5, 1, 7, 2]])
def test_behind_any_cache_states_are_those_of_the_stock_forward(kind: str, sizes: list[int]) -> None:
    compare(base(kind), sizes)


def test_a_window_shorter_than_the_text_holds() -> None:
    compare(base("mistral", sliding_window=4), [6, 5])


def test_no_mask_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock forward is what makes masks: it must not run."""
    model = base("llama")
    monkeypatch.setattr(model.base_model, "forward", lambda **_: pytest.fail("the stock forward ran"))
    with torch.no_grad():
        cache = BufferCache(3, 4)
        read(model, torch.tensor([[1, 2, 3]]), 0, cache)
        read(model, torch.tensor([[4, 5]]), 3, cache)


@pytest.mark.parametrize("queries", [1, 3, 7])
def test_the_last_queries_see_what_is_before_them(queries: int) -> None:
    query, key, value = torch.randn(1, 4, queries, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    mask = torch.ones(queries, 7).tril(7 - queries).bool()
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=mask
    )
    torch.testing.assert_close(attend_last(query, key, value), plain.transpose(1, 2).flatten(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_on_a_gpu(kind: str) -> None:
    compare(base(kind, head_dim=64).cuda(), [40, 1, 20])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fused_kernels_agree_on_a_gpu() -> None:
    query = torch.randn(1, 4, 96, 64, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(1, 2, 160, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    found = attend_last(query, key, value)
    expected = attend_last(query.float().cpu(), key.float().cpu(), value.float().cpu())
    assert (found.float().cpu() - expected).norm() / expected.norm() < 1e-2
