"""LongLLaMA: parity with the authors' code, its released layout, and a state that is taken back exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from released import write_sentencepiece
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from baselines.longllama.adapter import Count, LongLLaMA
from baselines.longllama.modeling import LongLlamaConfig, LongLlamaForCausalLM, attend
from evals.errors import UserError
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights

GOLDEN = folders.GOLDEN / "longllama"
TOLERANCE = 1e-4
LENGTHS = (6, 8, 9, 16, 24, 25, 50, 61)
IDS = [3 + (11 * i * i + 5 * i) % 120 for i in range(90)]


def fields() -> dict[str, Any]:
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        return json.loads(file.metadata()["config"])


def build(**changes: Any) -> LongLlamaForCausalLM:
    """The golden model (window 16, last context 8, memory in layers 1 and 2), with config fields changed."""
    model = LongLlamaForCausalLM(LongLlamaConfig(**fields() | changes)).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    return model


@pytest.fixture(scope="module")
def model() -> LongLlamaForCausalLM:
    return build()


@pytest.fixture(scope="module")
def prefill() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "prefill.safetensors")


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)


# --- parity


@pytest.mark.parametrize("length", LENGTHS)
@torch.inference_mode()
def test_logits_equal_the_released_code(model: LongLlamaForCausalLM, prefill: Any, length: int) -> None:
    state = model.new_state()
    logits = model.lm_head(model.read(prefill[f"L{length}.input_ids"], state))
    close(logits, prefill[f"L{length}.logits"])
    close(logits, prefill[f"L{length}.logits_use_cache_false"])
    assert state.local == min(length, 8)
    assert state.stored == max(length - 8, 0)
    state.flush()
    assert state.stored == prefill[f"L{length}.mem_len_use_cache_false"]


@pytest.mark.parametrize("length", [25, 50])
@torch.inference_mode()
def test_state_equals_the_released_code(model: LongLlamaForCausalLM, prefill: Any, length: int) -> None:
    state = model.new_state()
    model.read(prefill[f"L{length}.input_ids"], state)
    for i, layer in enumerate(state.layers):
        close(layer.values, prefill[f"L{length}.local.{i}.value"])
    for i in (1, 2):
        keys, values = state.layers[i].memory()
        close(keys, prefill[f"L{length}.mem.{i}.key_prerope"])
        close(values, prefill[f"L{length}.mem.{i}.value"])
        close(state.layers[i].raw, prefill[f"L{length}.local.{i}.key_prerope"])


@pytest.mark.parametrize("last", [1, 3, 16, 20])
@torch.inference_mode()
def test_last_context_length(model: LongLlamaForCausalLM, prefill: Any, last: int) -> None:
    close(model(prefill["L50.input_ids"], last_context_length=last), prefill[f"L50.logits_lcl{last}"])


@pytest.mark.parametrize("length", [5, 30])
@torch.inference_mode()
def test_generation_equals_the_released_code(model: LongLlamaForCausalLM, length: int) -> None:
    """40 tokens, in which the local cache overflows twice."""
    golden = {k.split(".")[1]: v for k, v in load_file(GOLDEN / "generate.safetensors").items() if f"L{length}." in k}
    state = model.new_state()
    hidden = model.read(golden["input_ids"], state, every_token=False)[:, -1:]
    tokens = []
    for step in range(40):
        logits = model.lm_head(hidden)
        close(logits[:, 0], golden["step_logits"][:, step])
        assert (state.local, state.stored) == (golden["local_len"][step], golden["mem_len"][step])
        tokens.append(int(logits.argmax()))
        hidden = model.append(torch.tensor([tokens[-1:]]), state)
    assert tokens == golden["generated"][0].tolist() == golden["generated_by_hf_generate"][0].tolist()


@torch.inference_mode()
def test_negative_controls(prefill: Any) -> None:
    """Without memory, with memory elsewhere, in one window: none of these may pass for the released model."""
    ids, wanted = prefill["L50.input_ids"], prefill["L50.logits"]
    for changes in (
        {"mem_layers": []},
        {"mem_layers": [3]},
        {"max_position_embeddings": 64, "last_context_length": 64},
    ):
        assert (build(**changes)(ids) - wanted).abs().max() > 1


@torch.inference_mode()
def test_memory_in_bfloat16_is_rounded_and_nothing_else_is(model: LongLlamaForCausalLM, prefill: Any) -> None:
    rounded = build(mem_dtype="bfloat16")
    ids = prefill["L50.input_ids"]
    difference = (rounded(ids) - model(ids)).abs().max()
    assert 1e-3 < difference < 0.2
    close(rounded(ids[:, :8]), model(ids[:, :8]), 0)


@torch.inference_mode()
def test_memory_is_rounded_alike_where_windows_are_only_remembered() -> None:
    model = build(mem_dtype="bfloat16")
    states = {every_token: model.new_state() for every_token in (True, False)}
    for every_token, state in states.items():
        model.read(torch.tensor([IDS[:50]]), state, every_token=every_token)
    for layer in model.config.mem_layers:
        for one, other in zip(*(state.layers[layer].memory() for state in states.values()), strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one, other)
            assert torch.equal(one, one.bfloat16().float())


# --- properties


@settings(max_examples=12, deadline=None)
@given(prompt=st.integers(1, 60), cuts=st.lists(st.integers(1, 22), min_size=1, max_size=4))
@torch.inference_mode()
def test_pieces_are_read_like_single_tokens(prompt: int, cuts: list[int]) -> None:
    model = build()
    ids = torch.tensor([IDS])
    one, many = model.new_state(), model.new_state(reserve=30)
    model.read(ids[:, :prompt], one)
    model.read(ids[:, :prompt], many)
    tokens = ids[:, : sum(cuts)]
    hidden = [model.append(token, one) for token in tokens.split(1, dim=1)]
    pieces = [model.append(piece, many) for piece in tokens.split(cuts, dim=1)]
    close(torch.cat(pieces, dim=1), torch.cat(hidden, dim=1))
    assert (one.local, one.stored, one.nbytes) == (many.local, many.stored, many.nbytes)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 80), last=st.integers(1, 16), layers=st.sets(st.integers(0, 3)))
@torch.inference_mode()
def test_what_reading_leaves_out_changes_nothing(length: int, last: int, layers: set[int]) -> None:
    """Windows that are only remembered stop at the last memory layer; state and last hidden states are the same."""
    model = build(mem_layers=sorted(layers))
    ids = torch.tensor([IDS[:length]])
    all_of_it, part = model.new_state(), model.new_state()
    whole = model.read(ids, all_of_it, last)
    short = model.read(ids, part, last, every_token=False)
    assert short.shape[1] == min(length, last)
    close(short, whole[:, -short.shape[1] :], 1e-5)
    close(model.append(torch.tensor([[7]]), part), model.append(torch.tensor([[7]]), all_of_it), 1e-5)


@settings(max_examples=20, deadline=None)
@given(
    heads=st.integers(1, 5),
    shared=st.integers(1, 3),
    queries=st.integers(1, 9),
    before=st.integers(0, 20),
    group=st.tuples(*[st.integers(1, 6)] * 2),
)
def test_grouping_changes_nothing(heads: int, shared: int, queries: int, before: int, group: tuple[int, int]) -> None:
    """heads: of keys, each read by `shared` heads of queries."""
    torch.manual_seed(heads + queries + before)
    q = torch.randn(2, heads * shared, queries, 8)
    k, v = torch.randn(2, 2, heads, before + queries, 8)
    close(attend(q, k, v, 0.3, group), attend(q, k, v, 0.3), 1e-5)
    k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(
        torch.ones(queries, before + queries).triu(before + 1).bool(), -torch.inf
    )
    close(attend(q, k, v, 0.3), scores.softmax(-1) @ v, 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there the causal flag replaces the mask")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 104, 128])
def test_attention_on_a_gpu_counts_from_the_end(dtype: torch.dtype, head_dim: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 4, 33, head_dim, device="cuda", dtype=dtype)
    k, v = torch.randn(2, 1, 4, 400, head_dim, device="cuda", dtype=dtype)
    wanted = attend(*(t.cpu().float() for t in (q, k[:, :, :133], v[:, :, :133])), 0.1)
    close(attend(q, k[:, :, :133], v[:, :, :133], 0.1).cpu().float(), wanted, 1e-4 if dtype == torch.float32 else 2e-2)


@torch.inference_mode()
def test_grouped_model_equals_ungrouped(model: LongLlamaForCausalLM, prefill: Any) -> None:
    close(build(mem_attention_grouping=(2, 5))(prefill["L50.input_ids"]), model(prefill["L50.input_ids"]))


@torch.inference_mode()
def test_shared_key_heads_equal_repeated_ones(prefill: Any) -> None:
    """No released checkpoint has them, but bases that are trained here do."""
    torch.manual_seed(0)
    grouped, full = (
        LongLlamaForCausalLM(LongLlamaConfig(**fields() | c)).eval() for c in ({"num_key_value_heads": 2}, {})
    )
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            weights[name] = torch.unflatten(weight, 0, (2, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    close(grouped(prefill["L50.input_ids"]), full(prefill["L50.input_ids"]))


@torch.inference_mode()
def test_batch_equals_single(model: LongLlamaForCausalLM) -> None:
    ids = torch.tensor([IDS[:45], IDS[45:]])
    close(model(ids), torch.cat([model(row[None]) for row in ids]))


def test_restore_is_exact_across_overflows(model: LongLlamaForCausalLM) -> None:
    state = model.new_state()
    with torch.inference_mode():
        model.read(torch.tensor([IDS[:30]]), state)
        saved, size = state.snapshot(), state.nbytes
        first = model.append(torch.tensor([IDS[30:34]]), state)
        state.restore(saved)
        model.append(torch.tensor([IDS[34:84]]), state)
        assert state.stored > 22
        assert state.nbytes > size
        state.restore(saved)
        assert (state.local, state.stored, state.nbytes) == (8, 22, size)
        assert torch.equal(model.append(torch.tensor([IDS[30:34]]), state), first)


# --- released layout

RELEASED_FIELDS = {
    "architectures": ["LongLlamaForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_longllama.LongLlamaConfig",
        "AutoModel": "modeling_longllama.LongLlamaModel",
        "AutoModelForCausalLM": "modeling_longllama.LongLlamaForCausalLM",
    },
    "model_type": "longllama",
    "gradient_checkpoint_every_ith": 1,
    "hidden_act": "silu",
    "rope_scaling": None,
    "torch_dtype": "float32",
    "transformers_version": "4.30.0",
    "use_cache": True,
}


def write_release(folder: Path, form: str) -> Path:
    """The golden model in the layout of the hub, rotary buffers included; its remote code would fail if it ran."""
    (folder / "config.json").write_text(json.dumps(fields() | RELEASED_FIELDS))
    (folder / "modeling_longllama.py").write_text("raise RuntimeError('remote code ran')\n")
    (folder / "configuration_longllama.py").write_text("raise RuntimeError('remote code ran')\n")
    weights = load_file(GOLDEN / "weights.safetensors")
    for layer in range(4):
        weights[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        names, index = sorted(weights), {}
        for i in (0, 1):
            shard = f"pytorch_model-{i + 1:05d}-of-00002.bin"
            torch.save({name: weights[name] for name in names[i::2]}, folder / shard)
            index |= dict.fromkeys(names[i::2], shard)
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
        (folder / "pytorch_model.bin.index.json").write_text(text)
    write_sentencepiece(folder, vocab_size=100, byte_fallback=False)
    return folder


def preset(source: str, **settings: Any) -> Preset:
    return Preset(name="tiny", method="longllama", description="", weights=Weights(source=source), settings=settings)


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_reads_the_released_layout(model: LongLlamaForCausalLM, tmp_path: Path, form: str) -> None:
    method = LongLLaMA.load(preset(str(write_release(tmp_path, form))), Runtime())
    assert method.fairness["mem_layers"] == [1, 2]
    assert method.fairness["window"] == 16
    read = method.model.state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in model.state_dict().items())
    close(method.prefill(IDS[:49]).score(Query(), [5]), _scores(model, IDS[:49])[5][None])


@torch.inference_mode()
def _scores(model: LongLlamaForCausalLM, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0, -1].log_softmax(-1)


def test_saved_model_is_read_again(model: LongLlamaForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "longllama"
    again = LongLlamaForCausalLM.from_pretrained(tmp_path)
    assert again.config.mem_layers == [1, 2]
    assert again.config.mem_dtype == "float32"
    ids = torch.tensor([IDS[:40]])
    with torch.inference_mode():
        close(again(ids), model(ids), 0)


@pytest.mark.parametrize(
    "changes",
    [{"mem_positionals": False}, {"mem_layers": [4]}],
    ids=lambda c: next(iter(c)),
)
def test_unknown_variants_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        LongLlamaForCausalLM(LongLlamaConfig(**fields() | changes))


# --- the method


def random_method(**overrides: Any) -> LongLLaMA:
    tiny = preset("nowhere", **overrides).model_copy(update={"shape": fields() | {"vocab_size": 258}})
    return LongLLaMA.load(tiny, Runtime(random_weights=True))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="more than its window of 16"):
        random_method(last_context_length=17)
    with pytest.raises(UserError, match="use --attn sdpa"):
        LongLLaMA.load(preset("nowhere"), Runtime(random_weights=True, attn="eager"))


@pytest.mark.parametrize("context", [0, 5, 8, 9, 40])
def test_cost_counts_the_state_and_what_is_read(context: int) -> None:
    method = random_method(last_context_length=6)
    session = method.prefill(IDS[:context])
    assert session.state_bytes == method.cost(context, 0).state_bytes
    per_token = 2 * 4 * 4 * 16 * 4
    longer, shorter = (method.cost(40, query).decode_bytes for query in (9, 8))
    assert longer - shorter == per_token


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("mem_layers", [[], [0], [1, 2], [3]])
@pytest.mark.parametrize("context", [0, 5, 41])
def test_cost_counts_what_the_matrices_do(
    kv_heads: int, mem_layers: list[int], context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All matrix products but attention, which the formula counts by the pairs that a causal kernel visits."""
    monkeypatch.setattr(Count, "_attention", lambda self, tokens, memory=0: 0.0)
    shape = fields() | {"vocab_size": 258, "mem_layers": mem_layers, "num_key_value_heads": kv_heads}
    tiny = preset("nowhere").model_copy(update={"shape": shape})
    method = LongLLaMA.load(tiny, Runtime(random_weights=True))
    with FlopCounterMode(display=False) as counter:
        method.prefill(IDS[:context]).generate(Query([4, 5, 6]), 1)
    counted = {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}
    assert method.cost(context, 3).prefill_flops == counted["aten.mm"]
