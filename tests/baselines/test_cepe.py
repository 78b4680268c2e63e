"""CEPE: parity with the authors' code, the released layout, and the split between encoder and decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from released import write_sentencepiece
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.cepe.adapter import CEPE, CEPESettings, overflow_tokens
from baselines.cepe.encoder import Encoder
from baselines.cepe.modeling import CEPEForCausalLM, EncodedContext
from evals.errors import UserError
from evals.methods import flops
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights, load_preset, names
from evals.methods.weights import byte_tokenizer
from evals.tasks.perplexity.settings import PerplexitySettings

GOLDEN = folders.GOLDEN / "cepe"
TOLERANCE = 1e-4
PREFILL = [f"k{k}_L{length}" for k in (1, 3, 6) for length in (1, 5, 20)]


def fields() -> dict[str, Any]:
    """The golden config in the released form: Llama's fields, CEPE's fields, the encoder's config inside."""
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    return json.loads(metadata["decoder_config"]) | {"encoder_config": json.loads(metadata["encoder_config"])}


@pytest.fixture(scope="module")
def model() -> CEPEForCausalLM:
    model = CEPEForCausalLM(LlamaConfig(**fields())).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(GOLDEN / f"{name}.safetensors") for name in ("prefill", "padded", "negative_controls")}


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def logits(model: CEPEForCausalLM, ids: torch.Tensor, context: EncodedContext | None = None, **kwargs: Any) -> Any:
    return model(input_ids=ids, context=context, **kwargs).logits


# --- parity


@pytest.mark.parametrize("case", PREFILL)
@pytest.mark.parametrize("form", ["ids", "states", "kv"])
def test_logits_equal_the_released_code(model: CEPEForCausalLM, golden: Any, case: str, form: str) -> None:
    """In the golden model 20 query tokens attend to the states themselves; `kv` takes the other path."""
    data = {key.split(".")[1]: value for key, value in golden["prefill"].items() if key.startswith(f"{case}.")}
    with torch.inference_mode():
        encoded = model.encode(data["encoder_input_ids"], block=4)
        context = {"ids": None, "states": encoded, "kv": model.project(encoded)}[form]
    chunks = data["encoder_input_ids"] if form == "ids" else None
    got = logits(model, data["input_ids"], context, encoder_input_ids=chunks)
    close(got, data["logits"])
    if "loss_last8" in data:
        close(encoded.states, data["encoder_hidden_states"])
        nll = torch.nn.functional.cross_entropy(got[:, -9:-1].flatten(0, 1), data["input_ids"][:, -8:].flatten())
        close(nll, data["loss_last8"])


def test_many_queries_project_the_states(model: CEPEForCausalLM, golden: Any) -> None:
    attention = model.model.layers[0].cross_attn
    assert attention.absorbs(31)
    assert not attention.absorbs(32)
    ids = golden["negative_controls"]["input_ids"].repeat(1, 2)
    with torch.inference_mode():
        context = model.encode(golden["negative_controls"]["encoder_input_ids"])
        close(logits(model, ids, context), logits(model, ids, model.project(context)))
        close(logits(model, ids, context)[:, :31], logits(model, ids[:, :31], context))


