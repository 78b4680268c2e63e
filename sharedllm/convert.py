"""Checkpoints of the released SharedLLM code."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sharedllm.configuration import SharedLLMConfig
from sharedllm.errors import UserError
from sharedllm.modeling import SharedLLMForCausalLM

_PARTS = {
    "q_proj.weight": "q_proj.weight",
    "o_proj.weight": "o_proj.weight",
    "layernorm.weight": "norm.weight",
}


def from_released(state_dict: Mapping[str, torch.Tensor], config: SharedLLMConfig) -> SharedLLMForCausalLM:
    """The model of a state dict with the released names, in evaluation mode.

    Released names: `model.*` and `lm_head.*` are the base, `model.layers.N.cross_attn.{q_proj,o_proj,layernorm}`
    the cross-attention, `encoder.*` a second copy of the base's layers. The copy is left out where it equals the
    base (self-injection); where it does not, it becomes the lower model of its own that config.own_lower asks for.

    Raises UserError where tensors are missing or too many, or the copy differs although config.own_lower is off.
    """
    own = {f"model.{n.removeprefix('encoder.')}": t for n, t in state_dict.items() if n.startswith("encoder.")}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        if name.startswith("encoder.") or "rotary_emb" in name:
            continue
        layer, cross, part = name.removeprefix("model.layers.").partition(".cross_attn.")
        if cross:
            if int(layer) not in config.injection_layers:
                raise UserError(f"The checkpoint has a cross-attention in layer {layer}: set lower_layers to match.")
            weights[f"cross_attention.{config.injection_layers.index(int(layer))}.{_PARTS.get(part, part)}"] = tensor
        else:
            weights[f"base.{name}"] = tensor
    embedding = "model.embed_tokens.weight"
    if embedding in own and not torch.equal(own[embedding], state_dict[embedding]):
        raise UserError("The checkpoint's lower model has a token embedding of its own: only shared ones are known.")
    for index in range(config.lower_layers):
        prefix = f"model.layers.{index}."
        for name, tensor in own.items():
            if not name.startswith(prefix) or "rotary_emb" in name or "cross_attn" in name:
                continue
            if config.own_lower:
                weights[f"lower.{index}.{name.removeprefix(prefix)}"] = tensor
            elif not torch.equal(tensor, state_dict[name]):
                raise UserError(
                    f"The checkpoint's lower model differs from its base at {name}: load it with own_lower=True."
                )
    if config.own_lower and not own:
        raise UserError("The checkpoint has no encoder.* tensors: load it with own_lower=False.")
    model = SharedLLMForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {"base.lm_head.weight"} if config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise UserError(f"The checkpoint does not fit: missing {missing[:3]}, unexpected {unexpected[:3]}.")
    model.eval()  # type: ignore[no-untyped-call]  # untyped in transformers
    return model
