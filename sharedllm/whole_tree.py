"""All nodes of the context trees, each encoded once, so that a further question only searches (`nodes: all`).

A tree that follows a question has one node of each level and two leaves. They tile the chunk, so another question reads
it again. All nodes of h levels tile it h times: the first question costs h times the lower model and about as many
times the memory. Every further one costs the search alone, which finds the states that it compares stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sharedllm.chunk_rows import ChunkRows
from sharedllm.compressor import Entries, LowerModel, leaves_first
from sharedllm.configuration import SharedLLMConfig
from sharedllm.nn.attention import numbered
from sharedllm.search import Question, Searcher
from sharedllm.tree import Nodes, kept_offsets, whole, whole_levels


@dataclass(frozen=True)
class Level:
    """All nodes of one level, in text order, `count` of every chunk.

    starts: (count,) token offsets in the chunk. keys, values: (chunks, count, kv, entries, d) before rotation, a layer
    that is read. position: (entries,) offsets inside a node. states: after the first layer, of all tokens (chunks,
    count, size, H), or of the last one of each node with the size 1; None where nothing compares them. places: the
    device on which each of `tensors` is read, wherever it is held.
    """

    starts: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    position: torch.Tensor
    states: torch.Tensor | None
    places: list[torch.device]

    def number(self, nodes: Nodes) -> torch.Tensor:
        """Which nodes these are, (chunks,)."""
        return torch.searchsorted(self.starts, nodes.start)

    def of(self, chunks: slice) -> Level:
        """The nodes of some of the chunks, where they are read."""
        brought = [x[chunks].to(place) for x, place in zip(self.tensors(), self.places, strict=True)]
        return replace(self, **_named(brought, len(self.keys)))

    def tensors(self) -> list[torch.Tensor]:
        """Everything that is kept."""
        return [*self.keys, *self.values, *([] if self.states is None else [self.states])]


def _named(tensors: Sequence[torch.Tensor], layers: int) -> dict[str, Any]:
    """Fields of a Level from its `tensors`."""
    keys, values, rest = tensors[:layers], tensors[layers : 2 * layers], tensors[2 * layers :]
    return {"keys": keys, "values": values, "states": rest[0] if rest else None}


class WholeTrees:
    """Searches trees that have been encoded whole. `entries` is what `Compressor` makes of the same question."""

    def __init__(self, config: SharedLLMConfig, levels: Sequence[Level], searcher: Searcher, chunks: int) -> None:
        """levels: from the coarsest on. chunks: of all rows together."""
        self.config, self.levels, self.searcher, self.chunks = config, levels, searcher, chunks

    @property
    def nbytes(self) -> int:
        """Bytes of all nodes."""
        return sum(tensor.nbytes for level in self.levels for tensor in level.tensors())

    def blocks(self, question: Question, chunks: int) -> Iterator[Entries]:
        """Entries of the nodes that the question chooses, of so many chunks after the others."""
        for start in range(0, max(self.chunks, 1), chunks):
            block = slice(start, start + chunks)
            levels, count = [level.of(block) for level in self.levels], min(chunks, self.chunks - start)
            yield WholeTrees(self.config, levels, self.searcher, count).entries(question.of(block))

    def entries(self, question: Question) -> Entries:
        """Entries of the nodes that the question chooses, of all chunks at once. The levels are where they are read."""
        root = whole(self.chunks, self.config.chunk_size, self.levels[0].starts.device)
        found = self.searcher.walk(self, root, question, [0.0] * self.config.height)
        order = [found.nodes[i] for i in leaves_first(found.nodes, self.config.height)]
        at = [(self.levels[nodes.level - 1], nodes) for nodes in order]
        keys = zip(*([_of(k, level.number(nodes)) for k in level.keys] for level, nodes in at), strict=True)
        values = zip(*([_of(v, level.number(nodes)) for v in level.values] for level, nodes in at), strict=True)
        return Entries(
            [torch.cat(layer, 2) for layer in keys],
            [torch.cat(layer, 2) for layer in values],
            torch.cat([level.position for level, _ in at]).expand(self.chunks, -1),
            None,
            found.path,
            found.match,
        )

    def states(self, nodes: Nodes) -> torch.Tensor:
        """As `FirstLayer.states`."""
        return self._stored(nodes)

    def last_state(self, nodes: Nodes) -> torch.Tensor:
        """As `FirstLayer.last_state`."""
        return self._stored(nodes)[:, -1]

    def _stored(self, nodes: Nodes) -> torch.Tensor:
        level = self.levels[nodes.level - 1]
        assert level.states is not None
        return _of(level.states, level.number(nodes))


def _of(x: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """The node with that number (chunks,) of every chunk: (chunks, count, ...) -> (chunks, ...)."""
    return x[torch.arange(len(x), device=x.device), number.to(x.device)]


def compares(config: SharedLLMConfig, level: int) -> bool:
    """Whether a search looks at the nodes of a level: at the last one only `maxsim`, which matches leaves."""
    return level < config.height or config.policy == "maxsim"


class TreeReader:
    """Encodes all nodes of the trees of a batch of chunks. offload: the nodes stay in host memory."""

    def __init__(self, lower: LowerModel, offload: bool) -> None:
        self.lower, self.config, self.offload = lower, lower.config, offload

    def __call__(self, chunks: torch.Tensor) -> WholeTrees:
        """Read `chunks` (chunks, chunk_size) token ids."""
        found = whole_levels(self.config.chunk_size, self.config.height, self.config.leaf_overlap)
        levels = [
            self._level(chunks, level, torch.tensor(starts, device=chunks.device), size)
            for level, (starts, size) in enumerate(found, 1)
        ]
        return WholeTrees(self.config, levels, self.lower.searcher, len(chunks))

    def _level(self, chunks: torch.Tensor, level: int, starts: torch.Tensor, size: int) -> Level:
        tokens = (starts[:, None] + torch.arange(size, device=starts.device)).flatten()
        pieces = chunks[:, tokens].view(-1, size)
        step = self.lower.block(size)
        kept: list[ChunkRows] = []
        places: list[torch.device] = []
        for i in range(0, max(len(pieces), 1), step):
            found = self._block(pieces[i : i + step], level)
            places = [x.device for x in found]
            held = [torch.device("cpu")] * len(places) if self.offload else places
            kept = kept or [ChunkRows(len(pieces), None, device) for device in held]
            for rows, block in zip(kept, found, strict=True):
                rows.add(block)
            del found, block  # before the next block is computed
        tensors = [torch.unflatten(x, 0, (len(chunks), len(starts))) for rows in kept if (x := rows.take()) is not None]
        read = len(self.lower.layers) - self.config.injection_start
        ratio, node = self.config.ratios[level - 1], whole(1, size, starts.device)
        position = kept_offsets(node, ratio, self.config.sampling)[0][0]
        return Level(starts=starts, position=position, places=places, **_named(tensors, read))

    def _block(self, pieces: torch.Tensor, level: int) -> list[torch.Tensor]:
        """Of nodes (nodes, tokens) the kept keys of every layer that is read, the values, and the states that a search
        compares, where it does."""
        node = whole(len(pieces), pieces.shape[1], pieces.device)
        kept, _ = kept_offsets(node, self.config.ratios[level - 1], self.config.sampling)
        kept = numbered(kept, pieces.shape[1])
        hidden = self.lower.embed(pieces)
        rotations = self.lower.rope(hidden, torch.arange(pieces.shape[1], device=pieces.device)[None])
        keys, values, states = [], [], []
        for j, layer in enumerate(self.lower.layers):
            compared = j == 0 and compares(self.config, level)
            last = j == len(self.lower.layers) - 1 and not compared
            rotation = rotations.of(layer.self_attn)
            hidden, key, value = self.lower.run_layer(layer, hidden, rotation, [pieces.shape[1]], kept, last)
            if compared:
                states = [hidden[:, -1:].clone() if self.config.policy == "last_token" else hidden]
            if j >= self.config.injection_start:
                keys.append(key)
                values.append(value)
        return [*keys, *values, *states]
