"""What Activation Beacon keeps of a text: beacons of full windows, and the window that is not full yet.

A beacon stands at slot i of its window while the window is read, and moves to the next free place in memory when
the window is full. Both places are known when its key is made, so the key is rotated for both then (the second
is "staged"), and nothing is ever rotated again: a full window costs one copy of w/a entries per layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """Where tokens and beacons stand in a window: a beacon follows every `ratio` tokens.

    window: tokens; ratio: tokens per beacon; sink: first tokens of the text whose keys and values stay for good.
    """

    window: int
    ratio: int
    sink: int = 0

    @property
    def beacons(self) -> int:
        """Beacons of a full window."""
        return self.window // self.ratio

    def slots(self, tokens: int) -> int:
        """Tokens and beacons in a window that holds `tokens` tokens."""
        return tokens + tokens // self.ratio

    def rows(self, first: int, last: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of the tokens numbered first..last-1 of a window, and of the beacons among them."""
        token = torch.arange(first, last, device=device)
        beacon = torch.arange(first // self.ratio, last // self.ratio, device=device)
        return token + token // self.ratio, (beacon + 1) * (self.ratio + 1) - 1


@dataclass(frozen=True)
class Fill:
    """How full a cache is. memory: entries of sinks and of beacons of full windows; tokens: in the unfinished
    window; seen: tokens of the whole text."""

    layout: Layout
    memory: int = 0
    tokens: int = 0
    seen: int = 0

    @property
    def used(self) -> int:
        """Entries of keys and of values in each layer."""
        return self.memory + self.layout.slots(self.tokens)

    @property
    def staged(self) -> int:
        """Beacons in the unfinished window: each has a second key."""
        return self.tokens // self.layout.ratio

    @property
    def room(self) -> int:
        """Tokens until the window is full."""
        return self.layout.window - self.tokens

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Entries of sinks, of beacons of full windows, and of the unfinished window."""
        sink = min(self.memory, self.layout.sink)
        return sink, self.memory - sink, self.used - self.memory

    @property
    def target(self) -> int:
        """Where the first beacon of the window moves to. In the first window the sinks already stand before it."""
        return max(self.memory, self.layout.sink)

    def add(self, tokens: int) -> Fill:
        """The fill after `tokens` more, no more than `room`; a full window is condensed at once."""
        full, seen = tokens == self.room, self.seen + tokens
        if full:
            return Fill(self.layout, self.target + self.layout.beacons, 0, seen)
        return Fill(self.layout, self.memory, self.tokens + tokens, seen)

    def pieces(self, tokens: int) -> Iterator[tuple[Fill, int]]:
        """The forward passes that `tokens` more are cut into: the state before each, and its tokens."""
        fill = self
        while tokens:
            piece = min(tokens, fill.room)
            yield fill, piece
            fill, tokens = fill.add(piece), tokens - piece

    def peak(self, tokens: int) -> int:
        """The most entries that reading `tokens` more needs, before the last full window is condensed."""
        return max((f.memory + self.layout.slots(f.tokens + n) for f, n in self.pieces(tokens)), default=self.used)


class LayerState:
    """Keys (rotated) and values of one layer: (batch, kv heads, capacity, head_dim), and the staged beacon keys.

    staged: keys of the window's beacons rotated to the place that they move to, (batch, kv heads, w/a, head_dim).
    """

    def __init__(self) -> None:
        self.keys = self.values = self.staged = torch.empty(0)

    def grow(self, like: torch.Tensor, capacity: int, used: int, beacons: int) -> None:
        batch, heads, _, dim = like.shape
        keys, values = like.new_empty(2, batch, heads, capacity, dim)
        if self.keys.numel():
            keys[:, :, :used] = self.keys[:, :, :used]
            values[:, :, :used] = self.values[:, :, :used]
        else:
            self.staged = like.new_empty(batch, heads, beacons, dim)
        self.keys, self.values = keys, values


class BeaconCache:
    """What was read, in every layer contiguous: sinks, beacons, then the unfinished window.

    `rewind` restores the state of the last `mark`, bit for bit.
    """

    SLACK = 256
    """Entries allocated beyond what is asked for, so that decoding does not grow the buffers at every token."""

    def __init__(self, layout: Layout, layers: int) -> None:
        self.layout = layout
        self.fill = Fill(layout)
        self.layers = [LayerState() for _ in range(layers)]
        self._mark = self.fill
        self._saved: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @property
    def state_bytes(self) -> int:
        """Bytes of the entries in use: keys, values, and the staged keys of the unfinished window."""
        keys = self.layers[0].keys
        entry = keys[:, :, 0].numel() * keys.element_size() if keys.numel() else 0
        return len(self.layers) * entry * (2 * self.fill.used + self.fill.staged)

    def get_seq_length(self) -> int:
        """Tokens read so far (what `generate` counts)."""
        return self.fill.seen

    def reserve(self, index: int, like: torch.Tensor, entries: int) -> LayerState:
        """The state of a layer with room for `entries`; like: a key tensor (batch, kv heads, any, head_dim)."""
        layer = self.layers[index]
        if layer.keys.ndim < 4 or entries > layer.keys.shape[2]:
            layer.grow(like, entries + self.SLACK, self.fill.used, self.layout.beacons)
        return layer

    def advance(self, tokens: int) -> None:
        """Count `tokens` that every layer has written; a window that is full is condensed at once."""
        before, self.fill = self.fill, self.fill.add(tokens)
        if tokens == before.room:
            self._condense(before)

    def _condense(self, before: Fill) -> None:
        if not self._saved and self._mark.tokens:
            self._save()
        start, end = before.target, self.fill.memory
        beacons = before.memory + self.layout.rows(0, self.layout.window, self.layers[0].keys.device)[1]
        for layer in self.layers:
            layer.keys[:, :, start:end] = layer.staged
            layer.values[:, :, start:end] = layer.values[:, :, beacons]

    def mark(self) -> None:
        """The state that `rewind` returns to."""
        self._mark, self._saved = self.fill, []

    def _save(self) -> None:
        """Copy the marked window before its place is taken."""
        window = slice(self._mark.memory, self._mark.used)
        self._saved = [
            (layer.keys[:, :, window].clone(), layer.values[:, :, window].clone(), layer.staged.clone())
            for layer in self.layers
        ]

    def rewind(self) -> None:
        """Back to the mark."""
        self.fill = self._mark
        window = slice(self.fill.memory, self.fill.used)
        for layer, (keys, values, staged) in zip(self.layers, self._saved, strict=False):
            layer.keys[:, :, window] = keys
            layer.values[:, :, window] = values
            layer.staged = staged
        self._saved = []
