"""SharedLLM on disk: full models, adapters over their base, released checkpoints, pipelines, placement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from not_empty import not_empty
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel, pipeline

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM
from sharedllm.adapter import fingerprint, is_adapter, load_adapter, save_adapter
from sharedllm.convert import from_released

GOLDEN = folders.GOLDEN / "sharedllm"
METHOD: dict[str, Any] = {"chunk_size": 16, "ratios": [4, 2], "lower_layers": 2, "policy": "maxsim"}


def base_model(seed: int = 0, **fields: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    return AutoModelForCausalLM.from_config(LlamaConfig(**shape, **heads, **fields))


def shared_model(base: PreTrainedModel | None = None, **method: Any) -> SharedLLMForCausalLM:
    model = SharedLLMForCausalLM.from_base(base_model() if base is None else base, **{**METHOD, **method})
    torch.manual_seed(1)
    for parameter in model.cross_attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def logits(model: SharedLLMForCausalLM) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    running = torch.randint(64, (2, 7), generator=generator)
    chunks = torch.randint(64, (2, 3, model.config.chunk_size), generator=generator)
    return model(running, chunks, query_length=5).logits


# --- full models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": True}, {"own_lower": True}])
def test_a_full_model_comes_back(fields: dict[str, Any], tmp_path: Path) -> None:
    own = {name: fields[name] for name in fields if name == "own_lower"}
    tied = {name: fields[name] for name in fields if name == "tie_word_embeddings"}
    model = shared_model(base_model(**tied), **own)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for load in (SharedLLMForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        again = load(tmp_path)
        assert type(again) is SharedLLMForCausalLM
        assert again.config.ratios == [4, 2]
        assert torch.equal(logits(again), logits(model))
        head, embedding = again.get_output_embeddings().weight, again.get_input_embeddings().weight
        assert (head.data_ptr() == embedding.data_ptr()) == bool(tied)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (logits(half).float() - logits(model)).abs().max() < 0.5


def test_placement_by_accelerate(tmp_path: Path) -> None:
    model = shared_model()
    model.save_pretrained(tmp_path / "full")
    auto = AutoModelForCausalLM.from_pretrained(tmp_path / "full", device_map="auto")
    assert torch.equal(logits(auto), logits(model))
    parts = ["embed_tokens", "layers.0", "layers.1", "layers.2", "norm", "rotary_emb"]
    placed: dict[str, Any] = {f"base.model.{part}": "disk" if part[-1] in "12" else "cpu" for part in parts}
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "full",
        device_map={**placed, "base.lm_head": "cpu", "cross_attention": "disk"},
        offload_folder=tmp_path / "offload",
    )
    assert offloaded.cross_attention[0].q_proj.weight.device.type == "meta"
    assert torch.equal(logits(offloaded), logits(model))


def test_a_new_model_of_a_config_equals_its_base() -> None:
    model = AutoModelForCausalLM.from_config(SharedLLMConfig(base_config=base_model().config, **METHOD)).eval()
    text = torch.randint(64, (1, 9))
    with torch.no_grad():
        assert torch.equal(model(text, torch.randint(64, (1, 2, 16))).logits, model.base(text).logits)


def test_pipeline(tiny_llama: Path, tmp_path: Path) -> None:
    model = SharedLLMForCausalLM.from_base(str(tiny_llama), **METHOD)
    nn.init.normal_(model.cross_attention[0].o_proj.weight, std=0.5)
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    writer = pipeline("text-generation", model=str(tmp_path), tokenizer=tokenizer)
    usual = {"max_new_tokens": 5, "do_sample": False, "return_tensors": True}
    context = torch.randint(250, (1, 4, 16))
    with_context = writer("a question", context_ids=context, query_length=4, **usual)[0]["generated_token_ids"]
    ids = tokenizer("a question", return_tensors="pt")["input_ids"]
    expected = model.eval().generate(ids, context_ids=context, query_length=4, max_new_tokens=5, do_sample=False)
    assert list(with_context)[-5:] == expected[0, ids.shape[1] :].tolist()
    assert list(writer("a question", **usual)[0]["generated_token_ids"])[-5:] != list(with_context)[-5:]


# --- adapters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1])
def test_an_adapter_comes_back_over_its_base(start: int, tmp_path: Path) -> None:
    model = shared_model(injection_start=start)
    for parameter in model.base.parameters():
        parameter.requires_grad_(False)
    save_adapter(model, tmp_path, "tiny", torch.float32, shard_bytes=3000)
    assert is_adapter(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    names = {n for file in tmp_path.glob("*.safetensors") for n in load_file(file)}
    assert all(n.startswith("cross_attention.") for n in not_empty(names))
    base = base_model()
    again = load_adapter(tmp_path, base)
    assert not again.training
    assert torch.equal(logits(again), logits(model))
    assert again.base.model.layers[0].mlp.up_proj.weight is base.model.layers[0].mlp.up_proj.weight
    also = SharedLLMForCausalLM.from_pretrained(tmp_path, base=base_model(), policy="right")
    assert also.config.policy == "right"
    assert also.config.ratios == [4, 2]
    save_adapter(again, tmp_path / "again", "tiny", torch.float32)  # what is saved again is the adapter alone
    assert {n for f in (tmp_path / "again").glob("*.safetensors") for n in load_file(f)} == names


def test_an_adapter_finds_its_base_by_name(tiny_llama: Path, tmp_path: Path) -> None:
    model = SharedLLMForCausalLM.from_base(str(tiny_llama), **METHOD)
    for parameter in model.base.parameters():
        parameter.requires_grad_(False)
    save_adapter(model, tmp_path, str(tiny_llama))
    assert fingerprint(SharedLLMForCausalLM.from_pretrained(tmp_path).base) == fingerprint(model.base)


@pytest.mark.parametrize("group", ["top", "lower"])
def test_trained_layers_of_the_base_travel_with_the_adapter(group: str, tmp_path: Path) -> None:
    model = shared_model(own_lower=group == "lower")
    prefix = "base.model.layers.2." if group == "top" else "lower."
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("cross_attention.", prefix)))
        if name.startswith(prefix):
            nn.init.normal_(parameter, std=0.2)
    save_adapter(model, tmp_path, "tiny", torch.float32)
    again = load_adapter(tmp_path, base_model())
    assert torch.equal(logits(again), logits(model))
    trained = {n for n, p in again.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match="was trained on tiny: this base has other weights"):
        load_adapter(tmp_path, base_model(seed=3))


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    model = shared_model()
    for parameter in model.base.parameters():
        parameter.requires_grad_(False)
    save_adapter(model, tmp_path, "tiny")
    with pytest.raises(ValueError, match="was trained on tiny: this base has other weights"):
        load_adapter(tmp_path, base_model(seed=3))
    with pytest.raises(ValueError, match="lower_layers is 3, but the weights"):
        load_adapter(tmp_path, base_model(), lower_layers=3)
    with pytest.raises(ValueError, match="lower_layers is 1, but the weights"):
        load_adapter(tmp_path, base_model(), lower_layers=1)
    with pytest.raises(ValueError, match="no setting 'polcy'"):
        SharedLLMForCausalLM.from_pretrained(tmp_path, base=base_model(), polcy="right")
    with pytest.raises(ValueError, match="The base is loaded already: dtype is for a base that is named"):
        SharedLLMForCausalLM.from_pretrained(tmp_path, base=base_model(), dtype=torch.bfloat16)
    (file,) = tmp_path.glob("*.safetensors")
    weights = load_file(file)
    del weights["cross_attention.0.q_proj.weight"]
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"lacks cross_attention\.0\.q_proj\.weight"):
        load_adapter(tmp_path, base_model())


def test_the_fingerprint_names_a_checkpoint_not_a_precision() -> None:
    model = base_model()
    before = fingerprint(model)
    assert fingerprint(base_model().bfloat16()) == before
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert fingerprint(model) != before
    without = ["model.layers.1.mlp.up_proj.weight"]
    assert fingerprint(model, without) == fingerprint(base_model(), without)


def test_the_shipped_adapter_describes_itself() -> None:
    folder = folders.ROOT / "sharedllm" / "checkpoints" / "smollm2-135m"
    record = json.loads((folder / "sharedllm_adapter.json").read_text(encoding="utf-8"))
    files = sorted(folder.glob("*.safetensors"))
    names = {n: t for file in files for n, t in load_file(file).items()}
    layers = record["settings"]["lower_layers"] - record["settings"]["injection_start"]
    assert record["trained_base_parameters"] == []
    parts = ("norm.weight", "q_proj.weight", "o_proj.weight")
    assert set(names) == {f"cross_attention.{i}.{part}" for i in range(layers) for part in parts}
    assert all(t.dtype == torch.bfloat16 and t.isfinite().all() for t in names.values())
    assert sum(file.stat().st_size for file in files) <= 20.5e6
    assert all(names[f"cross_attention.{i}.o_proj.weight"].abs().max() > 0 for i in range(layers)), "it was trained"


# --- released checkpoints ---------------------------------------------------------------------------------------


def released() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    config = json.loads((GOLDEN / "cases.json").read_text())["cases"]["lm_n3_gqa"]
    base = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    return load_file(GOLDEN / "weights_gqa.safetensors"), {
        "base_config": base,
        "chunk_size": config["chunk"],
        "lower_layers": 2,
    }


def copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As released: the encoder is a second copy of the whole base."""
    copy = {f"encoder.{n.removeprefix('model.')}": t.clone() for n, t in weights.items() if n.startswith("model.")}
    return {**weights, **{n: t for n, t in copy.items() if "cross_attn" not in n}}


