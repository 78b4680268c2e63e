"""Which method runs over which family of bases, from tiny random models of each: the table of docs/methods.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_scripts import load
from transformers import AutoConfig

from baselines.yarn import rope_parameters, stretched_rotary
from evals import NotFiniteError, Query, Runtime, UserError, load_preset, method
from evals.methods import flops
from evals.methods.bases import kernel_for
from evals.methods.weights import random_model
from sharedllm.nn.base_config import head_dim, key_value_heads, rope_table, rotary_dim, steady_length, text_config

script: Any = load("base_families")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    rows = []
    for number, family in enumerate(script.FAMILIES):
        folder = script.save(family, tmp_path_factory.mktemp(f"family-{number}"))
        rows += [script.run(family, name, folder) for name in script.METHODS]
    return rows


def test_where_a_method_runs_its_logits_are_those_of_the_stock_model(found: list[Any]) -> None:
    running = {(row.family, row.method): row.difference for row in found if row.refused is None}
    assert all(difference < 1e-5 for difference in running.values()), running
    assert {family for family, name in running if name == "full"} == set(script.FAMILIES) - {
        "Gemma 2",
        "Cohere",
        "LFM2",
        "Mamba",
    }
    assert {"GLM-4", "GPT-NeoX, Pythia", "StableLM", "Phi-3"} <= {family for family, name in running if name == "yarn"}


def test_the_document_has_the_table_of_today(found: list[Any]) -> None:
    text = script.DOCUMENT.read_text(encoding="utf-8")
    shown = text.split(script.MARKS[0])[1].split(script.MARKS[1])[0].strip()
    assert shown == script.table(found), "run python benchmarks/base_families.py --write"


def shape(family: str) -> Any:
    fields = dict(script.FAMILIES[family])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


# --- one reader of configs


@pytest.mark.parametrize(
    ("family", "dim", "heads"),
    [("Qwen2", 8, 2), ("GPT-NeoX, Pythia", 16, 4), ("OPT", 8, 4), ("Gemma 3, multimodal", 16, 2)],
)
def test_sizes_that_a_config_leaves_out_are_derived(family: str, dim: int, heads: int) -> None:
    assert (head_dim(shape(family)), key_value_heads(shape(family))) == (dim, heads)


@pytest.mark.parametrize("family", ["Llama, SmolLM2", "GPT-NeoX, Pythia", "OPT", "Falcon", "Gemma 3, multimodal"])
def test_bytes_of_a_token_are_those_of_the_cache(family: str, tmp_path: Path) -> None:
    folder = script.save(family, tmp_path)
    (tmp_path / "full.yaml").write_text(f"{{name: x, method: full, description: x, weights: {{source: {folder}}}}}")
    model = method("full").load(load_preset(str(tmp_path / "full.yaml")), Runtime())
    assert model.prefill([1, 2, 3, 4, 5]).state_bytes == model.cost(5, 0).state_bytes


@pytest.mark.parametrize("family", ["LFM2", "Mamba", "Gemma 2", "Cohere"])
def test_a_base_that_cannot_be_right_is_refused_before_its_weights_are_read(family: str) -> None:
    with pytest.raises(UserError, match=r"A base of type '\w+' .*: choose"):
        kernel_for(shape(family), Runtime(attn="eager"))


def test_auto_falls_back_to_eager_and_a_kernel_by_name_does_not() -> None:
    assert kernel_for(shape("gpt-oss"), Runtime(attn_fallback="eager")) == "eager"
    assert kernel_for(shape("Llama, SmolLM2"), Runtime(attn_fallback="eager")) == "sdpa"
    with pytest.raises(UserError, match="use --attn eager"):
        kernel_for(shape("gpt-oss"), Runtime())


def test_experts_count_as_far_as_a_token_visits_them() -> None:
    model = random_model(shape("Mixtral"), Runtime())
    experts = 4 * 3 * 32 * 48
    attention = 32 * (64 + 32 + 32) + 64 * 32
    assert flops.decoder_flops(model) == 2 * 4 * (attention + experts / 2 + 4 * 32)
    plain = random_model(shape("Llama, SmolLM2"), Runtime())
    assert flops.decoder_flops(plain) == flops.linear_flops(plain.config)


# --- stretched positions


@pytest.mark.parametrize("family", ["GLM-4", "GPT-NeoX, Pythia", "StableLM", "Phi-3", "Llama, SmolLM2"])
@pytest.mark.parametrize("kind", ["yarn", "linear", "ntk"])
def test_stretching_keeps_what_the_formula_does_not_name(family: str, kind: Any) -> None:
    config = text_config(shape(family))
    table = rope_table(config)
    assert rope_parameters(config, kind, 1) == table
    changed = rope_parameters(config, kind, 4)
    assert changed.get("partial_rotary_factor") == table.get("partial_rotary_factor")
    model = random_model(shape(family), Runtime())
    own, stretched = model.base_model.rotary_emb, stretched_rotary(model, kind, 4)
    assert stretched.inv_freq.shape == own.inv_freq.shape == (rotary_dim(config) // 2,)
    assert torch.equal(stretched_rotary(model, kind, 1).inv_freq, own.inv_freq)
    torch.testing.assert_close(stretched.inv_freq[-1], own.inv_freq[-1] / 4)


@pytest.mark.parametrize("family", ["Llama, dynamic NTK", "Phi-3, LongRoPE"])
def test_beyond_the_steady_length_a_read_is_refused_whatever_came_before(family: str, tmp_path: Path) -> None:
    folder = script.save(family, tmp_path)
    (tmp_path / "full.yaml").write_text(f"{{name: x, method: full, description: x, weights: {{source: {folder}}}}}")
    model = method("full").load(load_preset(str(tmp_path / "full.yaml")), Runtime())
    assert steady_length(model.model.config) == 32  # type: ignore[attr-defined]
    before = model.prefill([5] * 20).score(Query([6]), [7, 8])
    with pytest.raises(UserError, match="change beyond 32 tokens"):
        model.prefill([5] * 33)
    with pytest.raises(UserError, match="change beyond 32 tokens"):
        model.prefill([5] * 20).generate(Query([6]), 20)
    assert torch.equal(model.prefill([5] * 20).score(Query([6]), [7, 8]), before)


# --- logits that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [1, 2])
def test_generation_from_logits_that_are_not_finite_is_an_error(value: float, batch: int, tmp_path: Path) -> None:
    from evals import Request

    folder = script.save("Llama, SmolLM2", tmp_path)
    (tmp_path / "full.yaml").write_text(f"{{name: x, method: full, description: x, weights: {{source: {folder}}}}}")
    model = method("full").load(load_preset(str(tmp_path / "full.yaml")), Runtime())
    model.model.lm_head.weight.data[3] = value  # type: ignore[attr-defined]
    session = model.prefill([1, 2, 3])
    with pytest.raises(NotFiniteError, match="NaN or infinite"):
        model.generate_batch([Request(session, Query([4]), 2)] * batch)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("yarn", {"factor": float("inf"), "dynamic": False}),
        ("yarn", {"factor": float("nan"), "dynamic": False}),
        ("yarn", {"factor": 1e308, "dynamic": False}),
        ("truncated", {"window": -1}),
        ("full", {"block": 10**30}),
        ("streaming_llm", {"recent": 10**30}),
        ("cepe", {"chunk": 10**30}),
        ("longllama", {"mem_attention_grouping": [0, 5]}),
        ("activation_beacon", {"reserve": 10**30}),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, settings: dict[str, Any]) -> None:
    model = method(name).settings_model
    assert model is not None
    with pytest.raises(ValueError, match=next(iter(settings))):
        model.model_validate(settings)
