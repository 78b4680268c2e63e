"""Settings and bases that SharedLLM refuses, each in one sentence that names the field."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from shapes import CHUNK, base_model, shared_model
from transformers import AutoConfig

from sharedllm import SharedLLMConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "best"}, "policy is 'best': choose one of right, last_token, maxsim"),
        ({"lower_layers": 4}, "lower_layers is 4: the base model has 1 to 3 layers"),
        ({"injection_start": 2}, "injection_start is 2: use 0 to 1 with injection 'bottom'"),
        ({"injection": "top", "injection_start": 1}, "injection_start is 1: use 0 to 0 with injection 'top'"),
        ({"ratios": [4, 0.5]}, "at least 1 for every tree level"),
        ({"ratios": []}, "at least 1 for every tree level"),
        ({"ratios": 8}, "ratios are 8: give a list with one ratio of at least 1"),
        ({"ratios": "16"}, "ratios are '16': give a list"),
        ({"ratios": {16: 8}}, "ratios are {16: 8}: give a list"),
        ({"ratios": [4, "2"]}, "give a list with one ratio"),
        ({"ratios": [4, True]}, "give a list with one ratio"),
        ({"ratios": [math.nan]}, "give a list with one ratio"),
        ({"ratios": [math.inf, 4]}, "give a list with one ratio"),
        ({"chunk_size": 64.0}, "chunk_size is 64.0: give a whole number"),
        ({"lower_layers": "two"}, "lower_layers is 'two': give a whole number"),
        ({"lower_layers": True}, "lower_layers is True: give a whole number"),
        ({"injection_start": None}, "injection_start is None: give a whole number"),
        ({"leaf_overlap": 1.5}, "leaf_overlap is 1.5: give a whole number, or null"),
        ({"leaf_overlap": -1}, "leaf_overlap is -1: give 0 or more"),
        ({"fine_chunks": "2"}, "fine_chunks is '2': give a whole number, or null"),
        ({"split_noise": None}, "split_noise is None: give a number"),
        ({"split_noise": math.nan}, "split_noise is nan: give 0 or more"),
        ({"own_lower": 1}, "own_lower is 1: give true or false"),
        ({"policy": None}, "policy is 'None': choose one of"),
        ({"policy": ["right"]}, "policy is"),
        ({"injection": 1}, "injection is '1': choose one of"),
        ({"leaf_overlap": CHUNK}, "leaf_overlap is 20: a chunk has 20 tokens, use fewer"),
        ({"chunk_size": 10**30}, "chunk_size is 1000000000000000000000000000000: give 1048576 or less"),
        ({"chunk_size": 10**5000}, "chunk_size is a number of thousands of digits: give 1048576 or less"),
        ({"ratios": [1e308]}, "ratios are [1e+308]: give a list with one ratio of at least 1"),
        ({"fine_chunks": 0}, "fine_chunks is 0: give 1 or more, or null"),
        ({"chunk_size": 3}, "chunk_size 3 cannot be halved 2 times: use at least 4"),
        ({"rations": [1]}, "SharedLLM has no setting 'rations': choose from chunk_size, ratios"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        shared_model(**settings)


def test_bases_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="The base is a gemma2: SharedLLM knows llama, mistral, qwen2, qwen3"):
        SharedLLMConfig(base_config=AutoConfig.for_model("gemma2"))
    for given in ("llama", {"hidden_size": 8}):
        with pytest.raises(ValueError, match=r"base_config is .*: give a config, or a dict with model_type"):
            SharedLLMConfig(base_config=given)
    with pytest.raises(ValueError, match="chunk_size 20 exceeds the base's sliding window: use 8"):
        shared_model(base_model("mistral", sliding_window=8))
    shared_model(base_model("qwen2", sliding_window=8))  # its lower layers see everything
