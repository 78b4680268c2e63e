"""Reads through a stock decoder of which a GPU replays all but the attention, as CUDA graphs.

Attention depends on what a cache holds, and where. What a layer does besides depends on the number of tokens alone, and
is most of its kernels: captured once, it is replayed at every position, for every text and question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import Cache, PreTrainedModel

from evals.methods.decoding.prefill import check_length, project, read
from evals.methods.decoding.replays import ReplayingReader, padded
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.attention import merged
from sharedllm.nn.base_config import mlp_width, text_config, windows
from sharedllm.nn.branches import before_attention, finish_and_norm, finish_branches, input_norms
from sharedllm.nn.fused import rms_norm
from sharedllm.nn.layers import Decoder, decoder_of, embed
from sharedllm.nn.parts import attend_newest
from sharedllm.nn.recipes import recipe_of
from sharedllm.nn.rotation import Rotations, rotations

STEP = 256
"""More than STEP tokens are padded to multiples of it, which takes up to 4 ms at the 7B shape on an H200, half of that
on average: fewer tokens would take little less than reading the weights."""
SHAPES = 16
"""Numbers of tokens whose graphs are remembered."""
Projecting = Callable[[torch.Tensor, Rotations], Sequence[torch.Tensor]]
"""States (1, S, H) and rotations -> heads (1, heads, S, d)."""


@dataclass(frozen=True)
class Desk:
    """Where graphs read and write: the first rows of it, as many as they were captured for.

    ids, positions: (1, rows). hidden: (1, rows, H). attended: (1, rows, heads * d). heads: queries, keys, values and
    what else a layer's attention makes, (1, heads, rows, d) each, as projections leave them in memory. rope: of the
    positions.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    hidden: torch.Tensor
    attended: torch.Tensor
    heads: Sequence[torch.Tensor]
    rope: Rotations

    @classmethod
    def of(cls, decoder: Decoder, rows: int, project: Projecting) -> Desk:
        """For up to so many rows. project: heads that a first layer makes of states and their rotations."""
        weight = decoder.embed_tokens.weight
        ids = torch.zeros(1, rows, dtype=torch.long, device=weight.device)
        one = embed(decoder, ids[:, :1])
        made = project(one, rotations(decoder, one, ids[:, :1]))
        heads = [x.new_zeros(1, rows, x.shape[1], x.shape[3]).transpose(1, 2) for x in made]
        width = decoder.layers[0].self_attn.head_dim * heads[0].shape[1]
        hidden, attended = (one.new_zeros(1, rows, n) for n in (one.shape[2], width))
        return cls(ids, ids.clone(), hidden, attended, heads, rotations(decoder, one, ids))

    def first(self, rows: int) -> Desk:
        """The first rows of it."""
        ids, positions, hidden, attended = (x[:, :rows] for x in (self.ids, self.positions, self.hidden, self.attended))
        rope = {name: (c[:, :, :rows], s[:, :, :rows]) for name, (c, s) in self.rope.tables.items()}
        return Desk(ids, positions, hidden, attended, [x[:, :, :rows] for x in self.heads], Rotations(rope))

    def of_texts(self, count: int) -> Desk:
        """The rows as so many texts of as many tokens, at the same positions: the 1 in all shapes becomes `count`, but
        in those of positions and rope."""

        def split(x: torch.Tensor) -> torch.Tensor:
            return x.view(count, -1, *x.shape[2:])

        tokens = self.ids.shape[1] // count
        rope = {name: (c[:, :, :tokens], s[:, :, :tokens]) for name, (c, s) in self.rope.tables.items()}
        heads = [split(x.transpose(1, 2)).transpose(1, 2) for x in self.heads]
        ids, hidden, attended = (split(x) for x in (self.ids, self.hidden, self.attended))
        return Desk(ids, self.positions[:, :tokens], hidden, attended, heads, Rotations(rope))

    def place(self, ids: torch.Tensor, first: int) -> None:
        """Put ids (texts, q) at positions first, first + 1, ... in front. Rows of padding hold ids of earlier reads."""
        self.ids[:, : ids.shape[1]] = ids
        torch.arange(first, first + self.ids.shape[1], out=self.positions[0])

    def embed(self, decoder: Decoder) -> torch.Tensor:
        """States of the ids, and the rotations of their positions in their place."""
        hidden = embed(decoder, self.ids)
        made = rotations(decoder, hidden, self.positions)
        for name, table in self.rope.tables.items():
            put(table, made.tables[name])
        return hidden