def test_a_released_copy_of_the_lower_layers_is_dropped_or_becomes_their_own() -> None:
    weights, settings = released()
    model = from_released(copied(weights), SharedLLMConfig(**settings))
    assert torch.equal(logits(model), logits(from_released(weights, SharedLLMConfig(**settings))))
    other = copied(weights)
    other["encoder.layers.1.mlp.up_proj.weight"] += 1
    with pytest.raises(
        ValueError, match=r"differs from its base at model\.layers\.1\.mlp\.up_proj.weight: load it with own"
    ):
        from_released(other, SharedLLMConfig(**settings))
    own = from_released(other, SharedLLMConfig(**settings, own_lower=True))
    expected = weights["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(own.lower[1].mlp.up_proj.weight, expected + 1)
    assert torch.equal(own.base.model.layers[1].mlp.up_proj.weight, expected)


def test_released_checkpoints_that_do_not_fit() -> None:
    weights, settings = released()
    lacking = {n: t for n, t in weights.items() if "layers.3.mlp" not in n}
    with pytest.raises(ValueError, match=r"does not fit: missing \['base\.model\.layers\.3\.mlp"):
        from_released(lacking, SharedLLMConfig(**settings))
    with pytest.raises(ValueError, match=r"unexpected \['base\.model\.layers\.0\.extra'\]"):
        from_released({**weights, "model.layers.0.extra": torch.zeros(1)}, SharedLLMConfig(**settings))
    with pytest.raises(ValueError, match="cross-attention in layer 1: set lower_layers to match"):
        from_released(weights, SharedLLMConfig(**{**settings, "lower_layers": 1}))
    with pytest.raises(ValueError, match=r"missing \['cross_attention\.2"):
        from_released(weights, SharedLLMConfig(**{**settings, "lower_layers": 3}))
    with pytest.raises(ValueError, match="no encoder"):
        from_released(weights, SharedLLMConfig(**settings, own_lower=True))
    other = copied(weights)
    other["encoder.embed_tokens.weight"] += 1
    with pytest.raises(ValueError, match="token embedding of its own"):
        from_released(other, SharedLLMConfig(**settings))
