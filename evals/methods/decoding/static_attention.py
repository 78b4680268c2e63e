"""Attention with fixed shapes, for steps and reads that are replayed: how many keys there are is no host value.

New tokens of a run have a mask-free core in the state, and places for what is new (`Reach`, `Tail`).

What a layer held before a run does not change while it lasts, and no more tokens come than the run has places.
So attention has two parts: over all keys that stay visible throughout (the core), read in place by a kernel without a
mask, however many they are; and over the places of the new tokens, masked by positions on the device. The two are
joined by their log-sum-exps, which is exact.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from sharedllm.nn import row
from sharedllm.nn.attention import attend
from sharedllm.nn.base_config import head_dim, key_value_heads, text_config, windows
from sharedllm.nn.fused import attend_more
from sharedllm.nn.layers import KeysValues, Rotation
from sharedllm.nn.rotation import apply_rotation

PLACES = 64
"""Places of new tokens are rounded up to a multiple of this."""


class Reach:
    """Which keys the tokens of a run see; layers with the same window share it.

    held: tokens before the run. tokens: the most that the run takes; their places are rounded up, so that runs have few
    shapes. window: tokens that one token sees, itself included; None for all. pinned: keys in front that every token
    sees although they are older. The places of a layer are [pinned | leaving | new]: `leaving` keys are seen by the
    first token of the run but not by the last. What lies between leaving and new is the core.
    """

    def __init__(self, held: int, tokens: int, window: int | None, device: torch.device, pinned: int = 0) -> None:
        first = 0 if window is None else max(0, held + 1 - window)
        core = first if window is None else min(max(0, held + tokens - window), held)
        self.leaving, self.core = slice(first, core), slice(core, held)
        self.held, self.window, self.pinned, self.tokens = held, window, pinned, tokens
        self.offset = pinned + core - first
        """Place of the first new token."""
        self.places = -(-tokens // PLACES) * PLACES
        at = [*range(first, core), *range(held, held + self.places)]
        self._position = torch.tensor([held] * pinned + at, device=device)
        self._pinned = torch.arange(len(self._position), device=device) < pinned

    def bias(self, number: torch.Tensor) -> torch.Tensor:
        """What is added to the scores of new tokens, whose numbers in the run are (q,): (q, places) float32."""
        position = self.held + number[:, None]
        seen = self._position <= position
        if self.window is not None:
            seen &= (self._position > position - self.window) | self._pinned
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)


class Tail:
    """What one layer attends to in a run: keys and values of its core, as they lie in the state, and the places.

    keys, values: the places, (1, kv heads, places, head_dim). raw: places like those of the keys, for keys without
    rotation, where they are wanted.
    """

    def __init__(
        self,
        reach: Reach,
        held: KeysValues,
        pinned: KeysValues | None = None,
        raw: bool = False,
    ) -> None:
        """held: keys and values (1, kv heads, reach.held, head_dim); pinned: those of reach.pinned more. raw: whether
        keys are wanted without rotation too."""
        self._offset = reach.offset
        self.core = held[0][:, :, reach.core], held[1][:, :, reach.core]
        self.keys, self.values = (
            torch.cat([*([] if pinned is None else [pinned[i]]), x[:, :, reach.leaving], _zeros(x, reach.places)], 2)
            for i, x in enumerate(held)
        )
        self.raw = torch.zeros_like(self.keys) if raw else None

    def write(self, place: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store keys and values (1, kv heads, q, head_dim) of new tokens at places (q,)."""
        store(self.keys, place, keys)
        store(self.values, place, values)

    def take(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        place: torch.Tensor,
        rotation: Rotation | None,
    ) -> torch.Tensor:
        """The query (1, heads, q, head_dim), rotated; keys, rotated, and values of its tokens are stored at places
        (q,)."""
        if rotation is not None and row.rotates(query, rotation):
            return row.rotate_and_store(query, keys, values, rotation, place, self.keys, self.values, self.raw)
        if self.raw is not None:
            store(self.raw, place, keys)
        self.write(place, apply_rotation(keys, rotation), values)
        return apply_rotation(query, rotation)

    def attend(self, query: torch.Tensor, bias: torch.Tensor, scale: float) -> torch.Tensor:
        """(1, heads, q, head_dim) -> the same; bias: `Reach.bias`."""
        grouped = torch.unflatten(query, 1, (self.keys.shape[1], -1))  # heads that share keys are rows of one product
        out, log_sum = self.attend_core(grouped.flatten(2, 3), scale)
        out, log_sum = out.reshape(grouped.shape)[0], log_sum.view(grouped.shape[1:-1])
        keys, values = self.keys[0].transpose(0, 1), self.values[0].transpose(0, 1)
        made = attend_places(keys, values, grouped[0], bias, out, log_sum, scale)
        return made.reshape(1, -1, *made.shape[2:])

    def attend_core(self, query: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of (1, kv heads, q, head_dim) to the core, and its log-sum-exp (1, kv heads, q)."""
        return attend_all(query, *self.core, scale)

    def new(self, count: int) -> KeysValues:
        """Keys and values (1, kv heads, count, head_dim) of the first `count` new tokens."""
        part = slice(self._offset, self._offset + count)
        return self.keys[:, :, part], self.values[:, :, part]


def store(places: torch.Tensor, place: torch.Tensor, new: torch.Tensor) -> None:
    """Put (1, kv heads, q, head_dim) at places (q,) of (1, kv heads, places, head_dim)."""
    places.index_copy_(2, place, new)


class FirstKeys:
    """Causal attention of rows that end where the first `count` keys of a buffer do: one sequence of operations for all
    counts.

    queries: rows. count: (), on the device. capacity: keys in the buffer. A GPU's kernel reads none beyond `count`;
    elsewhere a mask hides them, which takes finite values.
    """

    def __init__(self, queries: int, count: torch.Tensor, capacity: int) -> None:
        self._count, self._capacity = queries, capacity
        device = count.device
        if device.type == "cuda":
            bounds = torch.arange(2, dtype=torch.int32, device=device)
            self._queries, self._keys = bounds * queries, bounds * count.int()
        else:
            last = count - queries + torch.arange(queries, device=device)
            self._mask = torch.arange(capacity, device=device) <= last[:, None]

    @staticmethod
    def supports(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether a device has a kernel for the heads of a base: PyTorch's flash kernel for sequences of different
        lengths, as it is allowed now. The mask of a CPU serves tests."""
        if device.type != "cuda":
            return True
        size, heads, shared = head_dim(config), text_config(config).num_attention_heads, key_value_heads(config)
        query, key = (torch.empty(1, count, 8, size, device=device, dtype=dtype) for count in (heads, shared))
        params = torch.backends.cuda.SDPAParams(query, key, key, None, 0.0, False, heads != shared)
        return size % 8 == 0 and torch.backends.cuda.can_use_flash_attention(params)

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        """(queries, heads, d) on (capacity, kv heads, d) -> (queries, heads, d)."""
        if not query.is_cuda:
            q, k, v = (x[None].transpose(1, 2) for x in (query, keys, values))
            return attend(q, k, v, mask=self._mask, scale=scale).view(query.shape)
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query, keys, values, self._queries, self._keys, self._count, self._capacity, 0.0, True, False, scale=scale
        )[0]
        return out


