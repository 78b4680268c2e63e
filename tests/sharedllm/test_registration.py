"""When `import sharedllm` tells transformers of our models, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

KNOWN = """
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
assert "sharedllm" in CONFIG_MAPPING
assert [config.__name__ for config in MODEL_FOR_CAUSAL_LM_MAPPING._extra_content] == ["SharedLLMConfig"]
"""


def succeeds(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    "imports",
    [
        "import sharedllm; from transformers import AutoModelForCausalLM",
        "import transformers.models.auto, sharedllm",
        "import sharedllm; from transformers import LlamaForCausalLM",
        "import sharedllm; from transformers import Qwen2ForCausalLM",
    ],
)
def test_the_auto_classes_know_sharedllm(imports: str) -> None:
    succeeds(imports + KNOWN)


def test_a_module_that_makes_transformers_load_is_imported_first() -> None:
    succeeds("import sharedllm.nn.attention; import sharedllm.modeling" + KNOWN)
