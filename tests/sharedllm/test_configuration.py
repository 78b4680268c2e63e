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
        ({"policy": "best"}, "policy: expected 'right', 'last_token' or 'maxsim', found 'best'."),
        ({"lower_layers": 4}, "lower_layers is 4: the base model has 1 to 3 layers"),
        ({"injection_start": 2}, "injection_start is 2: use 0 to 1 with injection 'bottom'"),
        ({"injection": "top", "injection_start": 1}, "injection_start is 1: use 0 to 0 with injection 'top'"),
        ({"ratios": [4, 0.5]}, "ratios.1: expected 1 or more, found 0.5."),
        ({"ratios": []}, "ratios: expected 1 or more entries, found []."),
        ({"ratios": 8}, "ratios: expected a list, found 8."),
        ({"ratios": "16"}, "ratios: expected a list, found '16'."),
        ({"ratios": {16: 8}}, "ratios: expected a list, found {16: 8}."),
        ({"ratios": [4, "2"]}, "ratios.1: expected a number, found '2'."),
        ({"ratios": [4, True]}, "ratios.1: expected a number, found true."),
        ({"ratios": [math.nan]}, "ratios.0: expected a finite number, found nan."),
        ({"ratios": [math.inf, 4]}, "ratios.0: expected a finite number, found inf."),
        ({"chunk_size": 64.0}, "chunk_size: expected a whole number, found 64.0."),
        ({"lower_layers": "two"}, "lower_layers: expected a whole number, found 'two'."),
        ({"lower_layers": True}, "lower_layers: expected a whole number, found true."),
        ({"injection_start": None}, "injection_start: expected a whole number, found null."),
        ({"leaf_overlap": 1.5}, "leaf_overlap: expected a whole number, found 1.5."),
        ({"leaf_overlap": -1}, "leaf_overlap: expected 0 or more, found -1."),
        ({"fine_chunks": "2"}, "fine_chunks: expected a whole number, found '2'."),
        ({"split_noise": None}, "split_noise: expected a number, found null."),
        ({"split_noise": math.nan}, "split_noise: expected a finite number, found nan."),
        ({"own_lower": 1}, "own_lower: expected true or false, found 1."),
        ({"policy": None}, "policy: expected 'right', 'last_token' or 'maxsim', found null."),
        ({"policy": ["right"]}, "policy: expected 'right'"),
        ({"injection": 1}, "injection: expected 'bottom', 'top' or 'interleaved', found 1."),
        ({"leaf_overlap": CHUNK}, "leaf_overlap is 20: a chunk has 20 tokens, use fewer"),
        ({"chunk_size": 10**30}, "chunk_size: expected 1048576 or less, found 1000000000000000000000000000000."),
        ({"chunk_size": 10**5000}, "chunk_size: expected 1048576 or less, found a number of thousands of digits."),
        ({"ratios": [1e308]}, "ratios.0: expected 1048576 or less, found 1e+308."),
        ({"fine_chunks": 0}, "fine_chunks: expected 1 or more, found 0."),
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
