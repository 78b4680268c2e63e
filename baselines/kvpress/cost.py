"""Cost of a compressed context, by formula."""

from __future__ import annotations

from typing import Any, cast

from transformers import PreTrainedModel

from baselines.kvpress.bases import pressed_layers
from baselines.kvpress.build import Recipe
from baselines.kvpress.library import Press, library
from baselines.kvpress.sizes import held, shortest
from evals.methods import flops
from evals.methods.base import Cost
from sharedllm.nn.base_config import key_value_heads


def pressed_cost(model: PreTrainedModel, recipe: Recipe, context_tokens: int, query_tokens: int) -> Cost:
    """Dense attention over the context, the forwards that the press adds, and then attention to what is held.

    The scores that a press makes of keys, values and queries are left out: they are below 1 % of a forward.
    """
    config, press = model.config, recipe.press()
    layers = held(press, model, context_tokens)
    kv = flops.kv_bytes(config, model.dtype) // len(layers)
    state = (sum(layers) + query_tokens * len(layers)) * kv
    if recipe.masks:
        masks = key_value_heads(config) * len(pressed_layers(config))
        state += context_tokens * masks  # a byte says whether a head sees an entry
    linear, head = flops.decoder_flops(model), flops.head_flops(config)

    def attention(new: int) -> float:
        """Of `new` tokens after the compressed context."""
        return sum(flops.attention_flops(config, flops.causal_pairs(new, past), layers=1) for past in layers)

    first = context_tokens * linear + flops.attention_flops(config, flops.causal_pairs(context_tokens))
    again = _reread(press, model, context_tokens)
    decode = linear + head + attention(query_tokens + 1) - attention(query_tokens)
    return Cost(
        prefill_flops=first + again + query_tokens * linear + attention(query_tokens) + head,
        decode_flops=decode,
        weight_bytes=flops.weight_bytes(model),
        state_bytes=state,
        decode_bytes=flops.decode_weight_bytes(model) + state,
    )


def _reread(press: Press, model: PreTrainedModel, tokens: int) -> float:
    """Arithmetic of the forwards that a press adds: KVzip repeats the context chunk by chunk, KVgrad with a backward to
    the activations (as much as its forward), KVCompose reads it once more."""
    kv, own = library(), cast(Any, press)
    if tokens < shortest(press) or not isinstance(press, kv.KVzipPress | kv.KVComposePress):
        return 0.0
    chunk = tokens
    if isinstance(press, kv.KVzipPress):
        if not own.compression_ratio:
            return 0.0
        chunk = own.chunk_size
    pairs = sum(flops.causal_pairs(min(chunk, tokens - start), tokens) for start in range(0, tokens, chunk))
    once = tokens * flops.decoder_flops(model) + flops.attention_flops(model.config, pairs)
    return 2 * once if isinstance(press, kv.KVgradPress) else once