def attend_places(
    keys: torch.Tensor,
    values: torch.Tensor,
    query: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """`fused.attend_more`, by the kernel of one token where it fits."""
    more = row.attend_more if row.attends(query) else attend_more
    return more(keys, values, query, bias, out, log_sum, scale)


def attend_all(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of (B, heads, q, d) to all of (B, heads, k, d), and its log-sum-exp (B, heads, q) in float32, which
    PyTorch's public function does not return. causal: of as many queries as keys."""
    if query.is_cuda:
        params = torch.backends.cuda.SDPAParams(query, keys, values, None, 0.0, False, False)
        if torch.backends.cuda.can_use_flash_attention(params):
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            out, log_sum, *_ = flash(query, keys, values, 0.0, causal, scale=scale)
            return out, log_sum
    scores = (query @ keys.mT).float() * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1).to(query.dtype) @ values, scores.logsumexp(-1)


def joined(
    out: torch.Tensor, log_sum: torch.Tensor, other: torch.Tensor, other_sum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (..., q, d) to two sets of keys as that to both, and its log-sum-exp (..., q). One set may be empty."""
    both = torch.logaddexp(log_sum, other_sum)
    shares = (log_sum - both).exp()[..., None], (other_sum - both).exp()[..., None]
    return (out * shares[0] + other * shares[1]).to(out.dtype), both


def layer_reaches(config: PreTrainedConfig, held: int, tokens: int, device: torch.device) -> list[Reach]:
    """The reach of every layer of a base, each in its own window."""
    by_layer = windows(config)
    reaches = {window: Reach(held, tokens, window, device) for window in set(by_layer)}
    return [reaches[window] for window in by_layer]


def _zeros(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Places for `tokens` tokens; zeros, since a mask does not hide NaN."""
    return like.new_zeros((*like.shape[:2], tokens, like.shape[3]))
