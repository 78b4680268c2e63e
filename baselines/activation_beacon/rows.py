"""The rows of one forward pass: tokens first, then beacons, and where both stand among each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from baselines.activation_beacon.cache import Fill, Layout
from sharedllm.nn.fused import rotated


class Order(NamedTuple):
    """How rows stand in the order of their slots. row: at each slot, (count, 1). slot: of each row, from the first,
    (count,)."""

    row: torch.Tensor
    slot: torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Tokens and beacons of one forward pass: both kinds use their projections on a slice. They attend in the order of
    their slots (cache entries, which are positions too), where beacons stand between tokens.

    tokens: rows that are tokens. order: None without beacons. cos, sin: of the slots, then of the places that the
    beacons move to, (rows, 1, head_dim). at, staged_at: see `by_slot`.
    """

    tokens: int
    order: Order | None
    cos: torch.Tensor
    sin: torch.Tensor
    at: torch.Tensor | None = None
    staged_at: torch.Tensor | None = None


def order(layout: Layout, first: int, last: int, device: torch.device) -> Order | None:
    """Of the tokens numbered first..last-1 of a window, and the beacons among them; None without beacons."""
    ratio = layout.ratio
    if first // ratio == last // ratio:
        return None
    token = torch.arange(first, last, device=device)
    beacon = torch.arange(first // ratio + 1, last // ratio + 1, device=device)
    slot = torch.cat([token + token // ratio, beacon * (ratio + 1) - 1]) - layout.slots(first)
    return Order(slot.argsort()[:, None], slot)


def positions(fill: Fill, tokens: int, device: torch.device) -> torch.Tensor:
    """Of the slots of `tokens` more, and of the places that the beacons among them move to."""
    end, after = fill.memory + fill.layout.slots(fill.tokens + tokens), fill.tokens + tokens
    slots = torch.arange(fill.used, end, device=device)
    if fill.staged == after // fill.layout.ratio:
        return slots
    moved = torch.arange(fill.target + fill.staged, fill.target + after // fill.layout.ratio, device=device)
    return torch.cat([slots, moved])


def by_slot(
    query: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    beacon_query: torch.Tensor | None,
    beacon_key: torch.Tensor | None,
    beacon_value: torch.Tensor | None,
    row: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    staged: torch.Tensor,
    at: torch.Tensor | None = None,
    staged_at: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Rotated queries in the order of their slots. Rotated keys and values go to `keys` and `values` in that order, and
    the beacons' keys, rotated to the places that they move to, to `staged`.

    All (rows, heads, head_dim), first of tokens, then of beacons, which may be missing. row: see `Order`; cos, sin: see
    `Rows`. at, staged_at: (rows, 1) and (beacons, 1), where in `keys` and `values`, and in `staged`, they go; None:
    they fill them. Compiled, this is at most one kernel for each tensor that is made.
    """
    count = keys.shape[0] if at is None else at.shape[0]

    def ordered(own: torch.Tensor, beacon: torch.Tensor | None) -> torch.Tensor:
        return own if beacon is None or row is None else torch.cat([own, beacon])[row[:, 0]]

    def put(place: torch.Tensor, rows: torch.Tensor, at: torch.Tensor | None) -> None:
        if at is None:
            place.copy_(rows)
        else:
            place.index_copy_(0, at[:, 0], rows)

    put(keys, rotated(ordered(key, beacon_key), cos[:count], sin[:count]), at)
    put(values, ordered(value, beacon_value), at)
    if beacon_key is not None:
        put(staged, rotated(beacon_key, cos[count:], sin[count:]), staged_at)
    return None if query is None else rotated(ordered(query, beacon_query), cos[:count], sin[:count])
