"""Activation Beacon's static step: one token of a window and, where one is due, the beacon after it."""

from __future__ import annotations

import torch

from baselines.activation_beacon.cache import BeaconCache
from baselines.activation_beacon.modeling import BeaconDecoder, BeaconModel, projection
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep, Rows
from sharedllm.nn.attention import merged
from sharedllm.nn.branches import before_attention
from sharedllm.nn.fused import rotate
from sharedllm.nn.layers import DecoderLayer, Projection, output_head
from sharedllm.nn.rotation import Rotations


class BeaconStep(DecoderStep[BeaconDecoder]):
    """tokens: no more than the window has room for. There are two kinds of steps, with and without a beacon; tokens and
    beacons alike take slots of the window."""

    def __init__(self, model: BeaconModel, cache: BeaconCache, tokens: int) -> None:
        self._fill, self._layout = cache.fill, cache.layout
        used, first = cache.fill.used, cache.fill.tokens
        slots = self._layout.slots(first + tokens) - self._layout.slots(first)
        reach = Reach(used, slots, None, model.device)
        tails = [Tail(reach, (layer.keys[:, :, :used], layer.values[:, :, :used])) for layer in cache.layers]
        super().__init__(model.decoder, output_head(model), used, [reach for _ in tails], tails)
        self.tokens, self._cache = tokens, cache
        self._beacon = torch.zeros_like(self.number)
        self._staged = [layer.staged[:, :, : self._layout.beacons].clone() for layer in cache.layers]

    @property
    def kind(self) -> bool:
        """Whether a beacon follows the next token."""
        return (self._next + 1) % self._layout.ratio == 0

    @property
    def _next(self) -> int:
        """Number of the next token in its window."""
        return self._fill.tokens + self.count

    def prepare(self, token: int) -> None:
        self.token.fill_(token)
        self.number.fill_(self._layout.slots(self._next) - self._layout.slots(self._fill.tokens))
        self._beacon.fill_(self._next // self._layout.ratio)

    def advance(self, token: torch.Tensor) -> None:
        super().advance(token)
        if self.kind:
            self.number += 1
            self._beacon += 1

    def embed(self) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, number = super().embed()
        if not self.kind:
            return hidden, number
        beacon = self.decoder.beacon_embed_tokens.weight[None]
        return torch.cat([hidden, beacon], 1), torch.cat([number, number + 1])

    def rotations(self, hidden: torch.Tensor, position: torch.Tensor) -> Rotations:
        """Of the rows, then of the place that a beacon moves to."""
        if self.kind:
            position = torch.cat([position, self._fill.target + self._beacon])
        return super().rotations(hidden, position)

    def attend(self, index: int, layer: DecoderLayer, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        if not self.kind:
            return super().attend(index, layer, hidden, rows)
        assert rows.rotation is not None
        attention, normed = layer.self_attn, before_attention(layer, hidden)
        cos, sin = rows.rotation
        count = len(rows.place)
        here = cos[:, :, :count], sin[:, :, :count]
        query, key, value = (
            project(projection(attention, "", x), projection(attention, "beacon_", x), normed, 1, attention.head_dim)
            for x in "qkv"
        )
        moved = rotate(key[:, :, 1:], cos[:, :, count:], sin[:, :, count:])
        self._staged[index].index_copy_(2, self._beacon, moved)
        tail = self.tails[index]
        tail.write(rows.place, rotate(key, *here), value)
        out = tail.attend(rotate(query, *here), rows.bias, attention.scaling)
        return self.output(index, layer, hidden, merged(out))

    def finish(self) -> None:
        first = self._fill.used
        slots = self._layout.slots(self._next) - self._layout.slots(self._fill.tokens)
        for index, tail in enumerate(self.tails):
            keys, values = tail.new(slots)
            self._cache.reserve(keys.permute(2, 0, 1, 3), first + slots)
            layer = self._cache.layers[index]
            layer.keys[:, :, first : first + slots] = keys
            layer.values[:, :, first : first + slots] = values
            layer.staged[:, :, : self._layout.beacons] = self._staged[index]
        self._cache.advance(self.count)


def project(own: Projection, beacon: Projection, x: torch.Tensor, tokens: int, head_dim: int) -> torch.Tensor:
    """(batch, rows, hidden) -> (batch, heads, rows, head_dim), the rows from `tokens` on by the beacons' projection."""
    out = own(x[:, :tokens])
    if x.shape[1] > tokens:
        out = torch.cat([out, beacon(x[:, tokens:])], dim=1)
    return torch.unflatten(out, -1, (-1, head_dim)).transpose(1, 2)
