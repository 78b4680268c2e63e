"""Activation Beacon: parity with the authors' code, exact rewinding, loading of the released layout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaConfig
from transformers.models.llama.modeling_llama import rotate_half

from baselines.activation_beacon.adapter import ActivationBeacon
from baselines.activation_beacon.cache import Fill, Layout
from baselines.activation_beacon.modeling import CLASSES, BeaconLlama, adapt_ratio, causal_attention, check_config
from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights
from evals.methods.weights import byte_tokenizer, shape_config

GOLDEN = folders.GOLDEN / "activation_beacon"
VARIANTS = {"r4": (4, 0), "r2": (2, 0), "r8_sink1": (8, 1)}
TOLERANCE = 1e-4


@cache
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "model.safetensors")


@cache
def reference_model(variant: str, attn: str = "sdpa") -> BeaconLlama:
    ratio, sink = VARIANTS[variant]
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        fields = json.loads(file.metadata()["config"])
    config = LlamaConfig(**fields | {"beacon_ratio": [ratio], "beacon_sink_size": sink})
    model = BeaconLlama._from_config(config, attn_implementation=attn).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    return model


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


def read(model: BeaconLlama, ids: torch.Tensor, pieces: list[int] | None = None) -> tuple[torch.Tensor, Any]:
    """Logits of all tokens, read in pieces of the given sizes, and the cache."""
    beacons = model.new_cache(model.config.beacon_ratio[0])
    with torch.inference_mode():
        hidden = torch.cat([model.read(part, beacons) for part in ids.split(pieces or ids.shape[1], 1)], 1)
        return model.lm_head(hidden), beacons


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [10, 16, 17, 50, 64])
def test_matches_the_authors_code(variant: str, length: int) -> None:
    g = {key.split(".", 2)[2]: v for key, v in golden().items() if key.startswith(f"{variant}.L{length}.")}
    ids = g["input_ids"]
    logits, beacons = read(reference_model(variant), ids)
    last = g["last_window_logits"]
    close(logits[:, -last.shape[1] :], last)
    close(F.cross_entropy(logits[0, :-1], ids[0, 1:]), g["loss"])
    sink, condensed, raw = g["memory_sizes_sink_beacon_raw"].tolist()
    if not condensed:  # there the authors hold the sink twice, in the window too; here the window holds it alone
        sink = 0
    assert beacons.fill.sizes == (sink, condensed, raw)
    if length == 50:
        layer, memory = beacons.layers[1], slice(sink, sink + condensed)
        close(layer.values[:, :, memory], g["layer1.beacon_value"])
        cos, sin = reference_model(variant).model.rotary_emb(last, torch.arange(memory.start, memory.stop)[None])
        keys = layer.keys[:, :, memory]
        close(keys * cos - rotate_half(keys) * sin, g["layer1.beacon_key_prerope"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_decodes_as_the_authors_code(variant: str) -> None:
    model, g = reference_model(variant), golden()
    generated = g[f"{variant}.decode.generated"]
    prompt = g[f"{variant}.decode.input_ids"]
    whole = torch.cat([prompt, generated[:, :-1]], dim=1)
    step_by_step, _ = read(model, whole, [prompt.shape[1], *[1] * (generated.shape[1] - 1)])
    close(step_by_step[:, -generated.shape[1] :], g[f"{variant}.decode.step_logits"])
    out = model.generate(prompt, max_new_tokens=generated.shape[1], do_sample=False, eos_token_id=None)
    assert torch.equal(out[:, prompt.shape[1] :], generated)


def test_negative_controls_differ() -> None:
    ids = golden()["r4.L50.input_ids"]
    logits, _ = read(reference_model("r4"), ids)
    full = golden()["control_full_attention.L50.logits"]
    assert (logits - full)[:, -2:].abs().max() > 1
    other, _ = read(reference_model("r2"), ids)
    assert (other - logits).abs().max() > 1


def test_kernels_agree() -> None:
    ids = golden()["r2.L64.input_ids"]
    close(read(reference_model("r2", "eager"), ids, [33, 31])[0], read(reference_model("r2"), ids)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash kernels need a CUDA GPU")
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flash_kernels_are_causal_from_the_lower_right(kv_heads: int) -> None:
    attn = reference_model("r4").model.layers[0].self_attn
    query = torch.randn(1, 4, 96, 64, device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn(1, kv_heads, 224, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    got = causal_attention(attn, query, key, value).float()
    mask = torch.ones(96, 224, dtype=torch.bool, device="cuda").tril(128)
    wide = (t.float() for t in (query, key, value))
    wanted = F.scaled_dot_product_attention(*wide, mask, scale=attn.scaling, enable_gqa=True)
    torch.testing.assert_close(got, wanted.transpose(1, 2), atol=3e-2, rtol=0)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
)
def test_pieces_do_not_matter_and_rewinding_is_exact(variant: str, pieces: list[int], more: list[int]) -> None:
    model = reference_model(variant)
    ids = torch.randint(3, 128, (2, sum(pieces) + sum(more)), generator=torch.manual_seed(sum(pieces)))
    context, rest = ids.split([sum(pieces), sum(more)], dim=1)
    logits, beacons = read(model, context, pieces)
    beacons.mark()
    before = [
        (s.keys[:, :, : beacons.fill.used].clone(), s.values[:, :, : beacons.fill.used].clone()) for s in beacons.layers
    ]
    staged = [layer.staged[:, :, : beacons.fill.staged].clone() for layer in beacons.layers]
    fill, size = beacons.fill, beacons.state_bytes
    with torch.inference_mode():
        answers = [model.lm_head(model.read(part, beacons)) for part in rest.split(more, dim=1)]
    whole, _ = read(model, ids)
    close(torch.cat([logits, *answers], dim=1), whole)
    with torch.inference_mode():
        beacons.rewind()
    assert beacons.fill == fill
    assert beacons.state_bytes == size
    for layer, (keys, values), kept in zip(beacons.layers, before, staged, strict=True):
        assert torch.equal(layer.keys[:, :, : fill.used], keys)
        assert torch.equal(layer.values[:, :, : fill.used], values)
        assert torch.equal(layer.staged[:, :, : fill.staged], kept)


@given(st.sampled_from([2, 4, 8]), st.integers(0, 2), st.integers(0, 99), st.integers(0, 99))
def test_fill_counts(ratio: int, sink: int, first: int, more: int) -> None:
    layout = Layout(window=16, ratio=ratio, sink=sink)
    fill = Fill(layout)
    for before, count in fill.pieces(first + more):
        fill = before.add(count)
    windows, rest = divmod(first + more, 16)
    assert fill.sizes == (sink if windows else 0, windows * 16 // ratio, rest + rest // ratio)
    assert Fill(layout).peak(first + more) >= fill.used


def test_unwanted_hidden_states_are_skipped_only() -> None:
    model, ids = reference_model("r4"), golden()["r4.L64.input_ids"][:, :50]
    whole, beacons = read(model, ids)
    few = model.new_cache(4)
    with torch.inference_mode():
        close(model.lm_head(model.read(ids, few, keep=1)), whole[:, -1:])
        assert model(ids, logits_to_keep=3).logits.shape == (1, 3, 128)
    for layer, other in zip(beacons.layers, few.layers, strict=True):
        close(layer.keys[:, :, : beacons.fill.used], other.keys[:, :, : few.fill.used])


def test_forward_refuses_what_it_cannot_do() -> None:
    model, ids = reference_model("r4"), golden()["r4.L17.input_ids"]
    with pytest.raises(ValueError, match="Padding"):
        model(ids, attention_mask=torch.zeros_like(ids))
    with pytest.raises(ValueError, match="does not divide"):
        model.new_cache(5)


# --- the adapter

TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "beacon_window": 16,
    "beacon_stride": 16,
    "beacon_attn": "full-coverage",
    "beacon_attend_prev": True,
    "beacon_pos": "interleave",
    "beacon_ratio": [2, 4, 8],
    "beacon_param": ["q", "k", "v"],
}
CONTEXT = [(7 * i * i + 3 * i) % 250 for i in range(70)]


def preset(source: str = "nowhere", **changes: Any) -> Preset:
    return Preset(
        name="tiny-beacon",
        method="activation_beacon",
        description="",
        weights=Weights(source=source),
        shape={"model_type": "llama", **TINY, **changes},
    )


@pytest.mark.parametrize("model_type", CLASSES)
def test_released_layout(model_type: str, tmp_path: Path) -> None:
    """A stock checkpoint plus beacon parameters under the released names, remote code named in its config."""
    made = ActivationBeacon.load(preset(model_type=model_type), Runtime(random_weights=True))
    names = {key for key in made.model.state_dict() if "beacon" in key}
    layers = {f"model.layers.{i}.self_attn.beacon_{p}_proj.weight" for i in range(2) for p in "qkv"}
    biases = {name.replace("weight", "bias") for name in layers} if model_type == "qwen2" else set()
    assert names == {"model.beacon_embed_tokens.weight"} | layers | biases
    made.model.save_pretrained(tmp_path)
    byte_tokenizer(300).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["beacon_window"] == 16
    config["architectures"] = [AutoConfig.for_model(model_type).__class__.__name__.replace("Config", "ForCausalLM")]
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_beacon.Missing"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = ActivationBeacon.load(preset(str(tmp_path)), Runtime())
    one, other = (m.prefill(CONTEXT).score(Query([1, 2]), [3, 4, 5]) for m in (made, loaded))
    assert torch.equal(one, other)
    assert loaded.fairness["trained"]
    assert not made.fairness["trained"]


def test_checkpoint_without_beacons_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match="beacon_window"):
        ActivationBeacon.load(preset(str(tiny_llama)), Runtime())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beacon_pos": "append"}, "beacon_pos='append'"),
        ({"beacon_attn": "step-expansion"}, "beacon_attn"),
        ({"beacon_param": ["q", "k", "v", "o"]}, "beacon_param"),
        ({"beacon_stride": 8}, "beacon_stride"),
        ({"beacon_ratio": [3]}, "does not divide"),
    ],
)
def test_other_variants_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ActivationBeacon.load(preset(**change), Runtime(random_weights=True))


def test_other_bases_and_ratios_are_refused() -> None:
    with pytest.raises(UserError, match="base of type 'gpt2'"):
        ActivationBeacon.load(preset(model_type="gpt2"), Runtime(random_weights=True))
    with pytest.raises(UserError, match="ratio=5"):
        ActivationBeacon.load(preset().override({"ratio": 5}), Runtime(random_weights=True))


def test_ratio_adapts_to_the_length() -> None:
    config = LlamaConfig(**TINY)  # covers (64 - 16) * ratio + 16 = 112, 208, 400 tokens
    assert [adapt_ratio(config, n, reserve=12) for n in (1, 100, 101, 196, 197, 9999)] == [2, 2, 4, 4, 8, 8]
    adaptive = ActivationBeacon.load(preset().override({"reserve": 50}), Runtime(random_weights=True))
    fixed = ActivationBeacon.load(preset().override({"ratio": 4, "reserve": 50}), Runtime(random_weights=True))
    assert (adaptive.max_context, fixed.max_context) == (400, 208)
    same, other = (
        [m.prefill(context).score(Query([1]), [2, 3]) for m in (adaptive, fixed)] for context in (CONTEXT, CONTEXT[:40])
    )
    assert torch.equal(*same)
    assert not torch.equal(*other)


def test_flops_by_formula_equal_those_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = ActivationBeacon.load(preset().override({"ratio": 4}), Runtime(random_weights=True, attn="eager"))
    with FlopCounterMode(display=False) as counter:
        model.prefill(CONTEXT).generate(Query([1, 2, 3]), 1)
    # 4 full windows, 6 context tokens and 3 of the query: (rows, layers that attend)
    passes = [(20, 1), (20, 1), (20, 1), (20, 1), (7, 2), (4, 2)]
    above_the_diagonal = sum(layers * rows * (rows - 1) / 2 for rows, layers in passes)
    # the eager kernel computes masked scores too: 4 heads of 8, two products of 2 FLOPs
    assert counter.get_total_flops() - 4 * 32 * above_the_diagonal == model.cost(70, 3).prefill_flops


@pytest.mark.parametrize("name", [name for name in presets.names() if name.startswith("beacon-")])
def test_presets(name: str) -> None:
    made = presets.load_preset(name)
    assert made.method == "activation_beacon"
    check_config(shape_config(made.shape))