def test_without_context_it_is_the_released_code(model: CEPEForCausalLM, golden: Any) -> None:
    data = golden["prefill"]
    close(logits(model, data["no_context.input_ids"]), data["no_context.logits"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["states", "kv"])
def test_padded_chunks(model: CEPEForCausalLM, golden: Any, side: str, form: str) -> None:
    data = golden["padded"]
    with torch.inference_mode():
        context = model.encode(data[f"{side}.encoder_input_ids"], data[f"{side}.encoder_attention_mask"])
        context = model.project(context) if form == "kv" else context
    close(logits(model, data["input_ids"], context), data[f"{side}.logits"])


def test_left_padded_decoder(model: CEPEForCausalLM, golden: Any) -> None:
    data = golden["padded"]
    arguments = {key: data[f"decpad.{key}"] for key in ("attention_mask", "position_ids", "encoder_input_ids")}
    real = data["decpad.attention_mask"].bool()
    close(logits(model, data["input_ids"], **arguments)[real], data["decpad.logits"][real])


def test_negative_controls_differ_and_chunk_order_does_not_matter(model: CEPEForCausalLM, golden: Any) -> None:
    data = golden["negative_controls"]
    got = logits(model, data["input_ids"], encoder_input_ids=data["encoder_input_ids"])
    for control in ("reference", "chunk_order_reversed"):
        close(got, data[f"{control}.logits"])
    close(logits(model, data["input_ids"], encoder_input_ids=data["encoder_input_ids"].flip(1)), got)
    for control in ("no_context", "chunks_concatenated_as_one", "causal_encoder"):
        assert (got - data[f"{control}.logits"]).abs().max() > 1


def test_direction_of_the_encoder_is_not_read_from_the_file(golden: Any) -> None:
    """The released key is unknown to transformers 5; a config that lacks it must not give a causal encoder."""
    config = fields()
    config["encoder_config"] = {k: v for k, v in config["encoder_config"].items() if k != "is_decoder"}
    model = CEPEForCausalLM(LlamaConfig(**config)).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    data = golden["negative_controls"]
    close(
        logits(model, data["input_ids"], encoder_input_ids=data["encoder_input_ids"]),
        data["reference.logits"],
    )


# --- variants of the model


def small(**changes: Any) -> CEPEForCausalLM:
    torch.manual_seed(0)
    return CEPEForCausalLM(LlamaConfig(**fields() | {"initializer_range": 0.3} | changes)).eval()


@pytest.mark.parametrize("form", ["states", "kv"])
def test_grouped_queries_equal_repeated_heads(golden: Any, form: str) -> None:
    grouped, full = small(num_key_value_heads=2), small()
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if name.startswith("model.") and name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.unflatten(0, (2, -1)).repeat_interleave(2, dim=0)
            weights[name] = heads.flatten(0, 1)
    full.load_state_dict(weights)
    ids, chunks = (golden["prefill"][f"k3_L20.{key}"] for key in ("input_ids", "encoder_input_ids"))
    with torch.inference_mode():
        context = grouped.encode(chunks)
        wanted = logits(full, ids, full.project(full.encode(chunks)))
        close(logits(grouped, ids, grouped.project(context) if form == "kv" else context), wanted)


def test_cross_attention_in_the_top_layers_only(golden: Any) -> None:
    """The same as in all layers with an output of zero below."""
    top, full = small(num_cross_attn_layers=1), small()
    assert [hasattr(layer, "cross_attn") for layer in top.model.layers] == [False, False, True]
    full.load_state_dict(top.state_dict(), strict=False)
    for layer in full.model.layers[:2]:
        torch.nn.init.zeros_(layer.cross_attn.o_proj.weight)
    ids, chunks = (golden["prefill"][f"k3_L5.{key}"] for key in ("input_ids", "encoder_input_ids"))
    close(logits(top, ids, encoder_input_ids=chunks), logits(full, ids, encoder_input_ids=chunks))


def test_generate_equals_uncached_steps_and_batch_equals_single(model: CEPEForCausalLM, golden: Any) -> None:
    ids, chunks = (golden["prefill"][f"k3_L20.{key}"] for key in ("input_ids", "encoder_input_ids"))
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    batch = model.generate(ids, encoder_input_ids=chunks, **options)
    for row in range(2):
        single = model.generate(ids[row : row + 1], encoder_input_ids=chunks[row : row + 1], **options)
        assert torch.equal(single[0], batch[row])
        steps = ids[row : row + 1]
        for _ in range(10):
            scores = logits(model, steps, encoder_input_ids=chunks[row : row + 1])[:, -1].clone()
            scores[:, 2] = -torch.inf  # the end token, which min_new_tokens forbids
            steps = torch.cat([steps, scores.argmax(-1, keepdim=True)], dim=1)
        assert torch.equal(steps[0], batch[row])


# --- released layout

TRAINING_FIELDS = {  # what the authors' training script leaves in config.json
    "architectures": ["LlamaForCausalContextLM"],
    "model_type": "llama",
    "is_decoder": True,
    "train_encoder": True,
    "encode_mode": "context_only",
    "train_batch_mode": "None",
    "offload_hidden_states": False,
    "lm_loss_cof": 1.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.1",
    "rope_scaling": None,
}


def write_release(folder: Path, form: str, leave_out: Sequence[str] = ()) -> Path:
    """The golden model in the layout of the hub: config.json, two shards of weights, a tokenizer."""
    config = fields() | TRAINING_FIELDS
    config["encoder_config"] |= {"model_type": "llama", "_name_or_path": "encoder", "max_length": 20, "top_k": 50}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in leave_out}))
    weights = load_file(GOLDEN / "weights.safetensors")
    names = sorted(weights)
    shards = {f"{form}-00001-of-00002": names[::2], f"{form}-00002-of-00002": names[1::2]}
    suffix = "bin" if form == "pytorch_model" else "safetensors"
    for shard, keys in shards.items():
        part = {key: weights[key] for key in keys}
        if suffix == "bin":
            torch.save(part, folder / f"{shard}.bin")
        else:
            save_file(part, folder / f"{shard}.safetensors", {"format": "pt"})
    index = {key: f"{shard}.{suffix}" for shard, keys in shards.items() for key in keys}
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / f"{form}.{suffix}.index.json").write_text(text)
    write_sentencepiece(folder, vocab_size=100, byte_fallback=False)
    return folder


