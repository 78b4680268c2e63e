"""Whole trees: every node encoded once. A question that only searches them reads what it would have encoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from not_empty import not_empty
from shapes import VOCABULARY, base_model, shared_model

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM, compressor
from sharedllm.errors import UserError

CHUNK = 24
SHAPES: list[dict[str, Any]] = [
    {"policy": "last_token", "ratios": [8, 4, 2]},
    {"policy": "last_token", "ratios": [8, 4, 1], "leaf_overlap": 3},
    {"policy": "maxsim", "ratios": [4, 2], "sampling": "strided"},
    {"policy": "maxsim", "ratios": [8, 4, 1], "leaf_overlap": 3, "fine_chunks": 1, "lower_layers": 1},
    {"policy": "maxsim", "ratios": [4, 1], "fine_chunks": 2, "injection_start": 1},
    {"policy": "maxsim", "ratios": [2], "leaf_overlap": CHUNK - 1},
    {"policy": "last_token", "ratios": [4, 2], "own_lower": True},
]


@pytest.fixture
def context() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (2, 3, CHUNK), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def questions() -> torch.Tensor:
    """Four of two rows each."""
    return torch.randint(1, VOCABULARY, (4, 2, 9), generator=torch.Generator().manual_seed(2))


def pair(**settings: Any) -> tuple[SharedLLMForCausalLM, SharedLLMForCausalLM]:
    """The same model, with the nodes that a question chooses and with all of them."""
    chosen = shared_model(base_model(), chunk_size=CHUNK, **settings)
    both = SharedLLMForCausalLM.from_base(chosen.base, **{**chosen.config.method_settings(), "nodes": "all"})
    both.load_state_dict(chosen.state_dict())
    return chosen, both.eval()


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("counts", [None, [3, 2]])
@torch.no_grad()
def test_a_question_reads_what_it_would_have_encoded(
    settings: dict[str, Any], counts: list[int] | None, context: torch.Tensor, questions: torch.Tensor
) -> None:
    chosen, whole = pair(**settings)
    num_chunks = None if counts is None else torch.tensor(counts)
    trees = whole.read_trees(context, num_chunks)
    for question in questions:
        asked = {"context_ids": context, "num_chunks": num_chunks, "query_length": 5}
        expected = chosen(question, **asked)
        found = whole(question, trees=trees, **asked)
        assert torch.equal(found.context.path, expected.context.path)
        torch.testing.assert_close(found.context.keys, expected.context.keys, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(found.context.values, expected.context.values, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(found.logits, expected.logits, atol=2e-5, rtol=1e-5)
        assert torch.equal(whole(question, **asked).logits, found.logits)


@torch.no_grad()
def test_a_further_question_runs_no_lower_layer(context: torch.Tensor, questions: torch.Tensor) -> None:
    _, whole = pair(policy="maxsim", ratios=[8, 4, 2])
    trees = whole.read_trees(context)
    whole._lower_layer = None  # type: ignore[assignment]  # whoever calls it fails
    whole(questions[0], context, trees=trees, query_length=5)


@torch.no_grad()
def test_blocks_of_nodes_equal_all_at_once(context: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = pair(policy="maxsim", ratios=[8, 4, 2])
    expected = whole.read_trees(context)
    monkeypatch.setattr(compressor.LowerModel, "block", lambda self, tokens: 5)
    found = whole.read_trees(context)
    for mine, theirs in not_empty(zip(found.levels, expected.levels, strict=True)):
        torch.testing.assert_close(mine.tensors(), theirs.tensors(), atol=2e-5, rtol=1e-5)
    assert found.nbytes == sum(t.nbytes for level in found.levels for t in level.tensors())


@pytest.mark.parametrize("policy", ["last_token", "maxsim"])
@torch.no_grad()
def test_rows_without_chunks_have_empty_trees(policy: str, context: torch.Tensor, questions: torch.Tensor) -> None:
    chosen, whole = pair(policy=policy, ratios=[4, 2])
    asked = {"context_ids": context, "num_chunks": torch.tensor([0, 0]), "query_length": 5}
    expected = chosen(questions[0], **asked).logits
    for trees in (None, whole.read_trees(context, asked["num_chunks"])):
        torch.testing.assert_close(whole(questions[0], trees=trees, **asked).logits, expected, atol=2e-5, rtol=1e-5)
    none = context[:, :0]
    asked = {"context_ids": none, "query_length": 5}
    found = whole(questions[0], trees=whole.read_trees(none), **asked)
    assert torch.equal(found.logits, chosen(questions[0], **asked).logits)


@torch.no_grad()
def test_language_modelling_and_training_read_the_usual_tree(context: torch.Tensor, questions: torch.Tensor) -> None:
    chosen, whole = pair(policy="last_token", ratios=[4, 2])
    trees = whole.read_trees(context)
    expected = chosen(questions[0], context).logits
    assert torch.equal(whole(questions[0], context).logits, expected)
    assert torch.equal(whole(questions[0], context, trees=trees).logits, expected)
    expected = chosen.train()(questions[0], context, query_length=5).logits
    assert torch.equal(whole.train()(questions[0], context, query_length=5).logits, expected)


def test_a_lower_model_of_its_own_learns_from_the_usual_tree(context: torch.Tensor, questions: torch.Tensor) -> None:
    """Whole trees have no gradients: where they are wanted, in evaluation mode too, nothing is lost without a word."""
    _, whole = pair(policy="maxsim", ratios=[4, 2], own_lower=True)
    whole(questions[0], context, query_length=5).logits.sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in whole.lower[0].parameters())


@torch.no_grad()
def test_generation_over_trees(context: torch.Tensor, questions: torch.Tensor) -> None:
    chosen, whole = pair(policy="maxsim", ratios=[4, 2])
    usual = {"context_ids": context, "query_length": 5, "max_new_tokens": 6, "do_sample": False}
    trees = whole.read_trees(context)
    assert torch.equal(whole.generate(questions[0], trees=trees, **usual), chosen.generate(questions[0], **usual))
    with pytest.raises(UserError, match="one answer a row"):
        whole.generate(questions[0], trees=trees, num_beams=2, **usual)


def test_what_does_not_fit_is_said(context: torch.Tensor, questions: torch.Tensor) -> None:
    with pytest.raises(UserError, match="chunk_size 36 has no 8 equal parts"):
        SharedLLMConfig(chunk_size=36, ratios=[8, 4, 2], nodes="all")
    SharedLLMConfig(chunk_size=36, ratios=[8, 4, 2], leaf_overlap=0, nodes="all")
    with pytest.raises(UserError, match="set both"):
        shared_model(chunk_size=CHUNK, nodes="all", policy="right").read_trees(context)
    with pytest.raises(UserError, match="set both"):
        shared_model(chunk_size=CHUNK).read_trees(context)
    model = shared_model(chunk_size=CHUNK, nodes="all")
    with pytest.raises(ValueError, match="have 3 chunks, the context 6"):
        model(questions[0], context, trees=model.read_trees(context[:1]), query_length=5)
