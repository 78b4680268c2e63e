"""Memory that the dry run expects, and bytes that a step reads, for a model that is more than a text decoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shapes import VISION
from transformers import AutoModelForCausalLM

from baselines.dense import FullAttention
from evals.errors import UserError
from evals.methods import flops
from evals.methods.base import Runtime
from evals.methods.presets import Preset
from evals.methods.weights import shape_config
from evals.run.dry_run import expected_memory
from evals.run.identity import ModelChoice

TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SHAPE: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": TEXT,
    "vision_config": VISION,
    "mm_tokens_per_image": 4,
}


def test_of_a_multimodal_base_all_weights_are_held_and_those_of_the_text_decoder_are_read() -> None:
    weights = {"source": "nowhere"}
    preset = Preset(name="seeing", method="full", description="tiny", weights=weights, shape=SHAPE)  # type: ignore[arg-type]
    expected = expected_memory(ModelChoice(preset, FullAttention, Runtime(dtype="bfloat16", random_weights=True)))
    model = AutoModelForCausalLM.from_config(shape_config(SHAPE), dtype=torch.bfloat16)
    text = AutoModelForCausalLM.from_config(model.config.text_config, dtype=torch.bfloat16)
    assert expected is not None
    assert expected.weight_bytes == flops.weight_bytes(model)
    assert expected.kv_token_bytes == 2 * 2 * 2 * 16 * 2
    assert flops.decode_weight_bytes(model) == flops.weight_bytes(text) < flops.weight_bytes(model)


@pytest.mark.parametrize("wrong", [{"rope_parameters": {"rope_type": "junk"}}, {"hidden_act": "junk"}])
def test_a_shape_that_no_model_can_be_built_from_is_one_sentence(wrong: dict[str, object]) -> None:
    shape = {"model_type": "llama", **TEXT, **wrong}
    preset = Preset(name="wrong", method="full", description="tiny", weights={"source": "nowhere"}, shape=shape)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^The config of wrong cannot be read \(.*junk.*\): correct its fields\.$"):
        expected_memory(ModelChoice(preset, FullAttention, Runtime(random_weights=True)))
