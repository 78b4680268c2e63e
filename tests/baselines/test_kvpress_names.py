"""Names and settings of the presses of kvpress, and why some of them cannot take part."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("kvpress")

from presses import PRESSES
from tiny_press import CONTEXT, QUERY, TARGET, load, load_dense
from transformers import DynamicCache

from baselines.dense import FullAttention
from baselines.kvpress import library as library_module
from baselines.kvpress import names as names_module
from baselines.kvpress.build import Recipe
from baselines.kvpress.library import library, press_classes
from baselines.kvpress.names import REFUSED, canonical, parse
from baselines.kvpress.settings import OPTIONS, KVPressSettings
from evals.errors import UserError
from evals.methods import presets


@pytest.fixture(scope="module")
def dense() -> FullAttention:
    return load_dense()


def test_every_press_of_kvpress_is_usable_or_refused_with_a_reason() -> None:
    usable = {nest[0] for press in PRESSES for nest in parse(press)} | {"expectedattentionstats"}
    assert usable | REFUSED.keys() == press_classes().keys()
    assert not usable & REFUSED.keys()


def test_the_settings_are_the_arguments_of_the_presses() -> None:
    """But for the wrapped press, the ratio and `OWN`."""
    known = {name for name in press_classes() if name not in REFUSED}
    arguments = {key for name in known for key in inspect.signature(press_classes()[name]).parameters}
    arguments = {key for key in arguments if not key.startswith("_")} - {"press", "compression_ratio"}
    assert arguments - set(OPTIONS) == OWN
    assert set(OPTIONS) <= arguments


OWN = {"seed", "decoding", "structured", "dataset_name", "num_samples", "sample_seq_len"}
"""seed: --seed is it. decoding: masks while an answer is generated. structured: where it is off, kvpress leaves the
second reading of the context in the cache. The others name statistics on the hub."""


@pytest.mark.parametrize("spelling", ["ExpectedAttentionPress", "expected_attention", "Expected-Attention"])
def test_a_press_has_one_spelling(spelling: str) -> None:
    assert canonical(spelling) == "expectedattention"


@pytest.mark.parametrize(
    ("press", "settings", "sentence"),
    [
        ("snapvk", {}, "The setting press of tiny does not fit: Unknown press 'snapvk': did you mean snapkv?"),
        ("cam", {}, "cam cannot take part: it compresses while an answer is generated"),
        ("kvzap", {}, "kvzap cannot take part: it fetches parameters"),
        ("adakv", {}, "The press adakv wraps another one: write adakv:snapkv"),
        ("knorm:snapkv", {}, "The press knorm wraps no other"),
        ("adakv:kvzip", {}, "kvzip masks entries, so no press wraps it"),
        ("adakv:knorm+think", {}, "adakv does not stand in a chain"),
        ("block:think", {}, "The press block cannot be made of these settings"),
        ("think", {"ratio": 0.3}, "The press think has no ratio"),
        ("knorm", {"window_sise": 4}, "window_sise"),
        (
            "snapkv",
            {"block_size": 4},
            "Unknown setting of the press snapkv 'block_size': did you mean window_size",
        ),
        ("dms:knorm", {}, "The press dms needs --set threshold="),
        ("perlayercompression:knorm", {}, "needs --set compression_ratios="),
        ("expectedattentionstats", {}, "needs --set stats_folder="),
        ("knorm", {"ratio": 1}, "ratio"),
    ],
)
def test_bad_settings_are_one_sentence(press: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        load(press, **settings)
    assert "\n" not in str(error.value)
    assert "?." not in str(error.value)


def test_without_kvpress_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "version", lambda package: None)
    monkeypatch.setattr(names_module, "version", lambda package: None)
    library_module.library.cache_clear()
    library_module.press_classes.cache_clear()
    with pytest.raises(UserError, match="pip install --no-deps kvpress"):
        load("knorm")


def test_a_base_with_other_layers_is_refused() -> None:
    with pytest.raises(UserError, match="bases of type llama, mistral, qwen2, qwen3 without sliding windows"):
        load("knorm", {"model_type": "mistral", "sliding_window": 20})


@pytest.mark.parametrize("name", [name for name in presets.names() if presets.load_preset(name).method == "kvpress"])
def test_a_preset_names_a_press(name: str) -> None:
    preset = presets.load_preset(name)
    recipe = Recipe(KVPressSettings.of(preset))
    assert recipe.arguments["ratio"] == 0.5
    assert name.startswith(("kvpress-", f"{recipe.settings.press}-"))


# --- why some presses cannot take part


@pytest.mark.parametrize("press", ["decoding", "cam", "compressionratiodecoding", "prefilldecoding"])
def test_a_press_that_compresses_answers_depends_on_how_they_are_cut(press: str, dense: FullAttention) -> None:
    kv, model, answers = library(), dense.model, []
    for step in (1, 12):
        limits = {"target_compression_ratio": 0.6} if press == "compressionratiodecoding" else {"target_size": 20}
        cls = kv.DecodingPress if press == "prefilldecoding" else press_classes()[press]
        made = cls(base_press=kv.KnormPress(), compression_interval=2, **limits)
        made = kv.PrefillDecodingPress(decoding_press=made) if press == "prefilldecoding" else made
        cache, following = DynamicCache(), torch.tensor([[*QUERY.ids, *TARGET, 7, 8]])
        torch.manual_seed(0)
        with torch.no_grad(), made(model):
            ids = torch.tensor([CONTEXT])
            model.model(input_ids=ids, past_key_values=cache, cache_position=torch.arange(45))
            for at in range(0, 12, step):
                position = torch.arange(45 + at, 45 + at + step)
                out = model(
                    input_ids=following[:, at : at + step],
                    past_key_values=cache,
                    position_ids=position[None],
                    cache_position=position,
                )
        answers.append(out.logits[0, -1])
    for layer in model.model.layers:
        del layer.self_attn.rotary_emb
    assert (answers[0] - answers[1]).abs().max() > 0.1


def test_finch_wants_a_token_of_its_own(dense: FullAttention) -> None:
    with pytest.raises(ValueError, match="No delimiter token ID"), press_classes()["finch"](0.5)(dense.model):
        pass


@pytest.mark.parametrize(
    ("press", "asked"),
    [
        ("duoattention", "Checkpoint org/base not in"),
        ("fastkvzip", "gates for the given model are not released"),
        ("kvzap", "nvidia/KVzap-mlp-base"),
        ("lukv", "No LU-KV budget curve found for model='org/base'"),
        ("qfilter", "nthngdy/base_qfilt"),
        ("restorekv", "higokri/RestoreKV-base"),
    ],
)
def test_a_press_that_fetches_asks_for_the_name_of_the_base(
    press: str, asked: str, dense: FullAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str, *rest: object, **more: object) -> None:
        raise LookupError(name)

    modules = sys.modules
    monkeypatch.setattr(modules["kvpress.presses.kvzap_press"].KVzapModel, "from_pretrained", fetch)
    monkeypatch.setattr(modules["kvpress.presses.qfilter_press"].QFilters, "from_pretrained", fetch)
    monkeypatch.setattr(modules["kvpress.presses.restorekv_press"], "hf_hub_download", fetch)
    monkeypatch.setattr(modules["kvpress.presses.fastkvzip_press"].AutoConfig, "from_pretrained", fetch)
    monkeypatch.setattr(dense.model.config, "_name_or_path", "org/base")
    with pytest.raises((LookupError, AssertionError, RuntimeError), match=re.escape(asked)):
        press_classes()[press]().post_init_from_model(dense.model)