@pytest.mark.parametrize("form", ["pytorch_model", "model"])
def test_reads_the_released_layout(model: CEPEForCausalLM, golden: Any, tmp_path: Path, form: str) -> None:
    folder = write_release(tmp_path, form)
    read, info = CEPEForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert read.state_dict().keys() == load_file(GOLDEN / "weights.safetensors").keys()
    data = golden["negative_controls"]
    close(logits(read, data["input_ids"], encoder_input_ids=data["encoder_input_ids"]), data["reference.logits"])
    method = CEPE.load(preset(str(folder), window=60, chunk=8), Runtime())
    assert method.prefill(list(range(3, 100))).score(Query([5]), [6, 7]).isfinite().all()


def test_saved_model_is_read_again(model: CEPEForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = CEPEForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def preset(source: str, **settings: Any) -> Preset:
    return Preset(name="tiny", method="cepe", description="", weights=Weights(source=source), settings=settings)


def test_a_plain_llama_is_refused(tmp_path: Path) -> None:
    write_release(tmp_path, "model", leave_out=["encoder_config"])
    with pytest.raises(UserError, match="not a CEPE model"):
        CEPE.load(preset(str(tmp_path)), Runtime())


def test_a_checkpoint_without_its_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_release(tmp_path, "model")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in folder.glob("model-*.safetensors"):
        kept = {k: v for k, v in load_file(shard).items() if not k.startswith("encoder.norm")}
        save_file(kept, shard, {"format": "pt"})
    index["weight_map"].pop("encoder.norm.weight")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"lacks encoder\.norm\.weight"):
        CEPE.load(preset(str(folder), window=60, chunk=8), Runtime())


@pytest.mark.parametrize("changes", [{"num_cross_attn_hidden_states": 3}, {"encoder_hidden_size": 16}])
def test_unknown_variants_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        small(**changes)


# --- the method

SETTINGS = {"window": 32, "chunk": 8, "room": 16}
IDS = [3 + (11 * i * i + 5 * i) % 120 for i in range(90)]


def method(model: CEPEForCausalLM, **changes: Any) -> CEPE:
    settings = CEPESettings(**SETTINGS | changes)
    return CEPE(
        name="tiny",
        tokenizer=byte_tokenizer(258),
        device=model.device,
        dtype=model.dtype,
        model=model,
        settings=settings,
        reader=Encoder(model, settings.chunk, settings.encode_block, graphs=not settings.eager_reads),
    )


def test_official_split() -> None:
    """T tokens of which the last 256 are scored: T - 4096 in the encoder, 4096 in the decoder."""
    for total in (4096, 8192, 32768, 131072):
        assert overflow_tokens(CEPESettings(), 0, total - 256, 256) == total - 4096


def test_every_preset_has_room_for_what_perplexity_scores() -> None:
    chosen = [preset for name in names() if (preset := load_preset(name)).method == "cepe"]
    assert len(chosen) == 3
    for preset in chosen:
        assert overflow_tokens(CEPESettings.of(preset), 0, 6144, PerplexitySettings().running) < 6144


@pytest.mark.parametrize("cache_cross", ["states", "kv"])
@pytest.mark.parametrize("context", [33, 40, 75])
def test_scores_are_those_of_the_split(model: CEPEForCausalLM, cache_cross: str, context: int) -> None:
    """16 tokens of room in a window of 32, a BOS: 15 context tokens in the decoder, the rest in chunks of 8."""
    session = method(model, cache_cross=cache_cross).prefill(IDS[:context], [1])
    query, target = Query([4, 5, 6]), [7, 8, 9, 10]
    got = session.score(query, target)
    overflow = context - 15
    assert session.trace() == {"encoder_tokens": overflow, "decoder_tokens": 15}
    pieces = [torch.tensor(IDS[i : min(i + 8, overflow)])[None, None] for i in range(0, overflow, 8)]
    with torch.inference_mode():
        states = torch.cat([model.encode(piece).states for piece in pieces], dim=1)
    ids = torch.tensor([[1, *IDS[overflow:context], *query.ids, *target]])
    wanted = logits(model, ids, EncodedContext(states)).log_softmax(-1)[0, -5:-1]
    close(got, wanted.gather(1, torch.tensor(target)[:, None])[:, 0])


