"""`import sharedllm` is light, and is enough for transformers' Auto classes to know its models."""

from __future__ import annotations

import subprocess
import sys

import pytest

CONFIG = "AutoConfig.for_model('sharedllm', ratios=[8, 4])"
LIGHT = "import sys, sharedllm; assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
CASES = {
    "ours first": LIGHT + f"from transformers import AutoConfig; assert {CONFIG}.height == 2",
    "theirs first": f"from transformers import AutoConfig, AutoModelForCausalLM\nimport sharedllm\nc = {CONFIG}\n"
    "assert AutoModelForCausalLM._model_mapping[type(c)] is sharedllm.SharedLLMForCausalLM",
    "model alone": "from sharedllm.modeling import SharedLLMForCausalLM as S\n"
    "from transformers import AutoModelForCausalLM as A; assert A._model_mapping[S.config_class] is S",
}


@pytest.mark.parametrize("case", CASES)
def test_the_auto_classes_know_sharedllm(case: str) -> None:
    done = subprocess.run([sys.executable, "-c", CASES[case]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
