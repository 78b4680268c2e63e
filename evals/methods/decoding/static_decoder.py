"""One token at a time through a Llama-like decoder with fixed shapes, for every method that has such a decoder.

What a layer held before the run does not change while it lasts, and what comes is at most as many tokens as the run
has places. So attention has two parts: over all that stays visible throughout (`core`), read in place by a kernel
without a mask, however long it is; and over the places of the new tokens, behind a mask that is built from the
position on the device. Both are joined by their sums of exponentials, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from evals.methods.decoding.cuda_graph import FixedStep
from evals.methods.decoding.kv_cache import BufferCache
from sharedllm.nn.attention import project_keys, project_queries, project_values
from sharedllm.nn.fused import attend_more, mlp, rms_norm, rotate
from sharedllm.nn.masks import sliding_window

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Base models of layers with q, k, v and o projections, two norms and a rotary embedding that turns dimension i with
i + head_dim / 2, over all of the head."""
PLACES = 64
"""Places of new tokens are rounded up to a multiple of this."""
LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change with the length."""
KeysValues = tuple[torch.Tensor, torch.Tensor]
Rotation = tuple[torch.Tensor, torch.Tensor]


def has_fixed_step(model: PreTrainedModel, config: PreTrainedConfig | None = None) -> bool:
    """Whether a decoder can be run by this file: family, positions, kernel, and all of it on one device.

    config: that of the decoder, where it is not the model's.
    """
    config = config or model.config
    return (
        config.model_type in (*FAMILIES, "longllama")  # which has Llama's layers, and attention of its own
        and config.rope_parameters["rope_type"] not in LENGTH_DEPENDENT
        and config._attn_implementation == "sdpa"
        and len(set(getattr(model, "hf_device_map", {"": model.device}).values())) == 1
    )


def decoding(model: PreTrainedModel, config: PreTrainedConfig | None = None) -> str:
    """How a method over this decoder generates, for its fairness record: `cuda graph` or `eager`."""
    return "cuda graph" if model.device.type == "cuda" and has_fixed_step(model, config) else "eager"


class Reach:
    """Which keys the tokens of a run see; layers with the same window share it.

    held: tokens before the run. tokens: at most in the run; their places are rounded up, so that runs have few shapes.
    window: tokens that one sees, itself included; None for all. pinned: keys in front that every token sees although
    they are older. The places of a layer are [pinned | leaving | new]: `leaving` keys are seen by the first token of
    the run but not by the last. What lies between leaving and new is the core.
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

    keys, values: the places, (1, kv heads, places, head_dim).
    """

    def __init__(self, reach: Reach, held: KeysValues, pinned: KeysValues | None = None) -> None:
        """held: keys and values (1, kv heads, reach.held, head_dim); pinned: those of reach.pinned more."""
        self._offset = reach.offset
        self.core = held[0][:, :, reach.core], held[1][:, :, reach.core]
        self.keys, self.values = (
            torch.cat([*([] if pinned is None else [pinned[i]]), x[:, :, reach.leaving], _zeros(x, reach.places)], 2)
            for i, x in enumerate(held)
        )

    def write(self, place: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keys and values (1, kv heads, q, head_dim) of new tokens at places (q,)."""
        self.keys.index_copy_(2, place, keys)
        self.values.index_copy_(2, place, values)

    def attend(self, query: torch.Tensor, bias: torch.Tensor, scale: float) -> torch.Tensor:
        """(1, heads, q, head_dim) -> the same; bias: `Reach.bias`."""
        grouped = query.unflatten(1, (self.keys.shape[1], -1))  # heads that share keys are rows of one product
        out, log_sum = attend_all(grouped.flatten(2, 3), *self.core, scale)
        keys, values = self.keys[0].transpose(0, 1), self.values[0].transpose(0, 1)
        out, log_sum = out.reshape(grouped.shape)[0], log_sum.view(grouped.shape[1:-1])
        return attend_more(keys, values, grouped[0], bias, out, log_sum, scale).reshape(query.shape)

    def new(self, count: int) -> KeysValues:
        """Keys and values of the first `count` new tokens."""
        part = slice(self._offset, self._offset + count)
        return self.keys[:, :, part], self.values[:, :, part]


