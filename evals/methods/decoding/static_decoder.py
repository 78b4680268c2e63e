"""One token at a time through a Llama-like decoder with fixed shapes, for every method that has such a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from evals.methods.decoding.cuda_graph import StaticStep
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.static_attention import Reach, Tail, layer_reaches
from sharedllm.nn.attention import merged
from sharedllm.nn.base_config import steady_length, text_config
from sharedllm.nn.branches import add_attention, feed_forward, project, project_normed
from sharedllm.nn.layers import Decoder, DecoderLayer, Projection, Rotation, embed
from sharedllm.nn.recipes import LLAMA, RECIPES
from sharedllm.nn.rotation import Rotations, rotations

D = TypeVar("D", bound=Decoder)
Projected = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries (1, heads, q, head_dim), keys and values (1, kv heads, q, head_dim)."""


def supports_static_decoding(model: PreTrainedModel, config: PreTrainedConfig | None = None) -> bool:
    """Whether this file can run a decoder: family, positions and kernel are known, and all of it is on one device.

    config: that of the decoder, where it is not the model's.
    """
    config = config or text_config(model.config)
    recipe = (RECIPES | {"longllama": LLAMA}).get(config.model_type)  # whose layers only have attention of their own
    return (
        recipe is not None
        and not recipe.mixture
        and steady_length(config) is None
        and config._attn_implementation == "sdpa"
        and len(set(getattr(model, "hf_device_map", {"": model.device}).values())) == 1
    )


def decode_mode(model: PreTrainedModel, config: PreTrainedConfig | None = None) -> str:
    """How a method over this decoder generates, for its fairness record: `cuda graph` or `eager`."""
    return "cuda graph" if model.device.type == "cuda" and supports_static_decoding(model, config) else "eager"


class Rows(NamedTuple):
    """What one layer needs to know of the new tokens: their places (q,), its rotation and `Reach.bias`."""

    place: torch.Tensor
    rotation: Rotation | None
    bias: torch.Tensor


class DecoderStep(StaticStep, Generic[D]):
    """A stock decoder: every layer attends to its tail. Methods override what they do otherwise.

    decoder: the stack of layers with its embedding, norm and rotary embedding. position: of the first new token.
    reaches, tails: one per layer. Subclasses say how the state takes the tokens (`finish`).
    """

    def __init__(
        self, decoder: D, head: Projection, position: int, reaches: Sequence[Reach], tails: Sequence[Tail]
    ) -> None:
        super().__init__(reaches[0].tokens, decoder.embed_tokens.weight.device)
        self.decoder, self.head, self.position = decoder, head, position
        self.reaches, self.tails = reaches, tails

    def run(self) -> torch.Tensor:
        hidden, number = self.embed()
        rope = self.rotations(hidden, self.position + number)
        seen = {r: (number + r.offset, r.bias(number)) for r in dict.fromkeys(self.reaches)}
        for index, (layer, reach) in enumerate(zip(self.decoder.layers, self.reaches, strict=True)):
            place, bias = seen[reach]
            rows = Rows(place, rope.of(layer.self_attn), bias)
            hidden = feed_forward(layer, self.between(index, self.attend(index, layer, hidden, rows)))
        return project_normed(self.decoder.norm, hidden[:, 0], self.head)

    def embed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (1, q, hidden), of the token first, and their numbers in the run (q,)."""
        return embed(self.decoder, self.token), self.number

    def rotations(self, hidden: torch.Tensor, position: torch.Tensor) -> Rotations:
        """Cosines and sines of positions (q,) for every layer."""
        return rotations(self.decoder, hidden, position[None])

    def attend(self, index: int, layer: DecoderLayer, hidden: torch.Tensor, rows: Rows) -> torch.Tensor:
        """States (1, q, hidden) after the attention branch of layer `index`."""
        made = self.project(index, layer, hidden)
        mixed = self.mix(self.tails[index], made, rows, layer.self_attn.scaling)
        return self.output(index, layer, hidden, merged(mixed))

    def project(self, index: int, layer: DecoderLayer, hidden: torch.Tensor) -> Projected:
        """What layer `index` makes of its states (1, q, hidden), before rotation."""
        return project(layer, hidden)

    def mix(self, tail: Tail, made: Projected, rows: Rows, scale: float) -> torch.Tensor:
        """Attention to a tail, which takes the new keys and values: (1, heads, q, head_dim)."""
        query, keys, values = made
        query = tail.take(query, keys, values, rows.place, rows.rotation)
        return tail.attend(query, rows.bias, scale)

    def output(self, index: int, layer: DecoderLayer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """States (1, q, hidden) after the attention branch. attended: (1, q, heads * head_dim)."""
        return add_attention(layer, hidden, attended)

    def between(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """What a layer does between self-attention and MLP: nothing."""
        return hidden


class CacheStep(DecoderStep[Decoder]):
    """On top of a BufferCache that holds every token so far. config: of the decoder."""

    def __init__(
        self, decoder: Decoder, head: Projection, config: PreTrainedConfig, cache: BufferCache, tokens: int
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
