"""A model of a rival around a base of Llama's family, whose tensors it shares: what training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sharedllm.errors import UserError

M = TypeVar("M", bound=PreTrainedModel)


def llama(base: PreTrainedModel, method: str) -> LlamaForCausalLM:
    """The base. Raises UserError for one of another family."""
    if not isinstance(base, LlamaForCausalLM):
        kind = base.config.model_type
        raise UserError(f"{method} needs a base of the family llama, this one is of '{kind}': choose another base.")
    return base


def around(
    model_class: type[M], base: LlamaForCausalLM, config: LlamaConfig, own: Mapping[str, torch.Tensor] | None = None
) -> M:
    """A model of `config` whose decoder is the base. own: all tensors that it has besides the base's."""
    config._attn_implementation = base.config._attn_implementation
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict({**base.state_dict(), **(own or {})}, assign=True)
    model.tie_weights()
    model.get_submodule("model").rotary_emb = base.model.rotary_emb  # a table, which a state dict does not hold
    model.generation_config = base.generation_config
    model.train(base.training)
    return model
