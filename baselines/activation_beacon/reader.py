"""Activation Beacon's reads: windows that a GPU replays as CUDA graphs.

A window of 1024 tokens has some twenty kernels in each layer, which take a GPU less time than it takes a host to launch
them. All windows of one ratio launch the same ones: what differs is how many beacons stand before the window, and that
is read from the device. So one graph serves every window of every text. The end of a text and a question are padded to
a few lengths.
"""

from __future__ import annotations

import weakref
from functools import partial

import torch
import torch.nn.functional as F

from baselines.activation_beacon.cache import BeaconCache, Buffers, Fill, Layout
from baselines.activation_beacon.modeling import BeaconModel
from baselines.activation_beacon.rows import Order
from evals.methods.decoding.replays import PAD, ReplayingReader, Replays, padded
from evals.methods.decoding.static_attention import FirstKeys
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.layers import Attention

STEP = 1024
"""Entries by which buffers grow: with other buffers all graphs are captured anew."""


class BeaconReader(ReplayingReader[BeaconModel, torch.Tensor]):
    """graphs: whether it may replay reads, where a GPU gains from it.

    Graphs write to buffers at one place. The cache that is read into holds what it read there, and leaves when another
    one is read into: a session alone takes no memory twice.
    """

    def __init__(self, model: BeaconModel, graphs: bool = True) -> None:
        may = graphs and supports_static_decoding(model) and FirstKeys.supports(model.config, model.device, model.dtype)
        self._need = 2 * model.config.beacon_window * _row_bytes(model)
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
        pieces = list(cache.fill.pieces(left))
        entries = max(f.memory + f.layout.slots(f.tokens + whole_step(f, count)) for f, count in pieces)
        self._admit(cache, ids, entries)
        numbers = torch.tensor([[f.memory, f.tokens, f.target] for f, _ in pieces], device=ids.device)  # waits once
        hidden = []
        for (fill, count), number in zip(pieces, numbers, strict=True):
            tokens = whole_step(fill, count)
            piece = F.pad(ids[:, -left:][:, :count], (0, tokens - count))
            left -= count
            wanted = min(max(keep - left, 0), count)
            key = fill.layout.ratio, tokens, wanted > 0
            states = self._replays(key, partial(self._run, fill.layout, wanted > 0), piece, number)
            hidden.append(states[:, count - wanted : count].clone())
            cache.advance(count)
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

    def _run(self, layout: Layout, whole: bool, ids: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """What a graph replays: tokens ids (1, n) of a window, final hidden states (1, n, hidden) if `whole`.

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
        order = Order(torch.empty_like(rows).scatter_(0, slot, rows)[:, None], slot)
        at = memory + start + rows
        seen = FirstKeys(len(rows), memory + start + len(rows), self._buffers.capacity)
        places = BufferPlaces(self._buffers, at[:, None], beacon[:, None], seen)
        states = self._model.read_rows(ids, order, torch.cat([at, target + beacon]), places, whole)
        return states[:, : tokens if whole else 0]


class BufferPlaces:
    """Entries whose numbers are on the device; see `Places`."""

    def __init__(self, buffers: Buffers, at: torch.Tensor, staged_at: torch.Tensor, seen: FirstKeys) -> None:
        self._buffers, self.at, self.staged_at, self._seen = buffers, at, staged_at, seen

    def of(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._buffers.places(index, slice(None), slice(None))

    def attend(self, index: int, attention: Attention, query: torch.Tensor) -> torch.Tensor:
        keys, values, _ = self.of(index)
        return self._seen.attend(query, keys, values, attention.scaling)[None]


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
