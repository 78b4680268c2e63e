"""Presses on Gemma 3: layers with a sliding window stay as they are, those that see everything are compressed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("kvpress")

from presses import NOTHING, PRESSES, WHOLE
from shapes import TINY_SHAPE, VISION
from tiny_press import CONTEXT, PREFIX, QUERY, TARGET, by_hand
from tiny_press import load as load_tiny
from tiny_press import load_dense as load_tiny_dense
from torch import nn
from transformers import DynamicCache, Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from baselines.dense import FullAttention
from baselines.kvpress.adapter import KVPress
from evals.errors import UserError

FAR = [1, 3]
GEMMA = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 4,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "pad_token_id": 0,
}
WINDOWS = [8, 64]
"""Shorter than the context, and longer than all of the text."""
FITTING = [press for press in PRESSES if press not in WHOLE]
RECONSTRUCTING = ("kvzip", "kvgrad")
TURNING = ("expectedattention", "cap")
"""Presses that ask the rotary embedding, which in Gemma 3 wants to know the kind of layers."""


def load(press: str, window: int = 8, **settings: Any) -> KVPress:
    method = load_tiny(press, GEMMA | {"sliding_window": window}, **settings)
    _vary_norms(method.model)
    return method


def load_dense(window: int = 8) -> FullAttention:
    method = load_tiny_dense(GEMMA | {"sliding_window": window})
    _vary_norms(method.model)
    return method


def _vary_norms(model: PreTrainedModel) -> None:
    """Norms that are all alike would hide which one is taken."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)


def multimodal(model: PreTrainedModel) -> PreTrainedModel:
    """A Gemma 3 that sees images too, the only one of which kvpress skips layers, with the weights of `model`."""
    config = Gemma3Config(text_config=model.config.to_dict(), vision_config=VISION, mm_tokens_per_image=4)
    config._attn_implementation = "sdpa"
    made = Gemma3ForConditionalGeneration(config).eval()
    made.model.language_model.load_state_dict(model.model.state_dict())
    made.lm_head.load_state_dict(model.lm_head.state_dict())
    return made