def test_within_the_window_it_is_llama(model: CEPEForCausalLM) -> None:
    dense = LlamaForCausalLM(model.config).eval()
    dense.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "cross_attn" not in k and not k.startswith("encoder.")}
    )
    session = method(model).prefill(IDS[:15], [1])
    got = session.score(Query([4]), [7, 8])
    assert session.trace()["encoder_tokens"] == 0
    with torch.inference_mode():
        scores = dense(torch.tensor([[1, *IDS[:15], 4, 7]])).logits.log_softmax(-1)[0, -2:]
    close(got, torch.stack([scores[0, 7], scores[1, 8]]))


def test_a_long_answer_moves_the_split_and_leaves_no_trace(model: CEPEForCausalLM) -> None:
    session = method(model).prefill(IDS[:60])
    before = session.score(Query([4]), [7, 8])
    assert session.trace()["decoder_tokens"] == 16
    session.generate(Query([4]), 18)
    assert session.trace()["decoder_tokens"] == 1
    assert torch.equal(session.score(Query([4]), [7, 8]), before)


def test_a_query_beyond_the_decoder_is_refused(model: CEPEForCausalLM) -> None:
    with pytest.raises(UserError, match="take 33 of the 32 tokens"):
        method(model).prefill(IDS[:60], [1]).generate(Query(IDS[:28]), 4)


@pytest.mark.parametrize("changes", [{"window": 65}, {"chunk": 33}])
def test_sizes_beyond_the_positions_are_refused(changes: dict[str, int]) -> None:
    tiny = preset("nowhere", **changes).model_copy(update={"shape": fields() | {"vocab_size": 258}})
    with pytest.raises(UserError, match="positions: lower"):
        CEPE.load(tiny, Runtime(random_weights=True))


def test_states_take_less_memory_than_keys_and_values(model: CEPEForCausalLM) -> None:
    sizes = {}
    for form in ("states", "kv"):
        session = method(model, cache_cross=form).prefill(IDS)
        session.generate(Query([4]), 1)
        sizes[form] = session.state_bytes
    cache = 16 * 3 * 2 * 64 * 4
    assert sizes == {"states": cache + 80 * 32 * 4, "kv": cache + 74 * 3 * 2 * 64 * 4}  # 74 in rows of 8


@pytest.mark.parametrize("context", [0, 9, 16, 40])
@pytest.mark.parametrize("cache_cross", ["states", "kv"])
def test_cost_counts_what_the_matrices_do(
    model: CEPEForCausalLM, context: int, cache_cross: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All matrix products but those of fused attention: self-attention and, over keys and values, the cross one."""
    monkeypatch.setattr(flops, "attention_flops", lambda config, pairs: 0.0)
    tiny = method(model, cache_cross=cache_cross)
    with FlopCounterMode(display=False) as counter:
        tiny.prefill(IDS[:context]).generate(Query([4, 5, 6]), 1)
    counted = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    encoded = max(context - 16, 0)
    fused = 4 * 3 * 64 * (16 + 3) * encoded if cache_cross == "kv" else 0
    products = counted["aten.mm"] + counted.get("aten.bmm", 0) + fused
    # transformers 5.3 makes its rotary angles with a tiny product of their own
    assert tiny.cost(context, 3).prefill_flops == pytest.approx(products, rel=1e-3)


@pytest.mark.parametrize("tokens", [1, 8, 13, 16])
def test_states_are_held_in_whole_rows_that_change_nothing(model: CEPEForCausalLM, tokens: int) -> None:
    context = torch.tensor([IDS[:tokens]])
    with torch.inference_mode():
        encoded = model.encode_text(context, 8)
        assert encoded.states is not None and encoded.states.shape[1] == tokens
        assert encoded.aligned is not None and encoded.aligned.shape[1] % 8 == 0
        assert encoded.aligned.shape[1] - tokens < 8
        ids = torch.tensor([[4, 5]])
        close(logits(model, ids, encoded), logits(model, ids, EncodedContext(encoded.states)))