def put(places: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> None:
    """Copy each tensor to its place."""
    for place, x in zip(places, made, strict=True):
        place.copy_(x)


def rows_of(tokens: int) -> int:
    """Rows that so many tokens take."""
    return padded(tokens) if tokens <= STEP else padded(tokens, STEP)


class LayerReader(ReplayingReader[PreTrainedModel, None]):
    """longest: tokens of a read above which it is launched. graphs: whether it may replay, where a GPU gains."""

    def __init__(self, model: PreTrainedModel, longest: int, graphs: bool = True) -> None:
        may = graphs and supports_static_decoding(model) and set(windows(model.config)) == {None}
        self._rows = padded(longest, STEP)
        need = self._rows * row_bytes(model) if may else 0
        super().__init__(model, may, need, SHAPES * (text_config(model.config).num_hidden_layers + 1))
        self._desk: Desk | None = None

    def forget(self) -> None:
        super().forget()
        self._desk = None

    def __call__(self, ids: torch.Tensor, first: int, cache: Cache) -> torch.Tensor:
        """`prefill.read`: final hidden states (q, hidden) of `ids` (1, q) at positions first, first + 1, ..."""
        tokens, device = ids.shape[1], self._model.device
        rows = rows_of(tokens)
        if not self.replaying or rows > self._rows:
            return read(self._model, ids, first, cache)
        check_length(self._model.config, first + tokens)
        desk = self._place(rows)
        desk.place(ids, first)
        self._replays((rows, 0), partial(self._begin, desk), device=device)
        for index, layer in enumerate(decoder_of(self._model).layers):
            query, key, value = (x[:, :, :tokens] for x in desk.heads)
            keys, values = cache.update(key, value, index)
            heads = attend_newest(query, keys, values, layer.self_attn.scaling)
            desk.attended[:, :tokens] = merged(heads)
            self._replays((rows, index + 1), partial(self._go_on, desk, index), device=device)
        return desk.hidden[0, :tokens].clone()

    def _place(self, rows: int) -> Desk:
        if self._desk is None:
            layer = decoder_of(self._model).layers[0]
            self._desk = Desk.of(
                decoder_of(self._model), self._rows, lambda x, rope: project(layer, before_attention(layer, x), rope)
            )
        return self._desk.first(rows)

    def _begin(self, desk: Desk) -> None:
        """From ids to the heads of the first layer."""
        layer, hidden = decoder_of(self._model).layers[0], desk.hidden.copy_(desk.embed(decoder_of(self._model)))
        project(layer, before_attention(layer, hidden), desk.rope, desk.heads)

    def _go_on(self, desk: Desk, index: int) -> None:
        """From what layer `index` attended to, to the heads of the next layer or the final states."""
        decoder = decoder_of(self._model)
        layer, followers = decoder.layers[index], decoder.layers[index + 1 :]
        update = layer.self_attn.o_proj(desk.attended)
        if recipe_of(layer.self_attn).plain:
            _, normed = finish_and_norm(layer, desk.hidden, update, input_norms(decoder)[index + 1], into=desk.hidden)
        else:
            hidden = desk.hidden.copy_(finish_branches(layer, desk.hidden, update))
            normed = before_attention(followers[0], hidden) if followers else rms_norm(decoder.norm, hidden)
        if followers:
            project(followers[0], normed, desk.rope, desk.heads)
        else:
            desk.hidden.copy_(normed)


def row_bytes(model: PreTrainedModel) -> int:
    """Bytes that a row takes at most: on the desk, and in a layer."""
    config = text_config(model.config)
    width: int = config.hidden_size
    return round(3 * mlp_width(config) + 16 * width) * model.dtype.itemsize
