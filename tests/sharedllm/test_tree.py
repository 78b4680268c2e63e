"""The context tree: nodes tile a chunk, kept tokens are equidistant, counts are the paper's."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedllm.tree import (
    Nodes,
    choose,
    entries_per_chunk,
    halves,
    kept_count,
    kept_offsets,
    right_spine,
    split,
    whole,
    widen,
)

CPU = torch.device("cpu")


def spans(nodes: list[Nodes], chunk: int = 0) -> list[tuple[int, int]]:
    return [(int(n.start[chunk]), int(n.start[chunk] + n.length[chunk])) for n in nodes]


def test_the_papers_tree() -> None:
    nodes = right_spine(whole(1, 1024, CPU), 3, [0.0] * 3, "equidistant")
    assert spans(nodes) == [(0, 512), (512, 768), (768, 896), (896, 1024)]
    assert [n.level for n in nodes] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("ratios", "overlap", "entries"),
    [
        ([16, 8, 4], None, 128),  # beta 8, section 3.2
        ([1, 1, 1], None, 1024),
        ([2, 2, 2], None, 512),
        ([64, 32, 16, 1], None, 8 + 8 + 8 + 64 + 64),
        ([64, 32, 16, 1], 16, 8 + 8 + 8 + 160),
        ([8], None, 128),
    ],
)
def test_entries_that_a_chunk_leaves(ratios: list[float], overlap: int | None, entries: int) -> None:
    assert entries_per_chunk(1024, ratios, "equidistant", overlap) == entries


@given(
    st.lists(st.integers(2, 300), min_size=1, max_size=5), st.floats(-0.45, 0.45), st.sampled_from([0.2, 0.1, 0.21, 0])
)
def test_split_point(lengths: list[int], shift: float, other: float) -> None:
    """floor(l/2 - eps) with eps = shift * l, one token on either side at least; sizes on the host hold for all."""
    for share in (shift, other):
        size = max(lengths)
        parent = Nodes(torch.zeros(len(lengths), dtype=torch.long), torch.tensor(lengths), size, 0, False)
        left, right = split(parent, share)
        for i, length in enumerate(lengths):
            assert int(left.length[i]) == min(max(math.floor(length * (0.5 - share)), 1), length - 1)
        assert torch.equal(left.length + right.length, parent.length)
        assert torch.equal(right.start, left.length)
        assert (left.size, right.size) == (int(left.length.max()), int(right.length.max()))


def test_split_sizes_do_not_depend_on_float32() -> None:
    """100 * 0.29 is below 29 in double precision and 29 in single: tensors and host numbers must agree."""
    left, _ = split(whole(1, 100, CPU), 0.5 - 0.29)
    assert int(left.length) == left.size


@given(st.integers(1, 4), st.integers(16, 130), st.lists(st.booleans(), min_size=12, max_size=12))
def test_nodes_tile_the_chunk_whatever_is_chosen(height: int, chunk_size: int, turns: list[bool]) -> None:
    expanded, nodes = whole(3, chunk_size, CPU), []
    for level in range(1, height + 1):
        left, right = halves(expanded, 0.0, level == height, "equidistant")
        if level == height:
            nodes += [left, right]
            break
        expanded, preserved = choose(torch.tensor(turns[3 * level - 3 : 3 * level]), left, right)
        nodes.append(preserved)
        assert preserved.size >= int(preserved.length.max()), "sizes on the host bound the lengths"
    for chunk in range(3):
        tokens = [t for a, b in spans(nodes, chunk) for t in range(a, b)]
        assert sorted(tokens) == list(range(chunk_size))
    right_most = right_spine(whole(1, chunk_size, CPU), height, [0.0] * height, "equidistant")
    if all(turns):
        assert spans(right_most) == spans(nodes)


@given(st.integers(1, 200), st.floats(1, 70))
def test_kept_tokens_are_equidistant(length: int, ratio: float) -> None:
    node = Nodes(torch.zeros(1, dtype=torch.long), torch.tensor([length]), length, 1, True)
    offsets, mask = kept_offsets(node, ratio, "equidistant")
    kept = offsets[0].tolist()
    assert mask is None
    assert (
        len(kept) == kept_count(length, ratio, "equidistant") == min(length, max(1, math.floor(length / ratio + 0.5)))
    )
    assert kept[0] == 0
    assert kept[-1] < length
    steps = {b - a for a, b in pairwise(kept)}
    assert len(steps) <= 2
    assert max(steps, default=1) - min(steps, default=1) <= 1
    assert min(steps, default=1) >= 1


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.sampled_from([1, 1.5, 4, 16]),
    st.sampled_from(["equidistant", "strided"]),
)
def test_nodes_of_different_lengths_keep_what_they_keep_alone(lengths: list[int], ratio: float, rule: str) -> None:
    nodes = Nodes(torch.zeros(len(lengths), dtype=torch.long), torch.tensor(lengths), max(lengths), 1, False)
    offsets, mask = kept_offsets(nodes, ratio, rule)
    assert mask is not None
    for i, length in enumerate(lengths):
        alone = Nodes(torch.zeros(1, dtype=torch.long), torch.tensor([length]), length, 1, True)
        assert offsets[i][mask[i]].tolist() == kept_offsets(alone, ratio, rule)[0][0].tolist()


@given(st.integers(0, 60), st.integers(4, 40), st.integers(0, 50))
def test_a_widened_leaf_stays_in_its_chunk(start: int, length: int, overlap: int) -> None:
    chunk = 100
    leaf = Nodes(torch.tensor([start]), torch.tensor([length]), length, 2, True)
    wide = widen(leaf, overlap, chunk)
    ((begin, end),) = spans([wide])
    assert 0 <= begin <= start
    assert start + length <= end <= chunk
    assert end - begin == wide.size == min(length + 2 * overlap, chunk)
    assert wide.level == 3


def test_the_released_rule_drops_the_last_token_of_an_odd_leaf_pair() -> None:
    parent = Nodes(torch.tensor([10]), torch.tensor([25]), 25, 2, True)
    assert spans(list(halves(parent, 0.0, True, "strided"))) == [(10, 22), (22, 34)]
    assert spans(list(halves(parent, 0.0, True, "equidistant"))) == [(10, 22), (22, 35)]
