"""Rotary embeddings by layer: most families have one table for all, Gemma 3 two, SmolLM3 layers without positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sharedllm.nn.base_config import FAR
from sharedllm.nn.fused import rotate
from sharedllm.nn.layers import Attention, Decoder, Rotation
from sharedllm.nn.recipes import recipe_of


@dataclass(frozen=True)
class Rotations:
    """Cosines and sines of the same positions for all layers of a decoder, each (B or 1, 1, S, rotated dimensions)."""

    tables: Mapping[str, Rotation]

    def of(self, attention: Attention) -> Rotation | None:
        """Those of a layer; None where it has no positions."""
        if recipe_of(attention).some_unrotated and not getattr(attention, "use_rope", True):
            return None
        return self.tables[_kind(attention)]

    @property
    def far(self) -> Rotation:
        """Those of the layers that see everything."""
        return self.tables[FAR]


def rotations(decoder: Decoder, x: torch.Tensor, positions: torch.Tensor) -> Rotations:
    """The rotations of positions (B or 1, S), in the dtype of x where the family does not compute in float32."""
    rotary = decoder.rotary_emb
    if not recipe_of(decoder.layers[0].self_attn).tables:
        cos, sin = rotary(x, positions)
        return Rotations({FAR: (cos[:, None], sin[:, None])})
    kinds = dict.fromkeys([FAR, *(_kind(layer.self_attn) for layer in decoder.layers)])
    made = {kind: rotary(x, positions, kind) for kind in kinds}
    return Rotations({kind: (cos[:, None], sin[:, None]) for kind, (cos, sin) in made.items()})


def frequencies(decoder: Decoder) -> torch.Tensor:
    """Angles per position, (layers, rotated dimensions / 2) in float32; zeros for layers without positions."""
    rows = []
    for layer in decoder.layers:
        recipe = recipe_of(layer.self_attn)
        name = f"{_kind(layer.self_attn)}_inv_freq" if recipe.tables else "inv_freq"
        row: torch.Tensor = getattr(decoder.rotary_emb, name).float()
        still = recipe.some_unrotated and not getattr(layer.self_attn, "use_rope", True)
        rows.append(torch.zeros_like(row) if still else row)
    return torch.stack(rows)


def apply_rotation(x: torch.Tensor, rotation: Rotation | None, into: torch.Tensor | None = None) -> torch.Tensor:
    """x (B, heads, S, d), rotated; as it is where there is no rotation. into: see `rotate`."""
    if rotation is not None:
        return rotate(x, *rotation, into)
    return x if into is None else into.copy_(x)


def _kind(attention: Attention) -> str:
    return str(getattr(attention, "layer_type", FAR)) if recipe_of(attention).tables else FAR
