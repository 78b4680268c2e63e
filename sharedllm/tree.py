"""The context tree of a chunk (paper section 3.2): which spans become nodes, which tokens of a node are kept.

Pure functions on integers and small index tensors. A chunk is split h times; at each level one half is preserved
as a node and the other one is split further; at the last level both halves are nodes. The preserved nodes tile
the chunk, so encoding them costs exactly one chunk of tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Nodes:
    """One preserved node of every chunk.

    start, length: (chunks,) token offsets in the chunk. size: the largest length, on the host. level: 1 is the
    coarsest. uniform: every node is `size` long, so that nothing needs masking.
    """

    start: torch.Tensor
    length: torch.Tensor
    size: int
    level: int
    uniform: bool

    def tokens(self, chunk_size: int) -> torch.Tensor:
        """Token offsets (chunks, size); past the end of a shorter node they mean nothing."""
        tokens = self.start[:, None] + torch.arange(self.size, device=self.start.device)
        return tokens if self.uniform else tokens.clamp(max=chunk_size - 1)


def whole(chunks: int, chunk_size: int, device: torch.device) -> Nodes:
    """The root: every chunk in full."""
    return Nodes(
        torch.zeros(chunks, dtype=torch.long, device=device),
        torch.full((chunks,), chunk_size, dtype=torch.long, device=device),
        chunk_size,
        0,
        True,
    )


def split(parent: Nodes, shift: float = 0.0) -> tuple[Nodes, Nodes]:
    """Left and right half of every node: floor(l/2 - eps) tokens go left (paper section 3.2).

    shift: eps as a share of l. Both halves keep at least one token. Lengths are monotone in l, so the sizes that
    hold for the longest node hold for all.
    """
    size = min(max(math.floor(parent.size * (0.5 - shift)), 1), parent.size - 1)
    level = parent.level + 1
    if parent.uniform:
        left, right = (torch.full_like(parent.length, length) for length in (size, parent.size - size))
    else:
        left = torch.floor(parent.length.double() * (0.5 - shift)).long().clamp(min=1)  # rounds as `size` does
        left = torch.minimum(left, parent.length - 1)
        right = parent.length - left
    return (
        Nodes(parent.start, left, size, level, parent.uniform),
        Nodes(parent.start + left, right, parent.size - size, level, parent.uniform),
    )


def choose(right: torch.Tensor, left_half: Nodes, right_half: Nodes) -> tuple[Nodes, Nodes]:
    """(expanded, preserved) per chunk, where `right` (chunks,) says that the right half is expanded."""

    uniform = left_half.uniform and left_half.size == right_half.size

    def pick(yes: Nodes, no: Nodes) -> Nodes:
        length = yes.length if uniform else torch.where(right, yes.length, no.length)
        return Nodes(torch.where(right, yes.start, no.start), length, max(yes.size, no.size), left_half.level, uniform)

    return pick(right_half, left_half), pick(left_half, right_half)


def kept_count(length: int, ratio: float, sampling: str) -> int:
    """Entries that a node of `length` tokens keeps at a down-sampling ratio."""
    if sampling == "strided":
        return -(-length // int(ratio))
    return min(length, max(1, int(length / ratio + 0.5)))


def kept_offsets(nodes: Nodes, ratio: float, sampling: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Offsets inside the node of the tokens whose keys and values are kept, starting with the first.

    Returns offsets (chunks, entries) and a mask of valid entries, None where all are valid. Equidistant: entry i
    of E lies at floor(i * length / E), so E need not divide the length.
    """
    if nodes.uniform:
        return _offsets(nodes.size, ratio, sampling, nodes.start.device).expand(len(nodes.start), -1), None
    cpu = torch.device("cpu")
    table = [_offsets(size, ratio, sampling, cpu) for size in range(nodes.size + 1)]
    width = max(len(row) for row in table)
    offsets = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in table])
    counts = torch.tensor([len(row) for row in table])
    length = nodes.length.cpu()
    mask = torch.arange(width) < counts[length][:, None]
    return offsets[length].to(nodes.start.device), mask.to(nodes.start.device)


