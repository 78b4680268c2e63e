"""Reading a context under a press: kvpress's context manager around one forward of the stock model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from baselines.kvpress.bases import pressed_layers
from baselines.kvpress.build import Recipe
from baselines.kvpress.context_only import pressed
from baselines.kvpress.sizes import shortest
from evals.methods.boundary import reading
from evals.methods.decoding.prefill import check_length
from sharedllm.inputs import ids_tensor
from sharedllm.nn.base_config import key_value_heads
from sharedllm.nn.layers import KeysValues, decoder_of, stock_decoder

Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Batch rows, heads and tokens of masked entries, one element each per entry."""


@dataclass(frozen=True)
class Reading:
    """What stays of a context.

    hidden: the final state of its last token, (1, hidden). layers: keys and values (1, kv heads, tokens, head_dim);
    layers may hold different numbers of tokens. kept: for each layer, which entries (kv heads, tokens) are seen; None
    where all of them are. position: that of the next token.
    """

    hidden: torch.Tensor
    layers: list[KeysValues]
    kept: list[torch.Tensor | None]
    position: int


class CacheLayer(Protocol):
    """A layer of a cache after a forward."""

    keys: torch.Tensor
    values: torch.Tensor


class Marked(Protocol):
    """A self-attention module, with what a press leaves on it."""

    masked_key_indices: Entries | None
    rotary_emb: object


def read_context(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    prefix: Sequence[int],
    context: Sequence[int],
    seed: int,
) -> Reading:
    """Read prefix + context, at least one token, and compress the context; the prefix stays whole.

    seed: of the presses that draw random numbers. A context of fewer tokens than the press needs (`shortest`) stays
    whole too. Raises UserError where kvpress refuses what it is given.
    """
    tokens = len(prefix) + len(context)
    check_length(model.config, tokens)
    ids = ids_tensor([*prefix, *context], model.device)
    press, cache = recipe.press(), DynamicCache()
    compressed = len(context) >= shortest(press)
    with _marks_removed(model, eager=recipe.weights) as modules:
        with (
            reading(f"A context under the press {recipe.settings.press}", "choose other settings"),
            _seeded(seed, model.device),
            pressed(press, model, tokenizer, prefix, cache) if compressed else nullcontext(),
        ):
            output = stock_decoder(model)(
                input_ids=ids,
                past_key_values=cache,
                use_cache=True,
                cache_position=torch.arange(tokens, device=model.device),  # by which a press knows that it is a prefill
            )
        masked = pressed_layers(model.config) if recipe.masks else []
        kept = [
            _kept(model, module, len(prefix), tokens) if at in masked else None for at, module in enumerate(modules)
        ]
    layers = [(layer.keys, layer.values) for layer in cast("list[CacheLayer]", cache.layers)]
    position = layers[0][0].shape[2] if recipe.rerotates else tokens
    return Reading(output.last_hidden_state[0, -1:].clone(), layers, kept, position)


def _kept(model: PreTrainedModel, module: Marked, prefix: int, tokens: int) -> torch.Tensor:
    """Which entries (kv heads, tokens) of a layer are not masked. A press counts tokens after the prefix."""
    kept = torch.ones(key_value_heads(model.config), tokens, dtype=torch.bool, device=model.device)
    if module.masked_key_indices is not None:
        _, heads, masked = (index.to(model.device) for index in module.masked_key_indices)
        kept[heads, masked + prefix] = False
    return kept


@contextmanager
def _marks_removed(model: PreTrainedModel, eager: bool) -> Iterator[list[Marked]]:
    """The self-attention modules without marks of an earlier press, and the model as it was at the end, so that no
    session sees another's. eager: whether the kernel that returns attention weights reads."""
    modules = [cast(Marked, layer.self_attn) for layer in decoder_of(model).layers]
    kernel = model.config._attn_implementation
    for module in modules:
        module.masked_key_indices = None
    try:
        if eager:
            model.config._attn_implementation = "eager"
        yield modules
    finally:
        model.config._attn_implementation = kernel
        for module in modules:
            del module.masked_key_indices
            if hasattr(module, "rotary_emb"):
                del module.rotary_emb


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that depend on the seed alone, and do not move those of anybody else."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
