"""What Activation Beacon keeps of a text: beacons of full windows, and the window that is not full yet.

A beacon stands at slot i of its window while the window is read, and moves to the next free place in memory when
the window is full. Both places are known when its key is made, so the key is rotated for both then (the second
is "staged"), and nothing is ever rotated again: a full window costs one copy of w/a entries per layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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


class LayerState(NamedTuple):
    """Keys (rotated) and values of one layer: (batch, kv heads, capacity, head_dim), and the staged beacon keys.

    staged: keys of the window's beacons rotated to the place that they move to, (batch, kv heads, w/a or more,
    head_dim).
    """

    keys: torch.Tensor
    values: torch.Tensor
    staged: torch.Tensor


class Buffers(NamedTuple):
    """Memory of a cache. Layers share one tensor of each kind, so that a window is condensed in all of them at once.
    Entries come before texts and heads, as projections leave them in memory.

    keys, values: (layers, capacity, batch, kv heads, head_dim). staged: the same with w/a entries or more.
    """

    keys: torch.Tensor
    values: torch.Tensor
    staged: torch.Tensor

    @classmethod
    def zeros(cls, like: torch.Tensor, layers: int, entries: int, staged: int) -> Buffers:
        """like: keys (any, batch, kv heads, head_dim). Zeros, since a mask does not hide NaN."""
        return cls(*(like.new_zeros(layers, count, *like.shape[1:]) for count in (entries, entries, staged)))

    @property
    def capacity(self) -> int:
        """Entries that fit."""
        return self.keys.shape[1]

    def places(self, index: int, entries: slice, staged: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys and values of a layer's entries, and its staged keys, (entries, batch * kv heads, head_dim)."""
        keys, values = (x[index, entries].flatten(1, 2) for x in (self.keys, self.values))
        return keys, values, self.staged[index, staged].flatten(1, 2)


class BeaconCache:
    """What was read, in every layer contiguous: sinks, beacons, then the unfinished window.

    `rewind` restores the state of the last `mark`, bit for bit.
    """

    SLACK = 256
    """Entries allocated beyond what is asked for, so that decoding does not grow the buffers at every token."""

    def __init__(self, layout: Layout, layers: int) -> None:
        self.layout = layout
        self.fill = Fill(layout)
        self.layers: list[LayerState] = []
        self.buffers: Buffers | None = None
        """None before anything was read."""
        self._count = layers
        self._mark = self.fill
        self._saved: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes of the entries in use: keys, values, and the staged keys of the unfinished window. The buffers have
        room for more."""
        entry = self.buffers.keys[:, 0].nbytes if self.buffers else 0
        return entry * (2 * self.fill.used + self.fill.staged)

    def get_seq_length(self) -> int:
        """Tokens read so far (what `generate` counts)."""
        return self.fill.seen

    def reserve(self, like: torch.Tensor, entries: int) -> None:
        """Make room for `entries` in every layer; like: keys (any, batch, kv heads, head_dim)."""
        if self.buffers is None or entries > self.buffers.capacity:
            self.move(Buffers.zeros(like, self._count, entries + self.SLACK, self.layout.beacons))

    def move(self, buffers: Buffers) -> None:
        """Hold what was read in other buffers, which have room for it."""
        used, beacons = self.fill.used, self.layout.beacons
        if self.buffers is not None:
            for new, old, count in zip(buffers, self.buffers, (used, used, beacons), strict=True):
                new[:, :count] = old[:, :count]
        self.buffers = buffers
        by_head = (x.permute(0, 2, 3, 1, 4) for x in buffers)
        self.layers = [LayerState(*tensors) for tensors in zip(*by_head, strict=True)]

    def leave(self) -> None:
        """Hold what was read in buffers of its own, so that those which it was in can be used for another text."""
        if self.buffers is not None:
            like, entries = self.buffers.keys[0], self.fill.used + self.SLACK
            self.move(Buffers.zeros(like, self._count, entries, self.layout.beacons))

    def advance(self, tokens: int, condensed: bool = False) -> None:
        """Count `tokens` that every layer has written; a window that is full is condensed at once. condensed: whether
        its beacons have moved already."""
        before, self.fill = self.fill, self.fill.add(tokens)
        if tokens == before.room and not condensed:
            self._condense(before)

    def _condense(self, before: Fill) -> None:
        if self._saved is None and self._mark.tokens:
            self._save()
        assert self.buffers is not None
        keys, values, staged = self.buffers
        places = slice(before.target, self.fill.memory)
        window = values[:, before.memory : before.memory + self.layout.slots(self.layout.window)]
        keys[:, places] = staged[:, : self.layout.beacons]
        values[:, places] = window[:, self.layout.ratio :: self.layout.ratio + 1].clone()  # from the same memory

    def mark(self) -> None:
        """The state that `rewind` returns to."""
        self._mark, self._saved = self.fill, None

    def _save(self) -> None:
        """Copy the marked window before its place is taken."""
        assert self.buffers is not None
        window, (keys, values, staged) = slice(self._mark.memory, self._mark.used), self.buffers
        self._saved = keys[:, window].clone(), values[:, window].clone(), staged[:, : self.layout.beacons].clone()

    def rewind(self) -> None:
        """Back to the mark."""
        self.fill = self._mark
        if self._saved is not None:
            assert self.buffers is not None
            window, (keys, values, staged) = slice(self.fill.memory, self.fill.used), self.buffers
            keys[:, window], values[:, window], staged[:, : self.layout.beacons] = self._saved
        self._saved = None