def _offsets(length: int, ratio: float, sampling: str, device: torch.device) -> torch.Tensor:
    """Made on the device itself: a copy from the host would wait for all work before it."""
    if length == 0:
        return torch.zeros(0, dtype=torch.long, device=device)
    if sampling == "strided":
        return torch.arange(0, length, int(ratio), device=device)
    count = kept_count(length, ratio, sampling)
    return torch.arange(count, device=device) * length // count


def halves(parent: Nodes, shift: float, last: bool, sampling: str) -> tuple[Nodes, Nodes]:
    """`split`, with the released rule for leaves: an odd parent gives up its last token."""
    if last and sampling == "strided":
        even = parent.length // 2 * 2
        parent = Nodes(parent.start, even, parent.size // 2 * 2, parent.level, parent.uniform)
    return split(parent, shift)


def widen(leaf: Nodes, overlap: int, chunk_size: int) -> Nodes:
    """The leaf pair as one node with `overlap` more tokens on either side, moved inwards at the chunk's ends."""
    size = min(leaf.size + 2 * overlap, chunk_size)
    length = (leaf.length + 2 * overlap).clamp(max=chunk_size)
    start = torch.minimum((leaf.start - overlap).clamp(min=0), chunk_size - length)
    return Nodes(start, length, size, leaf.level + 1, leaf.uniform)


def right_spine(
    root: Nodes, height: int, shifts: list[float], sampling: str, leaf_overlap: int | None = None
) -> list[Nodes]:
    """Nodes of a tree that needs no search: the left half is preserved at every level, both at the last one.

    In language modelling this gives fine detail next to the running text. Coarse to fine; text order.
    leaf_overlap: see `SharedLLMConfig`.
    """
    nodes: list[Nodes] = []
    expanded = root
    for level in range(1, height + 1):
        last = level == height
        if last and leaf_overlap is not None:
            return [*nodes, widen(expanded, leaf_overlap, root.size)]
        left, expanded = halves(expanded, shifts[level - 1], last, sampling)
        nodes.append(left)
    return [*nodes, expanded]


def whole_levels(chunk_size: int, height: int, leaf_overlap: int | None = None) -> list[tuple[list[int], int]]:
    """All nodes of every level of a tree of equal halves: token offsets where they start, and their size.

    leaf_overlap: see `SharedLLMConfig`; with it the last level has one node for each pair of leaves.
    """
    found = []
    for level in range(1, height + 1):
        pairs = level == height and leaf_overlap is not None
        count = 2 ** (level - pairs)
        size = chunk_size // count
        starts = [i * size for i in range(count)]
        if pairs and leaf_overlap is not None:
            size = min(size + 2 * leaf_overlap, chunk_size)
            starts = [min(max(start - leaf_overlap, 0), chunk_size - size) for start in starts]
        found.append((starts, size))
    return found


def entries_per_chunk(chunk_size: int, ratios: list[float], sampling: str, leaf_overlap: int | None = None) -> int:
    """Keys and values kept per chunk; chunk_size over this is the global ratio beta (paper eq. 1)."""
    root = whole(1, chunk_size, torch.device("cpu"))
    nodes = right_spine(root, len(ratios), [0.0] * len(ratios), sampling, leaf_overlap)
    return sum(kept_offsets(n, ratios[n.level - 1], sampling)[0].shape[1] for n in nodes)


def halving_ratios(beta: float, height: int) -> list[float]:
    """Down-sampling ratios that halve from level to level and keep 1/beta of a chunk (paper section 3.2).

    A chunk of C tokens has one node of C/2^w tokens at the levels w = 1..h-1 and two at level h; with a for the last
    ratio each of the h + 1 nodes keeps C/(a 2^h) entries, so a = beta (h + 1) / 2^h. Nothing keeps more than all.
    """
    last = beta * (height + 1) / 2**height
    return [max(1.0, last * 2 ** (height - level)) for level in range(1, height + 1)] if beta > 1 else [1.0] * height
