"""When `import sharedllm` tells transformers of our models, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

KNOWN = """
from transformers import AutoConfig, AutoModelForCausalLM
base = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 16,
        "num_attention_heads": 2, "vocab_size": 32}
config = AutoConfig.for_model("sharedllm", base_config=base, lower_layers=1)
assert type(AutoModelForCausalLM.from_config(config)).__name__ == "SharedLLMForCausalLM"
"""


def succeeds(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    "imports",
    [
        "import sharedllm; from transformers import AutoModelForCausalLM",
        "import transformers.models.auto, sharedllm",
        # transformers loads its Auto classes in the middle of these
        "import sharedllm; from transformers.models.llama.modeling_llama import LlamaForCausalLM",
        "import sharedllm; from transformers.modeling_layers import GradientCheckpointingLayer",
        # our own modules come first
        "import sharedllm.nn.attention; import sharedllm.modeling",
        "import baselines.activation_beacon.adapter",
    ],
)
def test_the_auto_classes_know_sharedllm(imports: str) -> None:
    succeeds(imports + KNOWN)
