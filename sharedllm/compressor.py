"""The lower model: chunks -> context trees -> compressed keys and values of the bottom M layers.

It owns no weights: it runs decoder layers that belong to the base model (self-injection), only as far as keys
and values need: of its last layer it computes nothing but K and V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from sharedllm.configuration import SharedLLMConfig
from sharedllm.nn.attention import (
    attend_nodes,
    numbered,
    project_keys,
    project_queries,
    project_values,
    rows,
    take,
)
from sharedllm.nn.branches import before_attention, finish_layer
from sharedllm.nn.layers import DecoderLayer, Norm, Rotation
from sharedllm.nn.rotation import apply_rotation
from sharedllm.search import FirstLayer, Found, Question, Rope, Searcher
from sharedllm.tree import Nodes, kept_offsets, right_spine, whole

Kept = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""What `lower_layer` returns: its output, the kept keys and the kept values."""
RunLayer = Callable[[DecoderLayer, torch.Tensor, Rotation | None, list[int], torch.Tensor, bool], Kept]
"""`lower_layer` or its compiled form."""

BLOCK_BYTES = 2**30
"""Bytes of MLP activations that a block of chunks may take: bounds memory at any context length."""


@dataclass
class Entries:
    """Kept keys (before rotation) and values of a block, one tensor (chunks, kv, entries, d) a layer that is read.

    Leaves come first. position: (chunks, entries) offset inside the node. mask: (chunks, entries) or None. path, match:
    see `sharedllm.search.Found`.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    position: torch.Tensor
    mask: torch.Tensor | None
    path: torch.Tensor | None
    match: torch.Tensor | None


@dataclass(frozen=True)
class LowerModel:
    """The layers that encode nodes, and what they need of the base.

    layers: the M lower decoder layers. embed: ids -> embeddings, as the first layer reads them. rope: see `Rope`.
    final_norm: the base's last norm, which `last_token` applies before comparing. run_layer:
    `lower_layer` or its compiled form. block_bytes: see BLOCK_BYTES.
    """

    config: SharedLLMConfig
    layers: Sequence[DecoderLayer]
    embed: Callable[[torch.Tensor], torch.Tensor]
    rope: Rope
    final_norm: Norm
    run_layer: RunLayer
    block_bytes: int = BLOCK_BYTES

    @property
    def searcher(self) -> Searcher:
        """The search of its trees."""
        return Searcher(self.config, self.layers[0], self.rope, self.final_norm)

    def block(self, tokens: int) -> int:
        """How many sequences of that many tokens are encoded at once."""
        token_bytes: int = 3 * self.config.base_config.intermediate_size * self.final_norm.weight.element_size()
        return max(1, self.block_bytes // (tokens * token_bytes))


class Compressor:
    """Runs the lower layers over the trees of a batch of chunks."""

    def __init__(self, lower: LowerModel) -> None:
        self.lower, self.config, self.searcher = lower, lower.config, lower.searcher

    def blocks(self, chunks: torch.Tensor, question: Question | None, shifts: list[float]) -> Iterator[Entries]:
        """Compress `chunks` (chunks, chunk_size) token ids, a block of them after the other. Shapes as in `Entries`.

        question: what the search compares with, None for language modelling. shifts: split noise, one draw a
        level for all chunks, so that nodes stay equally long and need no padding.
        """
        step = self.lower.block(chunks.shape[1])
        for start in range(0, max(len(chunks), 1), step):
            block = slice(start, start + step)
            yield self._block(chunks[block], question and question.of(block), shifts)

    def _block(self, chunks: torch.Tensor, question: Question | None, shifts: list[float]) -> Entries:
        root = whole(chunks.shape[0], chunks.shape[1], chunks.device)
        if question is None or self.config.policy == "right":
            overlap = self.config.leaf_overlap
            nodes = right_spine(root, self.config.height, shifts, self.config.sampling, overlap)
            tokens = torch.cat([n.tokens(chunks.shape[1]) for n in nodes], 1)
            return self._encode(self.lower.embed(chunks.gather(1, tokens)), nodes)
        hidden = self.lower.embed(chunks)
        first = self.searcher.first_layer(hidden)
        found = self.searcher.walk(first, root, question, shifts)
        return self._encode(hidden, found.nodes, found, first)

    def _encode(
        self, hidden: torch.Tensor, nodes: list[Nodes], found: Found | None = None, first: FirstLayer | None = None
    ) -> Entries:
        """Run the packed nodes through the layers; of the last one only keys and values are computed."""
        sizes = [n.size for n in nodes]
        kept, position, mask = self._kept(nodes)
        packed = numbered(kept, sum(sizes))
        node_position = torch.cat([torch.arange(s, device=hidden.device) for s in sizes])
        rotations = self.lower.rope(hidden, node_position[None])
        keys, values = [], []
        for j, layer in enumerate(self.lower.layers):
            last = j == len(self.lower.layers) - 1
            if found is not None and first is not None and j == 0:
                hidden, key, value = _first_layer(layer, hidden, found, first, kept, sizes, last)
            else:
                rotation = rotations.of(layer.self_attn)
                hidden, key, value = self.lower.run_layer(layer, hidden, rotation, sizes, packed, last)
            if j >= self.config.injection_start:
                keys.append(key)
                values.append(value)
        path, match = (None, None) if found is None else (found.path, found.match)
        return Entries(keys, values, position, mask, path, match)

    def _kept(self, nodes: list[Nodes]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Packed offsets, node positions and mask of the kept tokens, each (chunks, entries); leaves come first."""
        starts = [sum(n.size for n in nodes[:i]) for i in range(len(nodes))]
        packed, position, masks = [], [], []
        for i in leaves_first(nodes, self.config.height):
            offsets, mask = kept_offsets(nodes[i], self.config.ratios[nodes[i].level - 1], self.config.sampling)
            packed.append(offsets + starts[i])
            position.append(offsets)
            masks.append(torch.ones_like(offsets, dtype=torch.bool) if mask is None else mask)
        valid = None if all(n.uniform for n in nodes) else torch.cat(masks, 1)
        return torch.cat(packed, 1), torch.cat(position, 1), valid


