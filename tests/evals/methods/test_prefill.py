"""Reading many tokens through a stock decoder without masks, against the stock forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_cases import BOS, CONTEXT, QUERY, TARGET
from test_static_decoder import ALL, load
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaModel

from baselines.cepe import modeling as cepe
from evals.methods.base import LongContextModel
from evals.methods.decoding import prefill
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.prefill import read, read_both_ways
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm import SharedLLMForCausalLM
from sharedllm.nn import fused, masks
from sharedllm.nn.attention import attend_last, attend_near

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


def test_a_model_over_two_devices_takes_the_stock_forward() -> None:
    model = base("llama")
    assert supports_static_decoding(model)
    model.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    assert not supports_static_decoding(model)


def test_what_stands_between_attention_and_mlp_is_called_in_every_layer() -> None:
    model = base("llama")
    seen = []

    def between(index: int, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(index)
        return hidden + index

    ids = torch.randint(64, (1, 6))
    with torch.no_grad():
        plain = read(model, ids, 0, BufferCache(3, 4), lambda index, hidden: hidden)
        torch.testing.assert_close(plain, read(model, ids, 0, BufferCache(3, 4)))
        assert not torch.allclose(read(model, ids, 0, BufferCache(3, 4), between), plain, atol=1e-2)
    assert seen == [0, 1, 2]


def test_both_ways_is_the_stock_encoder() -> None:
    torch.manual_seed(0)
    encoder = LlamaModel(LlamaConfig(**SHAPE, is_causal=False, attn_implementation="sdpa")).eval()
    ids = torch.randint(64, (3, 9))
    with torch.no_grad():
        torch.testing.assert_close(read_both_ways(encoder, ids), encoder(ids).last_hidden_state, atol=1e-5, rtol=1e-4)


def test_the_upper_model_reads_behind_a_cache_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock masks with the eager kernel, none with sdpa."""
    model, ids = (
        SharedLLMForCausalLM.from_base(base("llama"), chunk_size=16, ratios=[4, 2], lower_layers=2).eval(),
        torch.arange(20)[None],
    )
    made = []
    monkeypatch.setattr(
        masks, "causal_mask", lambda *a, plain=masks.causal_mask, **k: made.append(plain(*a, **k)) or made[-1]
    )

    def states(kernel: str) -> torch.Tensor:
        model.config.base_config._attn_implementation = kernel
        with torch.no_grad():
            cache = model(ids[:, :9], use_cache=True).past_key_values
            return model(ids[:, 9:], past_key_values=cache).logits

    sdpa, count = states("sdpa"), len(made)
    assert made == [None] * count
    torch.testing.assert_close(sdpa, states("eager"), atol=1e-5, rtol=1e-4)
    assert made[-1] is not None
    assert made[-1].shape == (1, 1, 11, 20)


def score(model: LongContextModel) -> torch.Tensor:
    return model.prefill(CONTEXT, BOS).score(QUERY, TARGET)


def stock(patch: pytest.MonkeyPatch) -> None:
    """Stock forwards and norms, without the pieces of `fused`, where there are any."""
    patch.setattr(fused, "compiles", lambda x: False)
    for module in (prefill, cepe):
        patch.setattr(module, "supports_static_decoding", lambda *_: False)


@pytest.mark.parametrize("name", ALL)
def test_every_method_scores_as_with_stock_forwards(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs, with the compiler left out, against what the CPU runs and against the stock forward."""
    model = load(name)
    plain = score(model)
    with monkeypatch.context() as patch:
        patch.setattr(fused, "compiles", lambda x: True)
        patch.setattr(fused, "_compiled", lambda function, **_: function)
        patch.setattr(fused, "_place_in_kernel", fused._place)
        torch.testing.assert_close(score(model), plain, atol=1e-4, rtol=0)
    if name in ("kvpress-layers", "kvpress-masked", "kvpress-gemma3", "kvpress-masked-gemma3"):
        return  # stock forwards have one mask for all layers and heads: test_kvpress*.py compare token by token
    stock(monkeypatch)
    torch.testing.assert_close(score(model), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("queries", [1, 3, 7])
def test_the_last_queries_see_what_is_before_them(queries: int) -> None:
    query, key, value = torch.randn(1, 4, queries, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    mask = torch.ones(queries, 7).tril(7 - queries).bool()
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=mask
    )
    torch.testing.assert_close(attend_last(query, key, value), plain)


@pytest.mark.parametrize("window", [1, 2, 4, 7, 20])
@pytest.mark.parametrize("queries", [1, 3, 7])
def test_the_last_queries_see_a_window_of_what_is_before_them(queries: int, window: int) -> None:
    query, key, value = torch.randn(1, 4, queries, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    back = torch.arange(7 - queries, 7)[:, None] - torch.arange(7)
    plain = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=(back >= 0) & (back < window), scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(attend_near(query, key, value, window, 0.3), plain)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["full", "streaming-chunked", "beacon", "cepe", "cepe-kv", "longllama", "qwen3"])
def test_methods_score_as_with_stock_forwards_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()  # a function is compiled for a few shapes only, a method has no more
    model = load(name, device="cuda", dtype="float32")
    found = score(model)
    stock(monkeypatch)
    torch.testing.assert_close(found, score(model), atol=1e-3, rtol=0)
