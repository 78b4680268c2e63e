"""CEPE: a bidirectional encoder reads the context in parallel chunks, a decoder attends to it by cross-attention.

"Long-Context Language Modeling with Parallel Context Encoding" (Yen, Gao, Chen; ACL 2024, arXiv 2402.16617).
In every decoder layer (or the top `num_cross_attn_layers`), between self-attention and MLP,

    h <- h + O softmax(Q norm(h) (K E)^T / sqrt(d)) V E

where E are the encoder's final states of all chunks, side by side. There is no gate and no position in the cross
attention, so the order of the chunks does not matter; encoder positions restart at 0 in every chunk, decoder
positions count the decoder's own tokens only. Module names are those of the released checkpoints
(`hyen/CEPE-LLaMA-2-7B`, `hyen/CEPED-LLaMA-2-Chat-7B`), which `from_pretrained` reads as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from baselines.cepe import row
from evals.errors import UserError
from evals.methods.decoding.prefill import read_both_ways
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.attention import merged
from sharedllm.nn.branches import add_projected, project_normed
from sharedllm.nn.fused import mlp, rms_norm
from sharedllm.nn.layers import decoder_of

ENCODE_BLOCK = 64
"""Chunks encoded at once: bounds activations to 64 x 256 tokens whatever the length of the context."""
ABSORBED_TOKENS = 16
"""Query tokens that attend to encoder states at once: bounds the (heads x tokens, context) scores."""
ALIGNED_TOKENS = 8
"""Encoder states are held in a multiple of so many rows. Of other numbers cuBLAS multiplies half-precision scores two
to four times slower, since their rows do not begin at 16 bytes."""


@dataclass(frozen=True)
class EncodedContext:
    """What the decoder attends to: encoder states, or the keys and values that each layer makes of them.

    states: (batch, context, encoder hidden). keys_values: for every decoder layer a pair of shape
    (batch, kv heads, context, head_dim), None for a layer without cross-attention. One of the two is None.
    mask: (batch, context), True at real tokens; None where nothing is padded. aligned: what `states` is the beginning
    of, with rows of zeros up to a multiple of ALIGNED_TOKENS after it; None where they are not held so.
    """

    states: torch.Tensor | None
    mask: torch.Tensor | None = None
    keys_values: Sequence[tuple[torch.Tensor, torch.Tensor] | None] | None = None
    aligned: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        states = self.states if self.aligned is None else self.aligned
        tensors = [states, self.mask, *(t for pair in self.keys_values or () for t in pair or ())]
        return sum(t.nbytes for t in tensors if t is not None)


class CrossAttention(nn.Module):
    """Attention from the decoder to the encoded context, with a norm of its own on the query side."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads or self.heads)
        self.head_dim = int(config.hidden_size) // self.heads
        self.encoder_hidden = int(config.encoder_hidden_size)
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(self.encoder_hidden, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(self.encoder_hidden, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        self.layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def project(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (batch, kv heads, context, head_dim) of encoder states (batch, context, hidden)."""
        k, v = (
            proj(states).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
            for proj in (self.k_proj, self.v_proj)
        )
        return k, v

    def absorbs(self, tokens: int) -> bool:
        """Whether attending to the states themselves takes fewer operations than projecting all of them.

        Per context token: `tokens` queries x heads in the encoder's width against the two projections plus
        the same queries in the head's width (the factor 4 of all terms is left out).
        """
        saved = self.encoder_hidden * self.kv_heads * self.head_dim
        return tokens * self.heads * (self.encoder_hidden - self.head_dim) < saved

    def _absorbed(self, q: torch.Tensor, context: EncodedContext) -> torch.Tensor:
        """The same attention with the projections moved to the query's side: q (K E)^T = (q K) E^T.

        q: (batch, heads, tokens, head_dim); returns the same shape. Reads the states in two products per layer
        and never holds keys or values, which at 28K tokens of a 7B model would be 15 GB in all layers.
        """
        batch, heads, tokens, dim = q.shape
        by_group = (self.kv_heads, dim, self.encoder_hidden)
        grouped = (q * dim**-0.5).reshape(batch, self.kv_heads, -1, dim)
        wide = (grouped @ self.k_proj.weight.view(by_group)).flatten(1, 2)
        parts = [_mixed(part, context) for part in torch.split(wide, heads * ABSORBED_TOKENS, dim=1)]
        mixed = torch.unflatten(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], 1, (self.kv_heads, -1))
        return (mixed @ self.v_proj.weight.view(by_group).transpose(1, 2)).view(batch, heads, tokens, dim)

    def forward(self, hidden: torch.Tensor, context: EncodedContext, layer: int) -> torch.Tensor:
        """States (batch, tokens, hidden) after this branch."""
        made = project_normed(self.layernorm, hidden, self.q_proj)
        q = torch.unflatten(made, -1, (self.heads, self.head_dim)).transpose(1, 2)
        return add_projected(hidden, merged(self._attended(q, hidden, context, layer)), self.o_proj)

    def _attended(self, q: torch.Tensor, hidden: torch.Tensor, context: EncodedContext, layer: int) -> torch.Tensor:
        """Queries (batch, heads, tokens, head_dim) of `hidden` -> the same shape."""
        if context.states is not None and self.absorbs(q.shape[2]):
            linears = self.k_proj, self.v_proj
            if context.mask is None and row.fits(hidden, context.states, linears, self.head_dim):
                return row.attend(q, context.states, *linears)
            return self._absorbed(q, context)
        if context.keys_values is not None:
            pair = context.keys_values[layer]
            assert pair is not None
        else:
            assert context.states is not None
            pair = self.project(context.states)
        mask = None if context.mask is None else context.mask[:, None, None]
        return F.scaled_dot_product_attention(q, *pair, attn_mask=mask, enable_gqa=self.heads != self.kv_heads)


def _mixed(queries: torch.Tensor, context: EncodedContext) -> torch.Tensor:
    """Encoder states as scaled queries (batch, rows, encoder hidden) weigh them, the same shape."""
    assert context.states is not None
    states = context.states if context.aligned is None else context.aligned
    scores = queries @ states.transpose(1, 2)
    if states.shape[1] > (real := context.states.shape[1]):
        scores[..., real:] = -torch.inf
    if context.mask is not None:
        scores = scores.masked_fill(~context.mask[:, None], -torch.inf)
    return scores.softmax(-1) @ states  # sums are float32 in any dtype


class CrossAttentionLayer(LlamaDecoderLayer):  # type: ignore[no-untyped-call]  # its hook is untyped in transformers
    """A Llama layer with cross-attention between self-attention and MLP."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.cross_attn = CrossAttention(config)

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, context: EncodedContext | None = None, **kwargs: Any
    ) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states=rms_norm(self.input_layernorm, hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        if context is not None:
            hidden_states = self.cross_attn(hidden_states, context, self.self_attn.layer_idx)
        return hidden_states + mlp(self.mlp, rms_norm(self.post_attention_layernorm, hidden_states))


class CEPEForCausalLM(LlamaForCausalLM):  # type: ignore[no-untyped-call]  # its hook is untyped in transformers
    """The released form: a Llama config with `encoder_config` and `num_cross_attn_layers` as extra fields.

    Raises UserError for a config without an encoder, or with a variant that no released checkpoint has.
    """

    def __init__(self, config: LlamaConfig) -> None:
        check_config(config)
        super().__init__(config)
        count = config.num_hidden_layers
        for index in range(count - config.num_cross_attn_layers, count):
            self.model.layers[index] = CrossAttentionLayer(config, index)
        self.encoder = LlamaModel(encoder_config(config))
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    def encode(
        self,
        encoder_input_ids: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        block: int = ENCODE_BLOCK,
    ) -> EncodedContext:
        """Encode chunks (batch, chunks, chunk length), `block` chunks at a time; the mask is 1 at real tokens.

        At least one token of every row must be real: attention over nothing is undefined.
        """
        batch = encoder_input_ids.shape[0]
        ids = encoder_input_ids.flatten(0, 1)
        mask = None if encoder_attention_mask is None else encoder_attention_mask.flatten(0, 1)
        parts = [
            self._encode(ids[i : i + block], None if mask is None else mask[i : i + block])
            for i in range(0, len(ids), block)
        ]
        states = torch.cat(parts).view(batch, -1, self.config.encoder_hidden_size)
        return EncodedContext(states, None if mask is None else mask.view(batch, -1).bool())

    def encode_text(self, ids: torch.Tensor, chunk: int, block: int = ENCODE_BLOCK) -> EncodedContext:
        """Encode texts (batch, tokens) in chunks of `chunk` tokens; the last one may be shorter, nothing is padded."""
        count = ids.shape[1] // chunk
        pieces = (ids[:, : count * chunk].reshape(len(ids), count, chunk), ids[:, None, count * chunk :])
        found = [self.encode(piece, block=block).states for piece in pieces if piece.numel()]
        states = [s for s in found if s is not None]
        padding = states[0].new_zeros(len(ids), -ids.shape[1] % ALIGNED_TOKENS, states[0].shape[2])
        aligned = torch.cat([*states, padding], dim=1)
        return EncodedContext(aligned[:, : ids.shape[1]], aligned=aligned)

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Final states (chunks, length, hidden) of a block; the stock forward takes what `read_both_ways` cannot, and
        training, where it can recompute layers in the backward pass."""
        if mask is None and not self.training and supports_static_decoding(self, self.encoder.config):
            return read_both_ways(decoder_of(self.encoder), ids)
        states: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states

    def project(self, context: EncodedContext) -> EncodedContext:
        """The context as keys and values of every layer, in place of its states."""
        assert context.states is not None
        pairs = [
            layer.cross_attn.project(context.states) if isinstance(layer, CrossAttentionLayer) else None
            for layer in self.model.layers
        ]
        return EncodedContext(None, context.mask, pairs)

    def cross(self, index: int, hidden: torch.Tensor, context: EncodedContext | None) -> torch.Tensor:
        """States (batch, tokens, hidden) of layer `index` after its cross-attention, where it has one."""
        layer = self.model.layers[index]
        if context is None or not isinstance(layer, CrossAttentionLayer):
            return hidden
        crossed: torch.Tensor = layer.cross_attn(hidden, context, index)
        return crossed

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        encoder_input_ids: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        context: EncodedContext | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """A Llama forward that also attends to a context, given as chunks of ids or already encoded.

        encoder_input_ids, encoder_attention_mask: (batch, chunks, chunk length), see `encode`.
        """
        if encoder_input_ids is not None:
            context = self.encode(encoder_input_ids, encoder_attention_mask)
        output: CausalLMOutputWithPast = super().forward(input_ids=input_ids, context=context, **kwargs)
        return output

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: torch.Tensor | None = None,
        encoder_input_ids: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        context: EncodedContext | None = None,
        **kwargs: Any,
    ) -> Any:
        """`generate` of transformers; the context is encoded once. One sequence a row (no beams)."""
        if encoder_input_ids is not None:
            context = self.encode(encoder_input_ids, encoder_attention_mask)
        return super().generate(inputs, context=context, **kwargs)  # type: ignore[misc]


def check_config(config: LlamaConfig) -> None:
    """Raises UserError where a config is not of a form that the released checkpoints have."""
    check_fields({"encoder_config": getattr(config, "encoder_config", None)})
    if getattr(config, "num_cross_attn_hidden_states", 1) != 1 or getattr(config, "encoder_is_model", False):
        raise UserError("Only CEPE models whose layers all attend to one encoder's final states are supported.")
    if config.encoder_config["hidden_size"] != config.encoder_hidden_size:
        raise UserError("`encoder_hidden_size` must be the `hidden_size` of `encoder_config`: correct config.json.")


def check_fields(config: Mapping[str, object]) -> None:
    """Raises UserError for the config.json of another model."""
    if not isinstance(config.get("encoder_config"), dict):
        raise UserError("This is not a CEPE model: its config.json has no `encoder_config`. Name a CEPE checkpoint.")


def encoder_config(config: LlamaConfig) -> LlamaConfig:
    """The encoder's config: bidirectional, with the decoder's attention kernel.

    The direction is set here and never read from the file: the released code asks for `is_decoder`, which
    transformers 5 does not know, and a causal encoder fails silently.
    """
    encoder = LlamaConfig.from_dict(config.encoder_config)
    encoder.is_causal = False
    encoder._attn_implementation = config._attn_implementation
    return encoder
