"""A press around a forward over prefix and context, of which it may compress the context alone.

Presses take all that a forward reads for the context. So while a press works, what belongs to the prefix is out of its
sight, and is put back afterwards. Without a prefix this is kvpress's own context manager and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from baselines.kvpress.bases import is_mixed, pressed_layers
from baselines.kvpress.library import Press, library
from sharedllm.nn.base_config import FAR
from sharedllm.nn.layers import KeysValues, Rotation, decoder_of
from sharedllm.nn.recipes import recipe_of

CONTEXT = "\u241f\u241econtext\u241e\u241f"
"""Stands for the context while a chat template is rendered."""


@contextmanager
def pressed(
    press: Press,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Sequence[int],
    cache: DynamicCache,
) -> Iterator[None]:
    """The press on the model, for one forward that fills `cache` with prefix + context."""
    if isinstance(press, library().KVzipPress):  # KVgrad is one
        manager = _reconstructing(press, model, tokenizer, prefix)
    elif isinstance(press, library().KVComposePress):
        manager = _composing(press, model, cache, len(prefix))
    else:
        manager = _hooked(press, model, len(prefix))
    with manager:
        yield


@contextmanager
def _hooked(press: Press, model: PreTrainedModel, prefix: int) -> Iterator[None]:
    """A press that compresses each layer as soon as it is read, in a hook on its self-attention."""
    decoder = decoder_of(model)
    tables = recipe_of(decoder.layers[0].self_attn).tables
    if prefix:
        press.forward_hook = _after_prefix(press.forward_hook, prefix)
    if is_mixed(model.config):
        press.forward_hook = _in_layers(press.forward_hook, pressed_layers(model.config))
    with press(model):
        if prefix or tables:
            rotary = Shifted(cast(nn.Module, decoder.rotary_emb), prefix, FAR if tables else None)
            for layer in decoder.layers:  # the press has just put the model's own there
                cast("SimpleNamespace", layer.self_attn).rotary_emb = rotary
        yield


def _in_layers(hook: Callable[..., object], layers: Sequence[int]) -> Callable[..., None]:
    """The hook, called in some of the layers."""

    def in_layers(module: Any, *call: object) -> None:
        if module.layer_idx in layers:
            hook(module, *call)

    return in_layers


def _after_prefix(hook: Callable[..., object], prefix: int) -> Callable[..., None]:
    """The hook, called with what comes after the first `prefix` tokens: states, rotations, keys and values."""

    def after_prefix(
        module: nn.Module, args: object, kwargs: dict[str, Any], output: tuple[torch.Tensor, torch.Tensor | None]
    ) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        seen = {
            **kwargs,
            "hidden_states": kwargs["hidden_states"][:, prefix:],
            "position_embeddings": tuple(x[:, prefix:] for x in kwargs["position_embeddings"]),
            "cache_position": kwargs["cache_position"][prefix:] - prefix,
        }
        states, weights = output
        front = _cut(layer, prefix)
        hook(module, args, seen, [states[:, prefix:], None if weights is None else weights[..., prefix:, prefix:]])
        _put_back(layer, front)

    return after_prefix


@contextmanager
def _reconstructing(
    press: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int]
) -> Iterator[None]:
    """KVzip and KVgrad, which ask the model to repeat the context, in forwards of their own after the first.

    They load a tokenizer by the name of the base, and take the prefix for that of its chat template. Here the
    tokenizer is the model's own and the prefix the real one, whose entries are not among those that may go.

    They refuse Gemma 3. Where they choose among the entries of all layers, here those of layers with a sliding window
    are not among them.
    """
    plain = SimpleNamespace(chat_template=None, encode=tokenizer.encode)
    source = cast("SimpleNamespace", importlib.import_module("kvpress.presses.kvzip_press"))
    loader, refused = source.AutoTokenizer, source.Gemma3PreTrainedModel
    score, compress, layers = press.score_kvzip, press.compress_post, pressed_layers(model.config)

    def score_pressed(
        module: Any, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *rest: object
    ) -> KeysValues:
        if module.layer_idx in layers:
            return cast(KeysValues, score(module, hidden, keys, values, *rest))
        return keys[:, :, : press.context_length], values[:, :, : press.context_length]

    def compress_context(pressed_model: PreTrainedModel) -> None:
        press.score_val = press.score_val[layers][..., len(prefix) :]
        modules = [cast("SimpleNamespace", decoder_of(pressed_model).layers[index].self_attn) for index in layers]
        chosen = [SimpleNamespace(layer_idx=at, config=module.config) for at, module in enumerate(modules)]
        compress(SimpleNamespace(model=SimpleNamespace(layers=[SimpleNamespace(self_attn=each) for each in chosen])))
        for module, each in zip(modules, chosen, strict=True):
            module.masked_key_indices = each.masked_key_indices

    press.score_kvzip, press.compress_post = score_pressed, compress_context
    source.AutoTokenizer = SimpleNamespace(from_pretrained=lambda name: plain)
    source.Gemma3PreTrainedModel = ()
    try:
        with press(model):
            press.prefix_length = len(prefix)
            end = end_of_question(tokenizer, prefix)
            press._suffix_ids = tokenizer.encode(end, return_tensors="pt", add_special_tokens=False)
            yield
    finally:
        source.AutoTokenizer, source.Gemma3PreTrainedModel = loader, refused


def end_of_question(tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int]) -> str:
    """What stands between a question and its answer: what closes a turn in the tokenizer's chat template, where the
    prefix opens one, else a new line."""
    try:
        messages = [{"role": "user", "content": CONTEXT}]
        rendered = tokenizer.chat_template and tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except TemplateError:  # a template that wants other messages: no prompt of this form was made with it
        rendered = None
    before, _, after = str(rendered or "").partition(CONTEXT)
    return after if before and str(tokenizer.decode(list(prefix))).startswith(before) else "\n"


@contextmanager
def _composing(press: Any, model: PreTrainedModel, cache: DynamicCache, prefix: int) -> Iterator[None]:
    """KVCompose, which reads the context twice and compresses all layers at the end."""
    fronts: list[KeysValues] = []
    try:
        with press(model):
            yield
            fronts = [_cut(layer, prefix) for layer in cache.layers]
            press.context_len -= prefix
            for aggregator in (head for layer in press.task_aggregators for head in layer):
                aggregator.data = aggregator.data[prefix:]
    except Exception as error:  # after a forward that failed its end fails too, and hides why
        if isinstance(error.__context__, torch.OutOfMemoryError | KeyboardInterrupt):
            raise error.__context__ from None
        raise
    for layer, front in zip(cache.layers, fronts, strict=True):
        _put_back(layer, front)


def _cut(layer: Any, prefix: int) -> KeysValues:
    """Take the first entries out of a layer of a cache."""
    front = layer.keys[:, :, :prefix], layer.values[:, :, :prefix]
    layer.keys, layer.values = layer.keys[:, :, prefix:], layer.values[:, :, prefix:]
    return front


def _put_back(layer: Any, front: KeysValues) -> None:
    if front[0].shape[2]:
        layer.keys, layer.values = torch.cat([front[0], layer.keys], 2), torch.cat([front[1], layer.values], 2)


class Shifted(nn.Module):
    """A rotary embedding for positions that are counted after the first `by` tokens. kind: of layers, where each has
    a table of its own."""

    def __init__(self, rotary: nn.Module, by: int, kind: str | None = None) -> None:
        super().__init__()
        self.rotary, self.by, self.kind = rotary, by, [kind] if kind else []

    @property
    def inv_freq(self) -> torch.Tensor:
        return self.rotary.get_buffer("_".join([*self.kind, "inv_freq"]))

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Rotation:
        return cast(Rotation, self.rotary(x, position_ids + self.by, *self.kind))
