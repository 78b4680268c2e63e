"""Which chunks keep whole leaves: after a search those that match their question, else all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import CHUNK, VOCABULARY, shared_model
from transformers import LlamaConfig

from sharedllm import SharedLLMConfig
from sharedllm.entry_budget import columns, entries, kept_entries, within

FINE = {"ratios": [4, 1], "fine_chunks": 1}
RUNNING = torch.arange(1, 9)[None]
"""The question is 3, 4, 5, 6."""
ASKED = {"query_start": 2, "query_length": 4}


def context(holder: int) -> torch.Tensor:
    """Three chunks of one token again and again; one of them holds the question's tokens."""
    ids = torch.full((1, 3, CHUNK), 50)
    ids[0, holder, 12:16] = RUNNING[0, 2:6]
    return ids


@pytest.mark.parametrize("holder", [0, 1, 2])
def test_the_chunk_that_holds_the_question_keeps_its_leaves(holder: int) -> None:
    model = shared_model(**FINE)
    with torch.no_grad():
        made = model(RUNNING, context(holder), **ASKED).context
    assert made.fine.tolist() == [[i == holder for i in range(3)]]
    assert made.entries == kept_entries(model.config, 3) < 3 * entries(model.config)


@pytest.mark.parametrize("case", ["no question", "another policy", "no budget", "few chunks"])
def test_everything_else_keeps_all_leaves(case: str) -> None:
    changes = {"another policy": {"policy": "last_token"}, "no budget": {"fine_chunks": None}}.get(case, {})
    changes = {"fine_chunks": 3} if case == "few chunks" else changes
    model = shared_model(**FINE | changes)
    asked = {} if case == "no question" else ASKED
    with torch.no_grad():
        made = model(RUNNING, context(1), **asked).context
    assert made.fine is None
    assert made.entries == 3 * entries(model.config)


@pytest.mark.parametrize("training", [False, True])
def test_every_question_has_a_budget(training: bool) -> None:
    """As training asks them: two questions in one running text, each chunk searched with one of them."""
    model = shared_model(**FINE).train(training)
    start, length = ASKED["query_start"], ASKED["query_length"]
    several = {"query_start": torch.tensor([[start, start]]), "query_length": torch.tensor([[length, length]])}
    with torch.no_grad():
        made = model(RUNNING, context(1), **several, chunk_question=torch.tensor([[0, 1, 1]]), use_cache=False).context
    assert made.fine.sum() == 2
    assert made.fine[0, 1]


def test_rows_of_a_batch_have_budgets_of_their_own() -> None:
    model = shared_model(**FINE)
    both = torch.cat([context(0), context(2)])
    with torch.no_grad():
        made = model(RUNNING.expand(2, -1), both, num_chunks=torch.tensor([2, 3]), **ASKED)
        alone = model(RUNNING, both[:1, :2], **ASKED)
    assert made.context.fine.tolist() == [[True, False, False], [False, False, True]]
    torch.testing.assert_close(made.logits[:1], alone.logits, atol=2e-5, rtol=1e-5)


@given(
    st.integers(4, 200),
    st.lists(st.sampled_from([1, 1.5, 3, 8, 64]), min_size=2, max_size=2),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from([None, 0, 3]),
)
@settings(max_examples=60, deadline=None)
def test_entries_are_kept_once_and_leaves_only_thinned(
    chunk: int, ratios: list[float], chunks: int, fine: int, overlap: int | None
) -> None:
    base = LlamaConfig(vocab_size=VOCABULARY)
    config = SharedLLMConfig(
        base, chunk_size=chunk, ratios=ratios, policy="maxsim", fine_chunks=fine, leaf_overlap=overlap
    )
    width = entries(config)
    every, extra = columns(config, width)
    assert sorted([*every, *extra]) == list(range(width))
    kept, chosen = within(config, torch.arange(chunks).float()[None], width, fine)
    assert len(set(kept[0].tolist())) == kept.shape[1] == kept_entries(config, chunks) <= chunks * width
    assert chosen[0].tolist() == [i >= chunks - fine for i in range(chunks)]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="fine_chunks: expected 1 or more, found 0"):
        shared_model(fine_chunks=0)