def leaves_first(nodes: list[Nodes], height: int) -> list[int]:
    """Numbers of the nodes of a tree, coarse to fine, in the order of their entries: leaves, then fine to coarse."""
    leaves = [i for i, n in enumerate(nodes) if n.level == height]
    return [*leaves, *range(leaves[0] - 1, -1, -1)]


def lower_layer(
    layer: DecoderLayer,
    hidden: torch.Tensor,
    rotation: Rotation | None,
    sizes: list[int],
    kept: torch.Tensor,
    last: bool,
) -> Kept:
    """One decoder layer over packed nodes; every node attends to itself alone. kept: as `rows` wants them.

    Returns (output (chunks, tokens, H), kept keys before rotation, kept values (chunks, kv, entries, d)). Nothing
    reads the output of the `last` layer, so its attention and MLP are left out.
    """
    normed = before_attention(layer, hidden)
    key, value = project_keys(layer.self_attn, normed), project_values(layer.self_attn, normed)
    if not last:
        query = apply_rotation(project_queries(layer.self_attn, normed), rotation)
        attended = attend_nodes(query, apply_rotation(key, rotation), value, sizes, layer.self_attn.scaling)
        hidden = finish_layer(layer, hidden, attended)
    return hidden, rows(key, kept), rows(value, kept)


def _first_layer(
    layer: DecoderLayer,
    hidden: torch.Tensor,
    found: Found,
    first: FirstLayer,
    kept: torch.Tensor,
    sizes: list[int],
    last: bool,
) -> Kept:
    """As `lower_layer`, from what the search has computed already. hidden: embeddings in text order. kept: (chunks,
    entries) offsets in the packed nodes."""
    tokens = numbered(torch.cat([n.tokens(hidden.shape[1]) for n in found.nodes], 1), hidden.shape[1])
    kept_tokens = tokens.gather(1, kept)
    if not last and found.states is not None:
        hidden = torch.cat(found.states, 1)
    elif not last:
        query, key, value = (rows(x, tokens) for x in (first.query, first.key, first.value))
        attended = attend_nodes(query, key, value, sizes, layer.self_attn.scaling)
        hidden = finish_layer(layer, take(hidden, tokens), attended)
    return hidden, rows(first.raw_key, kept_tokens), rows(first.value, kept_tokens)
