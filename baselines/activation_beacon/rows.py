"""The rows of one forward pass: tokens first, then beacons, and where both stand among each other.

They attend in the order of their slots (cache entries, which are positions too), where beacons stand between tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from baselines.activation_beacon.cache import Fill, Layout
from sharedllm.nn.fused import place_rows
from sharedllm.nn.layers import Rotation


class Order(NamedTuple):
    """How rows stand in the order of their slots. row: at each slot, (count,). slot: of each row, from the first,
    (count,)."""

    row: torch.Tensor
    slot: torch.Tensor


class Heads(NamedTuple):
    """What a layer makes of tokens and of the beacons among them, each kind by its own projections: queries, keys and
    values before rotation, (rows, batch * heads, head_dim) each. None: there are none, or they are not wanted."""

    query: torch.Tensor | None
    key: torch.Tensor
    value: torch.Tensor
    beacon_query: torch.Tensor | None = None
    beacon_key: torch.Tensor | None = None
    beacon_value: torch.Tensor | None = None


def order(layout: Layout, first: int, last: int, device: torch.device) -> Order | None:
    """Of the tokens numbered first..last-1 of a window, and the beacons among them; None without beacons."""
    ratio = layout.ratio
    if first // ratio == last // ratio:
        return None
    token = torch.arange(first, last, device=device)
    beacon = torch.arange(first // ratio + 1, last // ratio + 1, device=device)
    slot = torch.cat([token + token // ratio, beacon * (ratio + 1) - 1]) - layout.slots(first)
    return Order(slot.argsort(), slot)


def positions(fill: Fill, tokens: int, device: torch.device) -> torch.Tensor:
    """Of the slots of `tokens` more, and of the places that the beacons among them move to."""
    end, after = fill.memory + fill.layout.slots(fill.tokens + tokens), fill.tokens + tokens
    slots = torch.arange(fill.used, end, device=device)
    if fill.staged == after // fill.layout.ratio:
        return slots
    moved = torch.arange(fill.target + fill.staged, fill.target + after // fill.layout.ratio, device=device)
    return torch.cat([slots, moved])


def part(rotation: Rotation, rows: slice) -> Rotation:
    """The rotation of some of the positions; all (1, positions, head_dim)."""
    return rotation[0][:, rows], rotation[1][:, rows]


def by_slot(
    made: Heads,
    row: torch.Tensor | None,
    rotation: Rotation,
    keys: torch.Tensor,
    values: torch.Tensor,
    at: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Rotated queries (count, batch * heads, head_dim) in the order of their slots. Rotated keys and values go to
    `keys` and `values` in that order: at places `at` (count,), or they fill them.

    row: see `Order`; None without beacons. rotation: of the slots. On a GPU this is one kernel for each tensor.
    """
    place_rows(made.key, made.beacon_key, row, rotation, keys, at)
    place_rows(made.value, made.beacon_value, row, into=values, at=at)
    return None if made.query is None else place_rows(made.query, made.beacon_query, row, rotation)