# --- against kvpress and against slow forwards


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("press", [press for press in FITTING if press not in RECONSTRUCTING])
def test_scores_are_those_of_kvpress_used_by_hand(
    press: str, window: int, patched_attention: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = load(press, window, **PRESSES[press])
    stock = multimodal(method.model)
    if press in TURNING:
        with pytest.raises(TypeError, match="layer_type"):
            by_hand(method, stock)
        turn = Gemma3RotaryEmbedding.forward
        monkeypatch.setattr(
            Gemma3RotaryEmbedding, "forward", lambda self, x, at, kind="full_attention": turn(self, x, at, kind)
        )
    wanted = by_hand(method, stock)
    torch.testing.assert_close(method.prefill(CONTEXT).score(QUERY, TARGET), wanted, atol=1e-4, rtol=0)
    assert (wanted - load_dense(window).prefill(CONTEXT).score(QUERY, TARGET)).abs().max() > 1e-2


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("press", FITTING)
def test_a_press_that_removes_nothing_is_dense_attention(press: str, window: int) -> None:
    method = load(press, window, **{**PRESSES[press], **NOTHING.get(press, {"ratio": 0})})
    got, wanted = (m.prefill(CONTEXT, PREFIX).score(QUERY, TARGET) for m in (method, load_dense(window)))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


SLOW = ["snapkv", "expectedattention", "tova", "knorm", "keydiff", "random", "adakv:snapkv", "kvzip", "kvgrad"]


@pytest.mark.parametrize("prefix", [[], PREFIX], ids=["alone", "prefix"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("press", SLOW)
def test_scores_are_those_of_one_forward_without_what_is_gone(press: str, window: int, prefix: list[int]) -> None:
    """The stock forward over the whole text, in which layers that see everything hide from question and answer what
    the press removed."""
    method, read = load(press, window, **PRESSES[press]), len(prefix) + len(CONTEXT)
    session = method.prefill(CONTEXT, prefix)
    whole = load_dense(window).prefill(CONTEXT, prefix)._cache.keys_values()
    ids, masks, shares = [*prefix, *CONTEXT, *QUERY.ids, *TARGET], {}, []
    for layer in FAR:
        seen = session._kept[layer]
        if seen is None:
            distance = (session._cache.keys_values()[layer][0][0, :, :, None] - whole[layer][0][0, :, None]).norm(
                dim=-1
            )
            assert distance.min(-1).values.max() < 1e-4, "what is held is some of what was read"
            seen = torch.zeros(2, read, dtype=torch.bool).scatter(1, distance.argmin(-1), True)
        assert seen[:, : len(prefix)].all()
        shares.append(seen[:, len(prefix) :].float().mean())
        masks[layer] = torch.ones(4, len(ids), len(ids), dtype=torch.bool).tril()
        masks[layer][:, read:, :read] = seen.repeat_interleave(2, 0)[:, None]
    assert 0.48 < sum(shares) / len(shares) < 0.52
    for layer, mask in masks.items():
        method.model.model.layers[layer].self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, mask=mask: (args, kwargs | {"attention_mask": mask[None]}), with_kwargs=True
        )
    with torch.no_grad():
        logits = method.model(input_ids=torch.tensor([ids])).logits[0, -len(TARGET) - 1 : -1].log_softmax(-1)
    got = session.score(QUERY, TARGET)
    torch.testing.assert_close(got, logits[torch.arange(len(TARGET)), TARGET], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layerwise", [False, True])
def test_kvzip_chooses_among_the_layers_that_see_everything(
    layerwise: bool, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kvpress refuses Gemma 3 here, but its scores of a layer do not depend on what is done with others."""
    method = load("kvzip", **PRESSES["kvzip"], layerwise=layerwise)
    kept = method.prefill(CONTEXT)._kept
    model, press, found = method.model, method.recipe.press(), []
    model.config.name_or_path = str(tiny_llama)  # where kvpress finds its tokenizer
    with pytest.raises(ValueError, match="not supported for Gemma3ForCausalLM"), press(model):
        pass
    monkeypatch.setattr(sys.modules["kvpress.presses.kvzip_press"], "Gemma3PreTrainedModel", ())
    monkeypatch.setattr(press, "compress_post", lambda model: found.append(press.score_val[FAR, 0].clone()))
    with torch.no_grad(), press(model):
        model.model(input_ids=torch.tensor([CONTEXT]), past_key_values=DynamicCache())
    scores = found[0]  # (layers, kv heads, tokens)
    scores[..., :2] = 9  # sinks
    groups = scores.flatten(1) if layerwise else scores.reshape(1, -1)
    gone = groups.topk(groups.shape[1] // 2, largest=False).indices
    wanted = torch.ones_like(groups, dtype=torch.bool).scatter(1, gone, False).view(scores.shape)
    assert torch.equal(torch.stack([kept[layer] for layer in FAR]), wanted)
    assert [each is None for each in kept] == [True, False, True, False]


# --- what is held, and what is said of it


@pytest.mark.parametrize(
    ("press", "state", "kept"), [("knorm", "dropped", 22), ("adakv:knorm", "masked, full size", 22)]
)
def test_layers_with_a_sliding_window_hold_what_they_hold_without_a_press(press: str, state: str, kept: float) -> None:
    method = load(press)
    session, dense = method.prefill(CONTEXT, PREFIX), load_dense().prefill(CONTEXT, PREFIX)
    for layer, (got, wanted) in enumerate(zip(session._cache.keys_values(), dense._cache.keys_values(), strict=True)):
        if layer not in FAR:
            assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(got, wanted, strict=True))
    assert session.kept_tokens == [48, kept + 3, 48, kept + 3]
    assert method.fairness["layers pressed"] == "2 of 4"
    assert method.fairness["state"] == state
    for length, query in ((45, 0), (7, 5), (1, 0)):
        cost, whole = method.cost(length, query), load_dense().cost(length, query)
        assert method.prefill(CONTEXT[:length]).state_bytes == method.cost(length, 0).state_bytes
        if press == "knorm":
            gone = 2 * (length - max(1, length // 2))  # entries of two layers
            assert whole.state_bytes - cost.state_bytes == gone * 2 * 2 * 16 * 4
    assert "layers pressed" not in load_tiny("knorm").fairness


# --- which presses and bases fit


@pytest.mark.parametrize("press", WHOLE)
def test_a_press_of_all_layers_is_refused(press: str) -> None:
    name = press.partition(":")[0]
    with pytest.raises(UserError, match=f"The press {name} does not fit a base that has a sliding window in 2 of 4 la"):
        load(press, **PRESSES[press])


@pytest.mark.parametrize(
    "shape",
    [
        GEMMA | {"layer_types": ["sliding_attention"] * 4},
        {"model_type": "mistral", "sliding_window": 20},
        {"model_type": "qwen2", "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
        {"model_type": "granite"},
    ],
)
def test_other_bases_are_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="without sliding windows and of type gemma3_text, with --attn sdpa"):
        load_tiny("knorm", shape)


def test_gemma_without_windows_is_compressed_in_all_layers() -> None:
    method = load_tiny("keyrerotation:knorm", GEMMA | {"layer_types": ["full_attention"] * 4})
    assert method.prefill(CONTEXT).kept_tokens == [22] * 4
    assert "layers pressed" not in method.fairness


def test_a_plan_says_what_does_not_fit(tiny_presets: Callable[..., Path], command: Callable[..., Any]) -> None:
    shape = TINY_SHAPE | {"model_type": "mistral", "sliding_window": 20}
    windowed = tiny_presets("kvpress", "kvpress-windowed", shape=shape, weights={"source": "nowhere"})
    for model, sentence in (
        ((windowed,), "this base is of type 'mistral' with sliding windows: change what differs."),
        (("kvpress-270m", "--set", "press=pyramidkv"), "sliding window in 15 of 18 layers: it spreads what it keeps"),
    ):
        result = command("--task", "needle", "--length", 1024, "--dry-run", "--model", *model)
        assert result.code == 2
        assert sentence in result.err
