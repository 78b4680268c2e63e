"""Activation Beacon's reads: windows that a GPU replays as CUDA graphs.

A window of 1024 tokens has some twenty kernels in each layer, which take a GPU less time than it takes a host to launch
them. All windows of one ratio launch the same ones: what differs is how many beacons stand before the window, and that
is read from the device. So one graph serves every window of every text. The end of a text and a question are padded to
a few lengths.

A layer needs of the windows before it what their beacons left in the same layer alone. So whole windows go through the
layers together: only their attention takes turns.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from baselines.activation_beacon.cache import BeaconCache, Buffers, Fill, Layout
from baselines.activation_beacon.modeling import BeaconModel
from baselines.activation_beacon.rows import Heads, by_slot, part
from evals.methods.decoding.replays import PAD, ReplayingReader, Replays, padded
from evals.methods.decoding.static_attention import FirstKeys
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.fused import place_rows
from sharedllm.nn.layers import Attention, Rotation

TOGETHER = 4
"""Windows that are read together: 4096 tokens are enough for matrix products at their full rate, and the beacons'
weights are read once for all."""
STEP = 1024
"""Entries by which buffers grow: with other buffers all graphs are captured anew."""


class BeaconReader(ReplayingReader[BeaconModel, torch.Tensor]):
    """graphs: whether it may replay reads, where a GPU gains from it.

    Graphs write to buffers at one place. The cache that is read into holds what it read there, and leaves when another
    one is read into: a session alone takes no memory twice.
    """

    def __init__(self, model: BeaconModel, graphs: bool = True) -> None:
        may = graphs and supports_static_decoding(model) and FirstKeys.supports(model.config, model.device, model.dtype)
        self._need = (TOGETHER + 1) * model.config.beacon_window * _row_bytes(model)
        super().__init__(model, may, self._need)
        self._buffers: Buffers | None = None
        self._tenant: weakref.ref[BeaconCache] | None = None

    def forget(self) -> None:
        """Give the memory of all graphs back. A session that is in the buffers keeps them for itself."""
        self._replays = Replays(self._need)
        self._buffers = self._tenant = None

    def __call__(self, ids: torch.Tensor, cache: BeaconCache, keep: int | None = None) -> torch.Tensor:
        """`BeaconMixin.read` of one text: final hidden states (1, keep, hidden) of ids (1, n)."""
        left = ids.shape[1]
        if not self.replaying:
            return self._model.read(ids, cache, keep)
        keep = left if keep is None else keep
        runs = list(grouped(cache.fill, left, keep))
        entries = max(
            f.memory + f.layout.slots(f.tokens + whole_step(f, count)) for f, count in cache.fill.pieces(left)
        )
        self._admit(cache, ids, entries)
        numbers = torch.tensor([[f.memory, f.tokens, f.target] for f, *_ in runs], device=ids.device)  # waits once
        hidden = []
        for (fill, count, windows), number in zip(runs, numbers, strict=True):
            tokens = whole_step(fill, count) if windows == 1 else count
            piece = F.pad(ids[:, -left:][:, :count], (0, tokens - count))
            left -= count
            wanted = min(max(keep - left, 0), count)
            key = fill.layout.ratio, tokens, windows, wanted > 0
            states = self._replays(key, partial(self._run, fill.layout, windows, wanted > 0), piece, number)
            hidden.append(states[:, count - wanted : count].clone())
            for window in range(windows):
                cache.advance(count // windows, condensed=window + 1 < windows)
        return torch.cat(hidden, dim=1)

    def _admit(self, cache: BeaconCache, ids: torch.Tensor, entries: int) -> None:
        """Let a cache be in the buffers that graphs write to, which have room for `entries`."""
        layout, tenant = cache.layout, self._tenant() if self._tenant else None
        staged = layout.beacons + step(layout) // layout.ratio  # padding may reach beyond the window
        if self._buffers is None or self._buffers.capacity < entries or self._buffers.staged.shape[1] < staged:
            entries += cache.SLACK
            if self._buffers is not None:
                entries, staged = max(entries, self._buffers.capacity), max(staged, self._buffers.staged.shape[1])
            self.forget()
            like, layers = self._model.key_like(ids), self._model.config.num_hidden_layers
            self._buffers = Buffers.zeros(like, layers, padded(entries, STEP), staged)
        elif tenant is not None and tenant is not cache and tenant.buffers is self._buffers:
            tenant.leave()
        if cache.buffers is not self._buffers:
            cache.move(self._buffers)
        self._tenant = weakref.ref(cache)

    def _run(self, layout: Layout, windows: int, whole: bool, ids: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """What a graph replays: tokens ids (1, n) of a window, or all those of some windows, final hidden states
        (1, n, hidden) if `whole`.

        number: (3,), entries before the window, tokens that it has already, and where its first beacon moves to.
        Padding stands after the text, where none of it is seen. What it leaves in the buffers is beyond what a cache
        counts, and the next piece writes over it.
        """
        assert self._buffers is not None
        memory, first, target = number.unbind()
        tokens, ratio = ids.shape[1], layout.ratio
        beacons, device = tokens // ratio, ids.device
        start = first + first // ratio  # slots that are taken
        token = first + torch.arange(tokens, device=device)
        beacon = first // ratio + torch.arange(beacons, device=device)
        slot = torch.cat([token + token // ratio, (beacon + 1) * (ratio + 1) - 1]) - start
        rows = torch.arange(tokens + beacons, device=device)
        row, count = torch.empty_like(rows).scatter_(0, slot, rows), len(rows) // windows
        before = [memory + start, *(target + window * layout.beacons for window in range(1, windows))]
        at = torch.cat([entries + rows[:count] for entries in before])
        seen = [FirstKeys(count, entries + count, self._buffers.capacity) for entries in before]
        places = BufferPlaces(self._buffers, row, at, target + beacon, beacon[: beacons // windows], seen)
        states = self._model.read_rows(ids, beacons, torch.cat([at, target + beacon]), places, whole)
        return states[:, : tokens if whole else 0]


class BufferPlaces:
    """Entries whose numbers are on the device, of windows that follow each other; see `Places`.

    row: see `Order`, of the windows one after another. at: entries of the rows in this order. moved_at, staged_at:
    where the beacons move to, and where those of the last window wait for it. seen: attention of each window.

    In each layer a window attends when the beacons of the windows before it stand in memory: they move at once.
    """

    def __init__(
        self,
        buffers: Buffers,
        row: torch.Tensor,
        at: torch.Tensor,
        moved_at: torch.Tensor,
        staged_at: torch.Tensor,
        seen: Sequence[FirstKeys],
    ) -> None:
        self._buffers, self._row, self._at = buffers, row, at
        self._moved_at, self._staged_at, self._seen = moved_at, staged_at, seen

    def attend(self, index: int, attention: Attention, made: Heads, rotation: Rotation) -> torch.Tensor | None:
        keys, values, staged = self._buffers.places(index, slice(None), slice(None))
        assert made.beacon_key is not None
        assert made.beacon_value is not None
        out = None if made.query is None else made.query.new_empty(len(self._row), *made.query.shape[1:])
        count, beacons = len(self._row) // len(self._seen), len(self._staged_at)
        for window, seen in enumerate(self._seen):
            rows = slice(window * count, (window + 1) * count)
            query = by_slot(made, self._row[rows], part(rotation, rows), keys, values, self._at[rows])
            if query is not None:
                place_rows(seen.attend(query, keys, values, attention.scaling), into=out, at=self._row[rows])
            own = slice(window * beacons, (window + 1) * beacons)
            moved = part(part(rotation, slice(len(self._row), None)), own)
            if seen is self._seen[-1]:
                place_rows(made.beacon_key[own], rotation=moved, into=staged, at=self._staged_at)
            else:
                place_rows(made.beacon_key[own], rotation=moved, into=keys, at=self._moved_at[own])
                place_rows(made.beacon_value[own], into=values, at=self._moved_at[own])
        return None if out is None else out[None]


def grouped(fill: Fill, tokens: int, keep: int) -> Iterator[tuple[Fill, int, int]]:
    """The runs in which `tokens` more are read: the state before each, its tokens, and how many windows these are.
    Whole windows of which no states are kept go together, TOGETHER at a time."""
    waiting: list[tuple[Fill, int, int]] = []
    left = tokens
    for before, count in fill.pieces(tokens):
        left -= count
        if before.tokens == 0 and count == before.room and left >= keep:
            waiting.append((before, count, 1))
            if len(waiting) == TOGETHER:
                yield waiting[0][0], count * TOGETHER, TOGETHER
                waiting = []
        else:
            yield from waiting
            waiting = []
            yield before, count, 1
    yield from waiting


def step(layout: Layout) -> int:
    """Tokens that pieces of a window come in multiples of: multiples of the ratio, so that a piece has as many beacons
    wherever it begins."""
    return padded(PAD, layout.ratio)


def whole_step(fill: Fill, count: int) -> int:
    """Tokens that a piece of `count` tokens is read as: no more than a window, if it begins one."""
    tokens = padded(count, step(fill.layout))
    return tokens if fill.tokens else min(tokens, fill.layout.window)


def _row_bytes(model: BeaconModel) -> int:
    """Bytes that a row takes at most in a layer."""
    return int(3 * model.config.intermediate_size + 16 * model.config.hidden_size) * model.dtype.itemsize
