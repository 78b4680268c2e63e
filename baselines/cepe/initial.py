"""CEPE over a base, as its training begins (section 3 of the paper; `initialize_cross_attention_weights` of the code).

Cross-attention starts as a copy of each layer's self-attention, its norm as one of the layer's second norm; with the
code's `init_mode` zero its output projection starts at zero, so that the model starts as the base. The paper's encoder
is a masked language model that was trained before, with the vocabulary of Llama 2. Other bases have none: here the
encoder starts as a copy of the base's embedding and bottom layers, which now attend in both directions, and its final
norm as the first norm of the layer above them, through which the base itself reads those states.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from baselines.around import around, llama
from baselines.cepe.modeling import CEPEForCausalLM
from sharedllm.errors import UserError


def over_base(base: PreTrainedModel, encoder_layers: int, zero_output: bool = False) -> CEPEForCausalLM:
    """The model around a base, whose tensors it shares. zero_output: of the cross-attention.

    Raises UserError for a base of another family than Llama's, or with fewer layers than the encoder takes.
    """
    base = llama(base, "CEPE")
    layers = int(base.config.num_hidden_layers)
    if encoder_layers > layers:
        raise UserError(f"The base has {layers} layers, not {encoder_layers}: lower encoder_layers.")
    copies = _copies(base, encoder_layers)
    if zero_output:
        copies |= {
            n: torch.zeros_like(weight) for n, weight in copies.items() if n.endswith("cross_attn.o_proj.weight")
        }
    model = around(CEPEForCausalLM, base, _config(base.config, encoder_layers), copies)
    model.encoder.rotary_emb = base.model.rotary_emb
    return model


def _config(base: LlamaConfig, encoder_layers: int) -> LlamaConfig:
    """In the released form."""
    fields = base.to_dict()
    return LlamaConfig.from_dict(
        {
            **fields,
            "do_cross_attention": True,
            "num_cross_attn_layers": base.num_hidden_layers,
            "num_cross_attn_hidden_states": 1,
            "encoder_is_model": False,
            "encoder_hidden_size": base.hidden_size,
            "encoder_config": {**fields, "num_hidden_layers": encoder_layers},
        }
    )


def _copies(base: LlamaForCausalLM, encoder_layers: int) -> dict[str, torch.Tensor]:
    """Cross-attention and encoder."""
    own, count = base.state_dict(), int(base.config.num_hidden_layers)
    made = {}
    for layer in (f"model.layers.{i}." for i in range(count)):
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            made[f"{layer}cross_attn.{projection}.weight"] = own[f"{layer}self_attn.{projection}.weight"]
        made[f"{layer}cross_attn.layernorm.weight"] = own[f"{layer}post_attention_layernorm.weight"]
    bottom = ("model.embed_tokens.", *(f"model.layers.{i}." for i in range(encoder_layers)))
    made |= {name.replace("model", "encoder", 1): weight for name, weight in own.items() if name.startswith(bottom)}
    above = f"model.layers.{encoder_layers}.input_layernorm" if encoder_layers < count else "model.norm"
    made["encoder.norm.weight"] = own[f"{above}.weight"]
    return {name: weight.clone() for name, weight in made.items()}
