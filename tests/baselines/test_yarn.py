"""Stretched rotary embeddings: tables of the authors' code, the released layout, and the choice of the factor."""

from __future__ import annotations

import json
import math
from pathlib import Path

import folders
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.yarn import ScaledRope, factor_for, rope_parameters, stretched_rotary
from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights
from evals.methods.weights import byte_tokenizer

GOLDEN = load_file(folders.GOLDEN / "yarn" / "rope_tables.safetensors")
TABLES = ["llama2_8k", "llama2_64k", "llama2_128k", "mistral_64k", "mistral_128k", "tiny"]
TOLERANCE = 1e-4
SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
RUNTIME = Runtime(random_weights=True)
IDS = [(5 * i * i + i) % 250 for i in range(60)]


def load(shape: dict | None = None, **settings: object) -> ScaledRope:
    preset = Preset(
        name="tiny",
        method="yarn",
        description="",
        weights=Weights(source="nowhere"),
        settings=settings,
        shape=SHAPE | (shape or {}),
    )
    return ScaledRope.load(preset, RUNTIME)


def logits(model: ScaledRope, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.model(torch.tensor([ids])).logits[0]


# --- the authors' code


@pytest.mark.parametrize("name", TABLES)
def test_golden_tables(name: str) -> None:
    factor, trained, theta, dim = GOLDEN[f"{name}.spec"].tolist()
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=2 * int(dim),
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=int(trained),
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    rotary = stretched_rotary(LlamaForCausalLM(config), "yarn", factor)
    assert torch.equal(rotary.inv_freq, GOLDEN[f"{name}.inv_freq"])
    assert rotary.attention_scaling == pytest.approx(GOLDEN[f"{name}.mscale"].item(), abs=1e-12)
    cos, sin = rotary(torch.zeros(1), torch.arange(64)[None])
    torch.testing.assert_close(cos[0], GOLDEN[f"{name}.cos_0_63"], atol=1e-6, rtol=0)
    torch.testing.assert_close(sin[0], GOLDEN[f"{name}.sin_0_63"], atol=1e-6, rtol=0)


@torch.inference_mode()
def by_hand(model: LlamaForCausalLM, ids: list[int], cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Logits of a plain forward over the given tables of cos and sin (length, head_dim)."""
    config = model.config
    half = config.head_dim // 2

    def turned(x: torch.Tensor) -> torch.Tensor:  # (length, heads, head_dim) -> (heads, length, head_dim)
        x = x.transpose(0, 1)
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    x = model.model.embed_tokens(torch.tensor(ids))
    future = torch.ones(len(ids), len(ids)).triu(1).bool()
    for layer in model.model.layers:
        h = layer.input_layernorm(x)
        q, k, v = (getattr(layer.self_attn, f"{name}_proj")(h).view(len(ids), -1, config.head_dim) for name in "qkv")
        k, v = (t.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, dim=1) for t in (k, v))
        scores = turned(q) @ turned(k).transpose(1, 2) / math.sqrt(config.head_dim)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v.transpose(0, 1)
        x = x + layer.self_attn.o_proj(mixed.transpose(0, 1).flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x))


def test_model_uses_the_golden_table_and_no_other() -> None:
    cos, sin = (GOLDEN[f"tiny.{name}_0_63"][: len(IDS)] for name in ("cos", "sin"))
    model = load(rope="yarn", factor=4)
    wanted = by_hand(model.model, IDS, cos, sin)
    torch.testing.assert_close(logits(model, IDS), wanted, atol=TOLERANCE, rtol=0)
    for control in (load(rope="yarn", factor=1), load(rope="linear", factor=4), load(rope="ntk", factor=4)):
        assert (logits(control, IDS) - wanted).abs().max() > 0.1


# --- linear and NTK, from their formulas


@pytest.mark.parametrize("factor", [1.0, 2.0, 5.0])
def test_linear_and_ntk_formulas(factor: float) -> None:
    dim, theta = 16, 10000.0
    plain = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    model = load(rope="linear", factor=1).model
    linear = stretched_rotary(model, "linear", factor).inv_freq.double()
    torch.testing.assert_close(linear, plain / factor, atol=0, rtol=1e-6)
    ntk = stretched_rotary(model, "ntk", factor).inv_freq.double()
    assert ntk[0].item() == pytest.approx(1)
    assert ntk[-1].item() == pytest.approx(plain[-1].item() / factor, rel=1e-6)


def test_linear_stretch_is_compressed_positions() -> None:
    """Positions p of a stretched model are positions p / s of the base."""
    base, stretched = load(rope="linear", factor=1), load(rope="linear", factor=2)
    with torch.inference_mode():
        even = base.model(torch.tensor([IDS[:30]]), position_ids=torch.arange(0, 30)[None]).logits
        twice = stretched.model(torch.tensor([IDS[:30]]), position_ids=torch.arange(0, 60, 2)[None]).logits
    torch.testing.assert_close(even, twice, atol=TOLERANCE, rtol=0)


# --- factor by length


@given(st.integers(0, 10**6), st.integers(1, 10**4))
def test_factor_covers_the_length(length: int, window: int) -> None:
    factor = factor_for(length, window)
    assert factor >= 1
    assert length <= factor * window
    assert factor == 1 or length > (factor - 1) * window


@pytest.mark.parametrize("rope", ["yarn", "linear", "ntk"])
def test_dynamic_equals_the_static_model_of_its_factor(rope: str) -> None:
    dynamic, query, target = load(rope=rope), Query([7, 8]), [9, 10, 11]
    for length, factor in ((10, 1), (27, 1), (28, 2), (40, 2), (60, 3)):
        session = dynamic.prefill(IDS[:length])
        static = load(rope=rope, factor=factor)
        wanted = static.prefill(IDS[:length]).score(query, target)
        torch.testing.assert_close(session.score(query, target), wanted, atol=1e-5, rtol=0)
        assert session.trace() == {"factor": factor}


def test_a_longer_query_reads_again_and_back() -> None:
    dynamic, long = load(rope="yarn", dynamic=True), list(range(40))
    session, other = dynamic.prefill(IDS[:20]), dynamic.prefill(IDS[:20])
    first = session.score(Query([3]), [4])
    assert session.trace() == {"factor": 1}
    torch.testing.assert_close(session.score(Query(long), [4]), other.score(Query(long), [4]))
    assert session.trace() == {"factor": 2}
    assert other.trace() == {"factor": 2}
    torch.testing.assert_close(session.score(Query([3]), [4]), first)


# --- loading


def released_folder(folder: Path, rope: dict) -> LlamaForCausalLM:
    """A checkpoint as the YaRN authors released theirs: legacy rope fields, remote code, inv_freq among weights."""
    fields = {key: value for key, value in SHAPE.items() if key != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**fields)).eval()
    state = model.state_dict()
    for i in range(model.config.num_hidden_layers):
        state[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    torch.save(state, folder / "pytorch_model.bin")
    config = fields | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 128,
        "rope_scaling": rope,
        "auto_map": {
            "AutoConfig": "configuration_llama.LlamaConfig",
            "AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer(300).save_pretrained(folder)
    return model


def test_released_layout(tmp_path: Path) -> None:
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "finetuned": True}
    base = released_folder(tmp_path, rope)
    preset = presets.load_preset("yarn-7b-128k")
    model = ScaledRope.load(preset, Runtime(checkpoint=str(tmp_path)))
    cos, sin = (GOLDEN[f"tiny.{name}_0_63"][: len(IDS)] for name in ("cos", "sin"))
    torch.testing.assert_close(logits(model, IDS), by_hand(base, IDS, cos, sin), atol=TOLERANCE, rtol=0)
    assert model.fairness | {"rope": "yarn", "factor": 4.0, "trained": True} == model.fairness


def test_stretching_twice_is_refused(tmp_path: Path) -> None:
    released_folder(tmp_path, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})
    with pytest.raises(UserError, match="stretched already"):
        ScaledRope.load(presets.load_preset("linear-7b"), Runtime(checkpoint=str(tmp_path)))


@pytest.mark.parametrize(
    "settings",
    [{"dynamic": False}, {"rope": "yarn", "factor": 2, "dynamic": True}, {"rope": "released", "factor": 2}],
)
def test_one_factor_is_asked_for(settings: dict) -> None:
    with pytest.raises(UserError, match="factor"):
        load(**settings)


@pytest.mark.parametrize("name", [n for n in presets.names() if n.split("-")[0] in {"yarn", "linear", "ntk"}])
def test_presets_describe_what_they_load(name: str) -> None:
    preset = presets.load_preset(name)
    small = {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = preset.shape | small | {"num_key_value_heads": 1, "vocab_size": 300}
    if "layer_types" in shape:
        shape["layer_types"] = shape["layer_types"][-1:]
    model = ScaledRope.load(preset.model_copy(update={"shape": shape}), RUNTIME)
    window = shape["max_position_embeddings"]
    if preset.settings["rope"] == "released":
        assert model.max_context == window == model.fairness["window"]
        assert shape["rope_parameters"]["factor"] * 4096 == window
    else:
        assert model.max_context is None
        assert model.fairness["factor"] == "by length"
    missing = Runtime(offline=True)
    if preset.weights.source.startswith("hub:"):
        with pytest.raises(UserError, match=r"13(\.5)? GB.*hf download.*--checkpoint"):
            ScaledRope.load(preset, missing)


def test_factor_one_is_the_base() -> None:
    config = LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    for kind in ("yarn", "linear", "ntk"):
        assert rope_parameters(config, kind, 1) == config.rope_parameters
