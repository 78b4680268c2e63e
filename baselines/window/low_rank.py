"""Low-rank updates of linear maps (Hu et al., 2022, "LoRA", arXiv:2106.09685): W x + (scale) up(down(x))."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from sharedllm.errors import UserError
from sharedllm.nn.base_config import text_config
from sharedllm.nn.layers import decoder_of

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
"""Of a self-attention; the last one of families that fuse the first three."""


class LowRank(nn.Module):
    """A frozen linear map with an update of rank r, which starts as nothing."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base, self.scale = base, scale
        self.down = nn.Linear(base.in_features, rank, bias=False, **like)  # starts as nn.Linear does
        self.up = nn.Linear(rank, base.out_features, bias=False, **like)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        update: torch.Tensor = self.up(self.down(x))
        return cast(torch.Tensor, self.base(x)) + self.scale * update

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear map with the update in its weights; the sum is taken in float32."""
        update = self.scale * (self.up.weight.float() @ self.down.weight.float())
        self.base.weight.copy_(self.base.weight.float() + update)
        return self.base


def add_updates(model: PreTrainedModel, rank: int, scale: float) -> None:
    """Give every projection of every self-attention an update. Raises UserError for a base without such projections."""
    for attention, name, linear in list(_projections(model, nn.Linear)):
        setattr(attention, name, LowRank(cast(nn.Linear, linear), rank, scale))
    if not any(True for _ in _projections(model, LowRank)):
        kind = text_config(model.config).model_type
        raise UserError(f"A base of type '{kind}' has no {', '.join(PROJECTIONS[:4])} to train: choose another base.")


def merge_updates(model: PreTrainedModel) -> None:
    """Put all updates into the base's weights."""
    for attention, name, update in list(_projections(model, LowRank)):
        setattr(attention, name, cast(LowRank, update).merged())


def is_update(name: str) -> bool:
    """Whether a parameter of this name belongs to an update."""
    return name.endswith((".down.weight", ".up.weight"))


def _projections(model: PreTrainedModel, kind: type[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Self-attention, name and module of the projections of a kind."""
    for layer in getattr(decoder_of(model), "layers", ()):
        attention: nn.Module | None = getattr(layer, "self_attn", None)
        for name in PROJECTIONS:
            module = getattr(attention, name, None)
            if attention is not None and isinstance(module, kind):
                yield attention, name, module
