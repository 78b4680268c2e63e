"""A budget of fine chunks that is kept to block by block chooses as one that sees all chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import CHUNK, VOCABULARY, shared_model

from sharedllm import reading
from sharedllm.fine_rows import Contest


@pytest.mark.parametrize(
    "method",
    [
        {"fine_chunks": 2},
        {"fine_chunks": 2, "chunk_size": CHUNK - 1},
        {"policy": "right", "fine_recent": 3},
        {"fine_chunks": 2, "attention": "joint"},
        {"fine_chunks": 2, "ratios": [8, 4, 4]},  # fine leaves are as coarse as the others
    ],
)
@pytest.mark.parametrize("counts", [[7, 7], [1, 6], [0, 0], [7, 2]])
def test_blocks_give_the_same_context(
    method: dict[str, Any], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the chunks are alike, so that their scores are equal."""
    model = shared_model(**{"policy": "maxsim", "ratios": [8, 4, 1], **method})
    size = model.config.chunk_size
    context = torch.randint(1, VOCABULARY, (2, 7, size), generator=torch.Generator().manual_seed(3))
    context[:, 1::2] = context[:, 1:2]
    text = torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    asked = None if model.config.policy == "right" else 5

    def read(block: int) -> Any:
        monkeypatch.setattr(reading, "BLOCK_BYTES", block)
        with torch.inference_mode():
            return model(text, context, num_chunks=torch.tensor(counts), query_length=asked)

    whole, blocks = read(2**30), read(2 * size * 3 * 48 * 4)
    for name in ("mask", "path", "fine", "num_chunks"):
        wanted, found = getattr(whole.context, name), getattr(blocks.context, name)
        assert (wanted is None and found is None) or torch.equal(wanted, found), name
    assert whole.context.fine is not None
    torch.testing.assert_close(blocks.context.keys, whole.context.keys)
    torch.testing.assert_close(blocks.context.values, whole.context.values)
    torch.testing.assert_close(blocks.logits, whole.logits)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan"), float("inf"), -float("inf")]), min_size=12, max_size=12
    ),
    st.integers(1, 5),
    st.integers(1, 12),
)
def test_what_is_chosen_in_the_end_never_left(scores: list[float], budget: int, block: int) -> None:
    match = torch.tensor(scores).view(2, 6)
    contest, held = Contest(match.shape, budget), torch.arange(0)
    for rows in torch.split(torch.arange(12), block):
        held = torch.cat([held, rows])[contest.add(rows, match.flatten()[rows])]
    assert torch.equal(held, contest.rows)
    chosen = (match.topk(budget, dim=1).indices + torch.tensor([[0], [6]])).flatten()
    assert torch.isin(chosen, held).all()
    if match.isfinite().all():
        least = match.topk(budget, dim=1).values[:, -1:]
        assert len(held) == (match >= least).sum()
