"""Joint attention: against one softmax by hand, the base itself in two limits, batches, decoding, what is learnt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import BASES, CHUNK, VOCABULARY, base_model
from test_reference import VOCABULARY as FEW
from test_reference import Reference, build, cases
from torch import nn

from sharedllm import SharedLLMForCausalLM
from sharedllm.adapter import load_adapter, save_adapter
from sharedllm.joint_attention import USUAL
from sharedllm.training.methods.sharedllm import select_trainable


class JointReference(Reference):
    """One row: every head takes one softmax over all entries and the text so far, score by score."""

    def upper_layer(
        self, i: int, layer: Any, hidden: torch.Tensor, context: list[list[tuple[Any, Any]]], chunks: int
    ) -> torch.Tensor:
        if not chunks or i not in self.config.injection_layers:
            positions = torch.arange(len(hidden)) + (self.config.chunk_size if chunks else 0)
            rotation = self.base.model.rotary_emb(hidden[None], positions[None])
            mask = torch.full((len(hidden), len(hidden)), -torch.inf, dtype=hidden.dtype).triu(1)[None, None]
            return layer(hidden[None], attention_mask=mask, position_embeddings=rotation)[0]
        number = self.config.injection_layers.index(i)
        joint, entries = self.model.joint_attention[number], context[number + self.config.injection_start]
        normed, attention = layer.input_layernorm(hidden), layer.self_attn

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (-1, self.head_dim))

        query = heads(attention.q_proj(normed) + normed @ joint.q_down.weight.T @ joint.q_up.weight.T)
        key, value = heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
        start, group = self.config.chunk_size, query.shape[1] // key.shape[1]
        turned = [self.rotate(key[s], start + s) for s in range(len(hidden))]
        rows = []
        for t in range(len(hidden)):
            asked, row = self.rotate(query[t], start + t), []
            for head in range(query.shape[1]):
                kv = head // group
                bias = joint.offset[head] - joint.slope[head] * math.log(len(entries) / USUAL)
                scores = [asked[head] @ k[kv] / math.sqrt(self.head_dim) + bias for k, _ in entries]
                scores += [asked[head] @ k[kv] / math.sqrt(self.head_dim) for k in turned[: t + 1]]
                values = [v[kv] for _, v in entries] + [value[s, kv] for s in range(t + 1)]
                weights = torch.stack(scores).exp()
                row.append(torch.stack(values).T @ (weights / weights.sum()))
            rows.append(torch.cat(row))
        attended = torch.stack(rows)
        hidden = hidden + attention.o_proj(attended) + attended @ joint.o_down.weight.T @ joint.o_up.weight.T
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


@given(cases(), st.integers(1, 4))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_equals_one_softmax_by_hand(case: dict[str, Any], rank: int) -> None:
    method = case["method"] | {"attention": "joint", "rank": rank, "injection": "bottom", "key_positions": "node"}
    model = build(case["seed"], case["heads"], case["kv_heads"], **method)
    batch, chunks, per_row = case["batch"], case["chunks"], case["questions"]
    running = torch.randint(FEW, (batch, case["running"]))
    context = torch.randint(FEW, (batch, chunks, method["chunk_size"]))
    asked = torch.randint(per_row, (batch, chunks))
    spans = torch.tensor(case["spans"]).view(batch, per_row, 2)
    search = {}
    if case["searched"]:
        search = {"query_start": spans[..., 0], "query_length": spans[..., 1], "chunk_question": asked}
    with torch.no_grad():
        logits = model(running, context, num_chunks=torch.tensor(case["num_chunks"]), **search).logits
        for row, count in enumerate(case["num_chunks"]):
            searched = case["searched"] and method["policy"] != "right"
            questions = [(int(s), int(n)) for s, n in spans[row]] if searched else []
            reference = JointReference(model)
            expected = reference.logits(running[row], list(context[row, :count]), questions, asked[row].tolist())
            torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=0)


# --- limits in which it is the base -----------------------------------------------------------------------------


def joint_model(base: Any = None, trained: bool = True, **method: Any) -> SharedLLMForCausalLM:
    """All of three layers read; with updates that matter."""
    usual = {"chunk_size": CHUNK, "ratios": [4, 2], "lower_layers": 3, "policy": "maxsim", "rank": 4}
    base = base_model() if base is None else base
    model = SharedLLMForCausalLM.from_base(base, **{**usual, "attention": "joint", **method})
    torch.manual_seed(1)
    for parameter in model.joint_attention.parameters() if trained else ():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def wide(kind: str) -> Any:
    """A base whose windows are longer than the texts here."""
    return base_model(kind, **({"sliding_window": 64} if BASES[kind].get("sliding_window") else {})).eval()


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def context() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (2, 3, CHUNK), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", BASES)
def test_without_a_context_it_is_its_base(kind: str, text: torch.Tensor, context: torch.Tensor) -> None:
    base = base_model(kind).eval()
    with torch.no_grad():
        expected = base(text).logits
        model = joint_model(base)
        assert torch.equal(model(text).logits, expected)
        assert torch.equal(model(text, context[:, :0], query_length=3).logits, expected)
        none = model(text, context, num_chunks=torch.tensor([0, 3])).logits
    # positions from chunk_size on: the same up to rounding, as attention depends on differences
    torch.testing.assert_close(none[0], expected[0], atol=1e-4, rtol=1e-4)
    assert (none[1] - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize("kind", BASES)
def test_a_chunk_kept_whole_is_read_as_the_base_reads_it(kind: str, text: torch.Tensor, context: torch.Tensor) -> None:
    base = wide(kind)
    model = joint_model(base, trained=False, ratios=[1], leaf_overlap=0)
    for parameter in model.joint_attention.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)  # no bias
    with torch.no_grad():
        expected = base(torch.cat([context[:, 0], text], 1)).logits[:, CHUNK:]
        torch.testing.assert_close(model(text, context[:, :1]).logits, expected, atol=1e-4, rtol=1e-4)


def test_copies_of_a_context_do_not_dilute_it(text: torch.Tensor, context: torch.Tensor) -> None:
    """At slope 1 the weight of all entries together does not depend on their number."""
    model = joint_model()
    for joint in model.joint_attention:
        nn.init.ones_(joint.slope)
    with torch.no_grad():
        once = model(text, context).logits
        torch.testing.assert_close(model(text, context.repeat(1, 21, 1)).logits, once, atol=1e-4, rtol=1e-4)
        for joint in model.joint_attention:
            nn.init.zeros_(joint.slope)
        assert (model(text, context.repeat(1, 21, 1)).logits - once).abs().max() > 1e-2


# --- batches and decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("start", [0, 1])
def test_stepwise_decoding_equals_one_forward(kind: str, start: int, text: torch.Tensor, context: torch.Tensor) -> None:
    model = joint_model(base_model(kind), injection_start=start, fine_chunks=1)
    text = text.repeat(1, 4)  # longer than the sliding windows
    with torch.no_grad():
        whole = model(text, context, query_start=1, query_length=4).logits
        out = model(text[:, :5], context, query_start=1, query_length=4, use_cache=True)
        parts = [out.logits]
        for i in range(5, text.shape[1]):
            out = model(text[:, i : i + 1], context=out.context, past_key_values=out.past_key_values)
            parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


def test_padded_rows_equal_rows_alone(text: torch.Tensor, context: torch.Tensor) -> None:
    model, pad = joint_model(), 4
    padded = text.clone()
    padded[0, :pad] = 0
    mask = torch.ones_like(text)
    mask[0, :pad] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        both = model(padded, context, attention_mask=mask, position_ids=positions).logits
        alone = model(text[:1, pad:], context[:1]).logits
        torch.testing.assert_close(both[:1, pad:], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(both[1:], model(text[1:], context[1:]).logits, atol=1e-4, rtol=1e-4)


def test_generation_with_beams_and_without(text: torch.Tensor, context: torch.Tensor) -> None:
    model = joint_model()
    asked = {"context_ids": context, "query_length": 4, "max_new_tokens": 6}
    made = model.generate(text, attention_mask=torch.ones_like(text), **asked)
    greedy = text
    with torch.no_grad():
        for _ in range(6):
            greedy = torch.cat([greedy, model(greedy, context, query_length=4).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(made, greedy)
    beams = model.generate(text, attention_mask=torch.ones_like(text), num_beams=3, do_sample=False, **asked)
    for row in range(2):
        one = {**asked, "context_ids": context[row : row + 1]}
        alone = model.generate(
            text[row : row + 1], attention_mask=torch.ones(1, 9), num_beams=3, do_sample=False, **one
        )
        assert torch.equal(beams[row], alone[0])


# --- what is learnt ---------------------------------------------------------------------------------------------


def test_only_updates_and_biases_are_trained(text: torch.Tensor, context: torch.Tensor) -> None:
    model = joint_model().train()
    groups = select_trainable(model, ["joint_attention"])
    assert len(groups["lr"]) == 3 * 6
    assert not groups["lr_base"]
    model(text, context, labels=text, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert learns == name.startswith("joint_attention."), name
    with pytest.raises(ValueError, match="nothing to train in 'cross_attention'"):
        select_trainable(model, ["cross_attention"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_finite_differences(
    checkpointing: bool, text: torch.Tensor, context: torch.Tensor
) -> None:
    model = joint_model().double().train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def loss() -> torch.Tensor:
        asked = {"num_chunks": torch.tensor([3, 1]), "query_length": 4}
        return model(text, context, use_cache=False, **asked).logits.square().mean()

    select_trainable(model, ["joint_attention"])
    loss().backward()
    for parameter in model.joint_attention[1].parameters():
        direction = torch.randn_like(parameter)
        slope = (parameter.grad * direction).sum()
        with torch.no_grad():
            parameter += 1e-3 * direction
            up = loss()
            parameter -= 2e-3 * direction
            down = loss()
            parameter += 1e-3 * direction
        torch.testing.assert_close(slope, (up - down) / 2e-3, atol=1e-4, rtol=1e-3)  # the base's norms are float32


def test_an_adapter_is_saved_and_loaded(tmp_path: Path, text: torch.Tensor, context: torch.Tensor) -> None:
    model = joint_model(injection_start=1)
    select_trainable(model, ["joint_attention"])
    save_adapter(model, tmp_path / "adapter", "tiny", dtype=torch.float32)
    loaded = load_adapter(tmp_path / "adapter", base_model())
    with torch.no_grad():
        assert torch.equal(loaded(text, context).logits, model(text, context).logits)
    trained = {n for n, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith("joint_attention.")}
    with pytest.raises(ValueError, match=r"attention is 'cross', but the weights .* were trained with 'joint'"):
        load_adapter(tmp_path / "adapter", base_model(), attention="cross")
    with pytest.raises(ValueError, match="rank is 5, but the weights"):
        load_adapter(tmp_path / "adapter", base_model(), rank=5)
    model.save_pretrained(tmp_path / "whole")
    whole = SharedLLMForCausalLM.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        assert torch.equal(whole(text, context).logits, model(text, context).logits)


def test_a_layer_reads_its_own_keys_alone() -> None:
    with pytest.raises(ValueError, match="injection is 'top': with joint attention a layer reads its own keys"):
        joint_model(injection="top", lower_layers=2)
