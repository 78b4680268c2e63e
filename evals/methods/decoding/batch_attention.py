"""Attention of several requests with fixed shapes: contexts where they lie, and places for what follows them.

B requests (rows). Keys and values of a context are neither copied nor padded: rows that share one are multiplied with
it together, so that a step reads a context once, however many questions it takes on. Query and answer of a row have
places, filled from the first one on. The two parts are joined by their log-sum-exps, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evals.methods.decoding.static_attention import attend_all, attend_places, joined
from sharedllm.nn.layers import KeysValues

Shared = tuple[slice, KeysValues | None]
"""Rows, and keys and values (1, kv heads, tokens, head_dim) of the context that they share, if they have one."""


class BatchTail:
    """What one layer attends to. contexts: cover all rows in order. keys, values: places, (B, kv heads, places, d)."""

    def __init__(self, contexts: Sequence[Shared], keys: torch.Tensor, values: torch.Tensor) -> None:
        self._contexts, self.keys, self.values = contexts, keys, values

    def read(
        self, first: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """The beginnings of n rows from row `first` on: queries (n, heads, q, d), keys and values (n, kv heads, q, d),
        which are stored, -> (n, heads, q, d)."""
        part = slice(first, first + len(query)), slice(None), slice(query.shape[2])
        self.keys[part], self.values[part] = keys, values
        repeats = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
        own = attend_all(query, keys, values, scale, causal=True)
        context = (x.reshape(query.shape[: x.ndim]) for x in self._attend_contexts(first, query, scale))
        return joined(*own, *context)[0]

    def step(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        place: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """One token of every row: (B, heads, 1, d), keys and values (B, kv heads, 1, d), which are stored. place, bias:
        see `place_of`, `bias_of`."""
        for places, new in ((self.keys, keys), (self.values, values)):
            places.view(-1, places.shape[3]).index_copy_(0, place, new.reshape(-1, places.shape[3]))
        grouped = torch.unflatten(query, 1, (keys.shape[1], -1)).flatten(0, 1)  # (B * kv heads, groups, 1, d)
        out, log_sum = (x.reshape(grouped.shape[: x.ndim]) for x in self._attend_contexts(0, query, scale))
        keys, values = (x.flatten(0, 1).transpose(0, 1) for x in (self.keys, self.values))
        return attend_places(keys, values, grouped, bias, out, log_sum, scale).view(query.shape)

    def place_of(self, token: torch.Tensor) -> torch.Tensor:
        """Where the token of each row goes, whose number in the row is (B,): an index per row and key head."""
        rows, heads, places, _ = self.keys.shape
        first = torch.arange(rows * heads, device=token.device) * places
        return first + token.repeat_interleave(heads)

    def bias_of(self, token: torch.Tensor) -> torch.Tensor:
        """What is added to the scores of a token of each row, whose number is (B,): -inf at places after it. (B * kv
        heads, 1, 1, places), float32."""
        heads, places = self.keys.shape[1:3]
        later = torch.arange(places, device=token.device) > token[:, None]
        bias = torch.zeros(later.shape, device=token.device).masked_fill(later, -torch.inf)
        return bias.repeat_interleave(heads, 0)[:, None, None]

    def _attend_contexts(self, first: int, query: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention (n, kv heads, groups * q, d) of rows from `first` on to their contexts, and its log-sum-exp."""
        grouped = torch.unflatten(query, 1, (self.keys.shape[1], -1)).flatten(2, 3)
        parts = ((grouped[max(0, rows.start - first) : max(0, rows.stop - first)], kv) for rows, kv in self._contexts)
        made = [attend_shared(part, kv, scale) for part, kv in parts if len(part)]
        return torch.cat([out for out, _ in made]), torch.cat([log_sum for _, log_sum in made])


def attend_shared(query: torch.Tensor, context: KeysValues | None, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (n, kv heads, q, d) of n rows to one context (1, kv heads, tokens, d) or to nothing, and its
    log-sum-exp (n, kv heads, q)."""
    if context is None:
        return torch.zeros_like(query), query.new_full(query.shape[:-1], -torch.inf, dtype=torch.float32)
    out, log_sum = attend_all(query.transpose(0, 1).flatten(1, 2)[None], *context, scale)
    rows = len(query), -1
    return torch.unflatten(out[0], 1, rows).transpose(0, 1), torch.unflatten(log_sum[0], 1, rows).transpose(0, 1)