def attend_all(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of (1, heads, q, d) to all of (1, heads, k, d), and the log of the sum of its exponentials,
    (1, heads, q) float32. The public function of PyTorch keeps the latter to itself."""
    if query.is_cuda:
        params = torch.backends.cuda.SDPAParams(query, keys, values, None, 0.0, False, False)
        if torch.backends.cuda.can_use_flash_attention(params):
            out, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, keys, values, scale=scale)
            return out, log_sum
    scores = (query @ keys.mT).float() * scale
    return scores.softmax(-1).to(query.dtype) @ values, scores.logsumexp(-1)


class Rows(NamedTuple):
    """What one layer needs to know of the new tokens: their places (q,), `rotation` and `Reach.bias`."""

    place: torch.Tensor
    rotation: Rotation
    bias: torch.Tensor


class DecoderStep(FixedStep):
    """A stock decoder: every layer attends to its tail. Methods override what they do otherwise.

    decoder: the stack of layers with its embedding, norm and rotary embedding. position: of the first new token.
    reaches, tails: one a layer. Subclasses say how the state takes the tokens (`finish`).
    """

    def __init__(
        self, decoder: Any, head: nn.Module, position: int, reaches: Sequence[Reach], tails: Sequence[Tail]
    ) -> None:
        super().__init__(reaches[0].tokens, decoder.embed_tokens.weight.device)
        self.decoder, self.head, self.position = decoder, head, position
        self.reaches, self.tails = reaches, tails

    def run(self) -> torch.Tensor:
        hidden, number = self.embed()
        rotation = self.rotation(hidden, self.position + number)
        rows = {r: Rows(number + r.offset, rotation, r.bias(number)) for r in dict.fromkeys(self.reaches)}
        for index, (layer, reach) in enumerate(zip(self.decoder.layers, self.reaches, strict=True)):
            normed = rms_norm(layer.input_layernorm, hidden)
            hidden = hidden + self.attend(index, layer.self_attn, normed, rows[reach])
            hidden = self.between(index, hidden)
            hidden = hidden + mlp(layer.mlp, rms_norm(layer.post_attention_layernorm, hidden))
        return self.head(rms_norm(self.decoder.norm, hidden[:, 0]))

    def embed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (1, q, hidden), of the token first, and their numbers in the run (q,)."""
        return self.decoder.embed_tokens(self.token), self.number

    def rotation(self, hidden: torch.Tensor, position: torch.Tensor) -> Rotation:
        """Cosines and sines (1, 1, q, head_dim) of positions (q,)."""
        cos, sin = self.decoder.rotary_emb(hidden, position[None])
        return cos[:, None], sin[:, None]

    def attend(self, index: int, attention: Any, normed: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Self-attention of layer `index`: (1, q, hidden) -> the same."""
        keys = rotate(project_keys(attention, normed), *rows.rotation)
        self.tails[index].write(rows.place, keys, project_values(attention, normed))
        query = rotate(project_queries(attention, normed), *rows.rotation)
        out = self.tails[index].attend(query, rows.bias, attention.scaling)
        return attention.o_proj(out.transpose(1, 2).flatten(2))

    def between(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """What a layer does between self-attention and MLP: nothing."""
        return hidden


class CacheStep(DecoderStep):
    """Behind a BufferCache that holds every token so far. config: of the decoder."""

    def __init__(
        self, decoder: Any, head: nn.Module, config: PreTrainedConfig, cache: BufferCache, tokens: int
    ) -> None:
        held = cache.get_seq_length()
        reaches = layer_reaches(config, held, tokens, decoder.embed_tokens.weight.device)
        tails = [Tail(reach, pair) for reach, pair in zip(reaches, cache.keys_values(), strict=True)]
        super().__init__(decoder, head, held, reaches, tails)
        self._cache = cache

    def finish(self) -> None:
        new = [tail.new(self.count) for tail in self.tails]
        self.tails = ()  # a layer that grows frees the buffer that it had
        for layer, pair in zip(self._cache.layers, new, strict=True):
            layer.update(*pair)


def layer_reaches(config: PreTrainedConfig, held: int, tokens: int, device: torch.device) -> list[Reach]:
    """The reach of every layer of a base, each in its own window."""
    windows = [sliding_window(config, index) for index in range(config.num_hidden_layers)]
    reaches = {window: Reach(held, tokens, window, device) for window in set(windows)}
    return [reaches[window] for window in windows]


def _zeros(like: torch.Tensor, tokens: int) -> torch.Tensor:
    """Places for `tokens` tokens; zeros, since a mask does not hide what is not a number."""
    return like.new_zeros((*like.shape[:2], tokens, like.shape[3]))
