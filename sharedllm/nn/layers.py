"""What this project needs of a stock decoder, as types: the parts of a Llama-like layer, under transformers' names.

Shapes: B batch, S tokens, H hidden, d head size. transformers builds these from untyped modules, so `decoder_of` and
`output_head` are where the types begin. Members are read-only, so that a module with more precise types conforms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from sharedllm.nn.base_config import text_config
from sharedllm.nn.recipes import recipe_of

Projection = Callable[[torch.Tensor], torch.Tensor]
"""(..., in) -> (..., out)."""
Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of positions, (B or 1, S, d) each; with one more axis where they must broadcast to heads."""
KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, (B, key/value heads, S, d) each."""


class Norm(Protocol):
    """RMS norm of (..., H)."""

    @property
    def weight(self) -> torch.Tensor: ...
    @property
    def variance_epsilon(self) -> float: ...

    def __call__(self, hidden_states: torch.Tensor, /) -> torch.Tensor: ...


class GatedMLP(Protocol):
    """down(act(gate(x)) * up(x))."""

    @property
    def gate_proj(self) -> Projection: ...
    @property
    def up_proj(self) -> Projection: ...
    @property
    def down_proj(self) -> Projection: ...
    @property
    def act_fn(self) -> Projection: ...

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor: ...


class Attention(Protocol):
    """Self-attention with separate projections (fused ones: `Recipe.fused`). Some families have norms `q_norm` and
    `k_norm` as well."""

    @property
    def q_proj(self) -> Projection: ...
    @property
    def k_proj(self) -> Projection: ...
    @property
    def v_proj(self) -> Projection: ...
    @property
    def o_proj(self) -> Projection: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def scaling(self) -> float: ...
    @property
    def layer_idx(self) -> int: ...
    @property
    def attention_dropout(self) -> float: ...
    @property
    def training(self) -> bool: ...
    @property
    def config(self) -> PreTrainedConfig: ...


class DecoderLayer(Protocol):
    """Two residual branches with norms as its `Recipe` says; these are Llama's."""

    @property
    def self_attn(self) -> Attention: ...
    @property
    def mlp(self) -> GatedMLP: ...
    @property
    def input_layernorm(self) -> Norm: ...
    @property
    def post_attention_layernorm(self) -> Norm: ...


class Embedding(Protocol):
    """Ids (B, S) -> (B, S, H)."""

    @property
    def weight(self) -> torch.Tensor: ...

    def __call__(self, ids: torch.Tensor, /) -> torch.Tensor: ...


class Head(Protocol):
    """(rows, H) -> logits (rows, vocabulary)."""

    @property
    def weight(self) -> torch.Tensor: ...

    def __call__(self, hidden: torch.Tensor, /) -> torch.Tensor: ...


class Decoder(Protocol):
    """A stack of layers with its embedding, final norm and rotary embedding."""

    @property
    def embed_tokens(self) -> Embedding: ...
    @property
    def layers(self) -> Sequence[DecoderLayer]: ...
    @property
    def norm(self) -> Norm: ...

    def rotary_emb(self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str = ..., /) -> Rotation:
        """Rotation of positions (B, S), in the dtype of x. layer_type: for families with several tables alone."""


def stock_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The text decoder of a causal LM: without its output head, and without what a multimodal model wraps around it."""
    base = model.base_model
    if base is model:  # Llama4ForCausalLM names its decoder otherwise than its prefix says; a bare decoder is its own
        base = getattr(model, "model", model)
    return cast(PreTrainedModel, getattr(base, "language_model", base))


def decoder_of(model: PreTrainedModel) -> Decoder:
    """`stock_decoder` of a Llama-like model, by its parts. The caller has checked the family."""
    return cast(Decoder, stock_decoder(model))


def layer_device(layer: DecoderLayer) -> torch.device:
    """Where a layer computes. accelerate may keep its weights elsewhere and bring them there call by call."""
    module = cast(nn.Module, layer)
    for part in module.modules():
        if (device := getattr(getattr(part, "_hf_hook", None), "execution_device", None)) is not None:
            return torch.device(device)
    return next(module.parameters()).device


def embed(decoder: Decoder, ids: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, S, H) of ids (B, S), as the first layer reads them."""
    return scaled_embeddings(decoder, decoder.embed_tokens(ids))


def scaled_embeddings(decoder: Decoder, hidden: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, S, H) multiplied as the family does it outside its embedding (Granite)."""
    if not recipe_of(decoder.layers[0].self_attn).scaled:
        return hidden
    return hidden * cast(float, getattr(decoder, "embedding_multiplier"))  # noqa: B009 - not a declared member


class ScaledHead:
    """An output head whose logits are divided by a constant (Granite)."""

    def __init__(self, head: Head, divisor: float) -> None:
        self._head, self._divisor = head, divisor

    @property
    def weight(self) -> torch.Tensor:
        """The matrix (vocabulary, H) that gives these logits, a new tensor."""
        return self._head.weight / self._divisor

    def __call__(self, hidden: torch.Tensor, /) -> torch.Tensor:
        """(rows, H) -> logits (rows, vocabulary)."""
        return self._head(hidden) / self._divisor


def output_head(model: PreTrainedModel) -> Head:
    """The output head of a causal LM: from final hidden states to its logits."""
    head = cast(Head, model.get_output_embeddings())  # type: ignore[no-untyped-call]  # untyped in transformers
    divisor: float | None = getattr(text_config(model.config), "logits_scaling", None)
    return head if divisor in (None, 1) else ScaledHead(head, divisor)
