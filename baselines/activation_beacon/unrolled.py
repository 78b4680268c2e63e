"""Reading with gradients: the loss of a window reaches earlier ones through the beacons that they left behind.

`modeling` reads for inference, into buffers; here every window makes new tensors. Tests compare the two. Shapes: B
rows, n tokens and m beacons of a window, H hidden, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.utils.checkpoint import checkpoint

from baselines.activation_beacon.modeling import BeaconModel, projection
from sharedllm.nn.attention import attend_last, merged
from sharedllm.nn.fused import rotated
from sharedllm.nn.layers import Attention, DecoderLayer, Rotation

Entries = tuple[torch.Tensor, ...]
"""Keys or values of the beacons of earlier windows, (B, kv heads, m, d) each."""


@dataclass(frozen=True)
class Interleaving:
    """Where tokens and beacons of a window stand: a beacon after every `ratio` tokens, none at ratio 0."""

    tokens: int
    ratio: int

    @property
    def beacons(self) -> int:
        """Beacons of the window."""
        return self.tokens // self.ratio if self.ratio else 0

    def mix(self, tokens: torch.Tensor, beacons: torch.Tensor) -> torch.Tensor:
        """(B, n, ...) and (B, m, ...) -> (B, n + m, ...) in the order of their slots."""
        if not self.beacons:
            return tokens
        followed = self.beacons * self.ratio
        groups = torch.unflatten(tokens[:, :followed], 1, (self.beacons, self.ratio))
        return torch.cat([torch.cat([groups, beacons[:, :, None]], 2).flatten(1, 2), tokens[:, followed:]], 1)

    def sort(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n + m, ...) in the order of slots -> tokens first, then beacons."""
        if not self.beacons:
            return x
        followed = self.beacons * (self.ratio + 1)
        groups = torch.unflatten(x[:, :followed], 1, (self.beacons, self.ratio + 1))
        return torch.cat([groups[:, :, :-1].flatten(1, 2), x[:, followed:], groups[:, :, -1]], 1)


def read(model: BeaconModel, ids: torch.Tensor, ratios: Sequence[int], recompute: bool) -> torch.Tensor:
    """Final states (B, T, H) of all tokens of texts (B, T), which are read in windows of `beacon_window`.

    ratios: of each window; 0 for one without beacons, which leaves nothing behind. recompute: layers run again in the
    backward pass, so that only their inputs are kept.
    """
    decoder = model.decoder
    keys: list[Entries] = [() for _ in decoder.layers]
    values: list[Entries] = [() for _ in decoder.layers]
    memory, hidden = 0, []
    for piece, ratio in zip(torch.split(ids, model.config.beacon_window, 1), ratios, strict=True):
        window = Interleaving(piece.shape[1], ratio)
        beacons = decoder.beacon_embed_tokens.weight.expand(len(ids), window.beacons, -1)
        x = torch.cat([decoder.embed_tokens(piece), beacons], 1)
        here, moved = _rotations(model, x, memory, window.beacons)
        for index, layer in enumerate(decoder.layers):
            given = (layer, x, window, here, moved, keys[index], values[index])
            made = (
                checkpoint(_layer, *given, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else _layer(*given)
            )
            x, key, value = cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor], made)
            if window.beacons:  # new tuples: what a recomputation was given must not grow
                keys[index], values[index] = (*keys[index], key), (*values[index], value)
        hidden.append(decoder.norm(x[:, : window.tokens]))
        memory += window.beacons
    return torch.cat(hidden, 1)


def _rotations(model: BeaconModel, x: torch.Tensor, memory: int, beacons: int) -> tuple[Rotation, Rotation]:
    """Of the slots of a window x (B, n + m, H) after `memory` entries, and of the places its beacons move to; each
    (1, 1, rows, d)."""
    slots = torch.arange(memory, memory + x.shape[1], device=x.device)
    cos, sin = model.decoder.rotary_emb(x, torch.cat([slots, slots[:beacons]])[None])
    count = x.shape[1]
    return (cos[:, None, :count], sin[:, None, :count]), (cos[:, None, count:], sin[:, None, count:])


def _layer(
    layer: DecoderLayer,
    x: torch.Tensor,
    window: Interleaving,
    here: Rotation,
    moved: Rotation,
    keys: Entries,
    values: Entries,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (B, n + m, H), tokens first, through one layer; keys and values that its beacons leave behind."""
    attention = layer.self_attn
    normed = layer.input_layernorm(x)
    query, own_query = _heads(attention, "q", normed, window)
    key, own_key = _heads(attention, "k", normed, window)
    value, own_value = _heads(attention, "v", normed, window)
    mixed = (window.mix(*pair).transpose(1, 2) for pair in ((query, own_query), (key, own_key), (value, own_value)))
    query, key, value = mixed
    all_keys, all_values = torch.cat([*keys, rotated(key, *here)], 2), torch.cat([*values, value], 2)
    out = merged(attend_last(rotated(query, *here), all_keys, all_values, attention.scaling))
    x = x + attention.o_proj(window.sort(out))
    x = x + layer.mlp(layer.post_attention_layernorm(x))
    return x, rotated(own_key.transpose(1, 2), *moved), own_value.transpose(1, 2)


def _heads(
    attention: Attention, name: str, normed: torch.Tensor, window: Interleaving
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries, keys or values of tokens (B, n, heads, d), and of beacons (B, m, heads, d) by their own projection."""
    parts = projection(attention, "", name)(normed[:, : window.tokens]), normed[:, window.tokens :]
    token = torch.unflatten(parts[0], -1, (-1, attention.head_dim))
    if not window.beacons:
        return token, token[:, :0]
    return token, torch.unflatten(projection(attention, "beacon_", name)(parts[1]), -1, (-1, attention.head_dim))
