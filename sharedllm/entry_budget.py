"""Which chunks keep their leaves in full: a budget of entries that follows the question (`fine_chunks`) or, where
nothing is searched, the distance (`fine_recent`).

A search looks into every chunk, whether anything in it belongs to the question or not. Full leaves of all chunks
compete for the attention of the running text, the more of them the longer the context is. With a budget, the leaves
of the chunks that match the question best stay as they are; those of the others are down-sampled like the level above.
"""

from __future__ import annotations

import torch

from sharedllm.configuration import SharedLLMConfig
from sharedllm.tree import Nodes, entries_per_chunk, kept_count, right_spine, whole


def spine(config: SharedLLMConfig) -> list[Nodes]:
    """Nodes of one chunk's tree without a search; those of any other path have the same sizes."""
    root = whole(1, config.chunk_size, torch.device("cpu"))
    return right_spine(root, config.height, [0.0] * config.height, config.sampling, config.leaf_overlap)


def entries(config: SharedLLMConfig) -> int:
    """Entries of a chunk that keeps its leaves at their own ratio."""
    return entries_per_chunk(config.chunk_size, config.ratios, config.sampling, config.leaf_overlap)


def columns(config: SharedLLMConfig, width: int) -> tuple[list[int], list[int]]:
    """Of the `width` entries of a chunk, those that every chunk keeps, and those that fine chunks keep on top.

    Entries are numbered as in `sharedllm.compressor.Entries`, leaves first.
    """
    leaves = _leaves(config)
    coarse = [start + i * fine // few for start, fine, few in leaves for i in range(few)]
    end = sum(fine for _, fine, _ in leaves)
    return [*coarse, *range(end, width)], sorted(set(range(end)) - set(coarse))


def columns_on(config: SharedLLMConfig, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`columns`, made on the device itself: a copy from the host would wait for all work before it."""
    leaves = _leaves(config)
    coarse = torch.cat([start + torch.arange(few, device=device) * fine // few for start, fine, few in leaves])
    end = sum(fine for _, fine, _ in leaves)
    others = torch.ones(end, dtype=torch.int8, device=device).index_fill(0, coarse, 0)
    extra = others.argsort(descending=True, stable=True)[: end - len(coarse)]
    return torch.cat([coarse, torch.arange(end, width, device=device)]), extra


def _leaves(config: SharedLLMConfig) -> list[tuple[int, int, int]]:
    """Of each leaf its first entry, its entries, and how many of them are left at the ratio of the level above."""
    found, start = [], 0
    for leaf in (n for n in spine(config) if n.level == config.height):
        fine = kept_count(leaf.size, config.ratios[-1], config.sampling)
        found.append((start, fine, min(fine, kept_count(leaf.size, config.ratios[-2], config.sampling))))
        start += fine
    return found


def kept_entries(config: SharedLLMConfig, chunks: int) -> int:
    """Entries of a context of `chunks` chunks: searched with a question where the policy searches."""
    budget = config.recent_budget if config.policy == "right" else config.leaf_budget
    if budget is None:
        return chunks * entries(config)
    every, extra = columns(config, entries(config))
    return chunks * len(every) + min(chunks, budget) * len(extra)


def within(config: SharedLLMConfig, match: torch.Tensor, width: int, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries that stay, (B, kept) numbered through all chunks of a row, and which chunks are fine, (B, chunks).

    match: (B, chunks) how well the leaves match the question, -inf for chunks that do not count. width: entries
    of a chunk. budget: how many chunks are fine.
    """
    chosen = match.topk(min(budget, match.shape[1]), dim=1).indices.sort(1).values
    every, extra = columns_on(config, width, match.device)
    first = torch.arange(match.shape[1], device=match.device).expand_as(match) * width
    rows = [(first[..., None] + every).flatten(1), (chosen[..., None] * width + extra).flatten(1)]
    fine = torch.zeros_like(match, dtype=torch.bool).scatter(1, chosen, True)
    return torch.cat(rows, 1), fine
