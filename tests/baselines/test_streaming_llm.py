"""StreamingLLM: parity with the authors' code, and with a slow second implementation where no file exists."""

from __future__ import annotations

import json
import math

import folders
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from not_empty import not_empty
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from baselines.streaming_llm.adapter import StreamingLLM, StreamingSession, StreamingSettings, check_base
from baselines.streaming_llm.sink_cache import Eviction, SinkCache
from evals.errors import UserError
from evals.methods.base import Query, Runtime, Stop
from evals.methods.presets import Preset, Weights
from sharedllm.nn.fused import rotate

GOLDEN = folders.GOLDEN / "streaming_llm"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """The golden base: 3 layers, 4 query and 2 key-value heads, random weights."""
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        fields = json.loads(file.metadata()["config"])
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
    model = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="sdpa")).eval()
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    return model


@torch.inference_mode()
def stream_logits(model: LlamaForCausalLM, ids: list[int], eviction: Eviction) -> torch.Tensor:
    """Logits (len(ids), vocabulary) of one stream."""
    session = StreamingSession(model, eviction, [])
    return session._logits(session._forward(torch.tensor([ids])))


# --- the authors' code


@pytest.mark.parametrize("length", [10, 17, 18, 48, 100])
@pytest.mark.parametrize(("sinks", "recent"), [(4, 12), (1, 7), (0, 16)])
def test_golden_token_by_token(model: LlamaForCausalLM, sinks: int, recent: int, length: int) -> None:
    golden = load_file(GOLDEN / "token_by_token.safetensors")
    case = f"s{sinks}_r{recent}_L{length}"
    ids = golden[f"{case}.input_ids"][0].tolist()
    eviction = Eviction(sinks, recent, 1)
    logits = stream_logits(model, ids[:-1], eviction)
    torch.testing.assert_close(logits, golden[f"{case}.logits"][0], atol=TOLERANCE, rtol=0)
    held = [eviction.held(seen) for seen in range(1, length)]
    assert held == golden[f"{case}.cache_len_after_step"].tolist()
    with torch.inference_mode():
        scores = StreamingSession(model, eviction, ids[:1]).score(Query(), ids[1:])
    torch.testing.assert_close(-scores, golden[f"{case}.nll"][0], atol=TOLERANCE, rtol=0)
    assert math.exp(-scores.mean()) == pytest.approx(golden[f"{case}.ppl"].item(), rel=1e-4)


@pytest.mark.parametrize(("sinks", "recent"), [(4, 12), (1, 7), (0, 16)])
def test_golden_final_cache(model: LlamaForCausalLM, sinks: int, recent: int) -> None:
    golden = load_file(GOLDEN / "token_by_token.safetensors")
    case = f"s{sinks}_r{recent}_L48"
    ids = golden[f"{case}.input_ids"][0].tolist()[:-1]
    with torch.inference_mode():
        cache = StreamingSession(model, Eviction(sinks, recent, 1), ids)._cache
    angle = -torch.arange(cache._start, cache._end)[:, None] * model.model.rotary_emb.inv_freq
    angle = torch.cat([angle, angle], dim=-1)
    for i, (keys, values) in enumerate(not_empty(zip(*cache.held, strict=True))):
        bare = rotate(keys, angle.cos(), angle.sin())
        torch.testing.assert_close(bare, golden[f"{case}.final_cache.{i}.key_prerope"], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(values, golden[f"{case}.final_cache.{i}.value"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("control", ["no_pos_shift", "full_attention", "window_off_by_one", "no_sink"])
def test_negative_controls_do_not_match(model: LlamaForCausalLM, control: str) -> None:
    golden = load_file(GOLDEN / "negative_controls.safetensors")
    logits = stream_logits(model, golden["input_ids"][0, :-1].tolist(), Eviction(4, 12, 1))
    assert (logits - golden[f"{control}.logits"][0]).abs().max() > 1.0


# --- a second implementation: no cache class, every forward by hand, keys kept without rotation


def slow_reference(
    model: LlamaForCausalLM, ids: list[int], sinks: int, recent: int, step: int, first: int | None = None
) -> torch.Tensor:
    """Logits (len(ids), vocabulary): `first` or `sinks + recent` tokens, then chunks of `step`, evict after each."""
    config, capacity = model.config, sinks + recent
    kept: list[tuple[torch.Tensor, torch.Tensor]] = [()] * config.num_hidden_layers  # type: ignore[list-item]
    starts = [0, *range(first or capacity, len(ids), step)]
    out = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        x = model.model.embed_tokens(torch.tensor(ids[start:end]))
        for i, layer in enumerate(model.model.layers):
            k, v = (t.view(len(x), -1, config.head_dim) for t in projections(layer, x, "k_proj", "v_proj"))
            if kept[i]:
                k, v = torch.cat([kept[i][0], k]), torch.cat([kept[i][1], v])
            x = x + layer.self_attn.o_proj(attend(layer, x, k, v, config))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            survivors = [j for j in range(len(k)) if j < sinks or j >= len(k) - recent]
            kept[i] = (k[survivors], v[survivors])
        out.append(model.lm_head(model.model.norm(x)))
    return torch.cat(out)


def projections(layer: torch.nn.Module, x: torch.Tensor, *names: str) -> list[torch.Tensor]:
    return [getattr(layer.self_attn, name)(layer.input_layernorm(x)) for name in names]


def attend(
    layer: torch.nn.Module, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, config: LlamaConfig
) -> torch.Tensor:
    """Plain causal attention of the last len(x) slots over all of them, keys rotated by their slot."""
    q = projections(layer, x, "q_proj")[0].view(len(x), -1, config.head_dim)
    first = len(k) - len(x)
    theta = config.rope_parameters["rope_theta"]
    heads = []
    for h in range(config.num_attention_heads):
        g = h * config.num_key_value_heads // config.num_attention_heads
        scores = turned(q[:, h], first, theta) @ turned(k[:, g], 0, theta).T / config.head_dim**0.5
        future = torch.arange(len(k)) > torch.arange(first, len(k))[:, None]
        heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, g])
    return torch.cat(heads, dim=-1)


def turned(x: torch.Tensor, first: int, theta: float) -> torch.Tensor:
    """Rotary embedding by complex multiplication: row i stands at position first + i."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(first, first + len(x))[:, None] * frequency
    z = torch.complex(x[:, :half].double(), x[:, half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1).to(x.dtype)


@pytest.mark.parametrize("length", [7, 16, 17, 37, 70])
@pytest.mark.parametrize(("sinks", "recent", "step"), [(4, 12, 16), (4, 12, 5), (4, 12, 1), (0, 8, 3), (2, 5, 20)])
@torch.inference_mode()
def test_chunked_equals_slow_reference(
    model: LlamaForCausalLM, sinks: int, recent: int, step: int, length: int
) -> None:
    ids = torch.randint(3, 128, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    logits = stream_logits(model, ids, Eviction(sinks, recent, step))
    torch.testing.assert_close(logits, slow_reference(model, ids, sinks, recent, step), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("first", [3, 9, 16, 31])
@pytest.mark.parametrize("step", [1, 5, 16])
@torch.inference_mode()
def test_the_first_forward_may_have_its_own_size(model: LlamaForCausalLM, first: int, step: int) -> None:
    ids = torch.randint(3, 128, (70,), generator=torch.Generator().manual_seed(first)).tolist()
    logits = stream_logits(model, ids, Eviction(4, 12, step, first))
    torch.testing.assert_close(logits, slow_reference(model, ids, 4, 12, step, first), atol=TOLERANCE, rtol=0)


def test_a_first_forward_is_a_setting_that_leaves_recorded_identities_alone() -> None:
    assert "first" not in StreamingSettings().model_dump(mode="json")
    settings = StreamingSettings.model_validate({"first": 2304})
    assert settings.model_dump(mode="json")["first"] == settings.eviction.opening == 2304
    with pytest.raises(UserError, match="first is 65, more than the 64 positions"):
        check_base(LlamaConfig(max_position_embeddings=64), Eviction(2, 6, 1, 65))


# --- a conversation


@pytest.mark.parametrize("step", [1, 5])
@torch.inference_mode()
def test_a_conversation_stays_in_the_sink_cache(model: LlamaForCausalLM, step: int) -> None:
    """Every answer is what one stream of all turns, read by the slow reference, would say token by token."""
    session = StreamingSession(model, Eviction(4, 12, step), [])
    stream: list[int] = []
    answers = []
    for turn in range(4):
        asked = torch.randint(3, 128, (7 + 3 * turn,), generator=torch.Generator().manual_seed(turn)).tolist()
        answers.append(session.say(asked, 6))
        stream += asked
        for token in not_empty(answers[-1]):
            assert int(slow_reference(model, stream, 4, 12, step)[-1].argmax()) == token
            stream.append(token)
    assert len(stream) > 3 * 16
    assert session._cache.seen == len(stream)
    alone = StreamingSession(model, Eviction(4, 12, step), []).say(asked, 6)
    assert alone != answers[-1]  # earlier turns count


def test_a_stop_id_ends_a_turn_and_is_not_kept(model: LlamaForCausalLM) -> None:
    first, second = (StreamingSession(model, Eviction(4, 12, 1), []) for _ in range(2))
    told = first.say([5, 6, 7], 6)
    stop = Stop(ids=frozenset({told[3]}))
    assert second.say([5, 6, 7], 6, stop) == told[: told.index(told[3])]
    assert second._cache.seen == 3 + told.index(told[3])


def test_regimes_differ(model: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 128, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    token, chunked = (stream_logits(model, ids, Eviction(4, 12, step)) for step in (1, 16))
    assert (token[:17] - chunked[:17]).abs().max() < TOLERANCE
    assert (token[17:] - chunked[17:]).abs().max() > 1.0


# --- eviction as arithmetic


@given(st.integers(0, 6), st.integers(1, 12), st.integers(1, 14), st.integers(0, 90), st.integers(0, 40))
def test_eviction_arithmetic(sinks: int, recent: int, step: int, seen: int, first: int) -> None:
    eviction = Eviction(sinks, recent, step, first or None)
    held = pairs = 0
    for token in range(seen):
        assert held == eviction.held(token)
        held += 1
        pairs += held
        if token + 1 >= eviction.opening and (token + 1 - eviction.opening) % step == 0:
            held = min(held, eviction.capacity)
    assert (held, pairs) == (eviction.held(seen), eviction.pairs(seen))
    assert eviction.held(seen) + eviction.room(seen) <= eviction.reach


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.sampled_from([1, 4, 7, 16]))
@settings(max_examples=20, deadline=None)
@torch.inference_mode()
def test_stream_does_not_depend_on_how_calls_cut_it(cuts: list[int], step: int) -> None:
    model = tiny("llama")
    ids = torch.randint(3, 90, (1, sum(cuts)), generator=torch.Generator().manual_seed(1))
    eviction = Eviction(2, 6, step)
    whole = StreamingSession(model, eviction, [])._forward(ids)
    session = StreamingSession(model, eviction, [])
    pieces = torch.cat([session._forward(piece) for piece in ids.split(cuts, dim=1)])
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


# --- bases


def tiny(family: str) -> torch.nn.Module:
    config = AutoConfig.for_model(
        family,
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@torch.inference_mode()
def test_families_shift_positions(family: str) -> None:
    """With one layer keys depend on their token alone, so the stream equals dense attention over what is left."""
    model = tiny(family)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.weight, std=0.5)
    torch.nn.init.normal_(model.model.layers[0].self_attn.k_proj.weight, std=0.5)
    ids = torch.randint(3, 96, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    streamed = stream_logits(model, ids, Eviction(3, 9, 1))[-1]
    left = [*ids[:3], *ids[-10:]]
    dense = model(torch.tensor([left])).logits[0, -1]
    torch.testing.assert_close(streamed, dense, atol=1e-5, rtol=0)
    sinkless = model(torch.tensor([ids[-10:]])).logits[0, -1]
    assert (streamed - sinkless).abs().max() > 1e-3


def test_unsuitable_bases_are_refused() -> None:
    eviction = StreamingSettings(recent=28, chunk=32).eviction
    check_base(LlamaConfig(max_position_embeddings=64), eviction)
    with pytest.raises(UserError, match="more than the 63 positions"):
        check_base(LlamaConfig(max_position_embeddings=63), eviction)
    with pytest.raises(UserError, match="gpt_neox"):
        check_base(AutoConfig.for_model("gpt_neox"), eviction)
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UserError, match="dynamic"):
        check_base(LlamaConfig(max_position_embeddings=64, rope_parameters=rope), eviction)


SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def preset(**settings: object) -> Preset:
    return Preset(
        name="tiny", method="streaming_llm", description="", weights=Weights(source="nowhere"),
        settings=settings, shape=SHAPE,
    )  # fmt: skip


def test_settings_are_checked_and_recorded() -> None:
    runtime = Runtime(random_weights=True)
    loaded = StreamingLLM.load(preset(sinks=2, recent=14, regime="token"), runtime)
    assert loaded.fairness["window"] == 16
    assert loaded.fairness["regime"] == "token"
    assert loaded.eviction == Eviction(2, 14, 1)
    with pytest.raises(UserError, match="regime"):
        StreamingLLM.load(preset(recent=14, regime="both"), runtime)


def test_memory_does_not_grow() -> None:
    loaded = StreamingLLM.load(preset(sinks=2, recent=14, chunk=8), Runtime(random_weights=True))
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head_dim, float32
    assert loaded.prefill([5] * 12).state_bytes == 12 * per_token
    assert loaded.prefill([5] * 19).state_bytes == 19 * per_token
    for length in (24, 27, 200):  # the first keys of the 2 sinks are kept besides
        assert loaded.prefill([5] * length).state_bytes == (16 + length % 8 + 1) * per_token


@torch.inference_mode()
def test_context_survives_a_query_that_evicts_it() -> None:
    loaded = StreamingLLM.load(preset(sinks=2, recent=6, chunk=5), Runtime(random_weights=True))
    for length in (0, 1, 7, 8, 12, 13, 30):
        context, long_query = list(range(length)), Query(list(range(100, 160)))
        session = loaded.prefill(context)
        before = session.state_bytes
        fresh = session.score(Query([3]), [4, 5, 6])
        session.generate(long_query, 5)
        assert session.state_bytes == before
        assert torch.equal(session.score(Query([3]), [4, 5, 6]), fresh)


@torch.inference_mode()
def test_the_window_moves_within_its_buffer(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot keeps its buffer; from then on one more serves all windows."""
    made: list[int] = []
    buffer = SinkCache._buffer
    monkeypatch.setattr(SinkCache, "_buffer", lambda self, slots: made.append(slots) or buffer(self, slots))
    session = StreamingSession(model, Eviction(2, 6, 8), list(range(3, 43)))
    assert made == [0, 16]
    before = session.score(Query([5]), [6, 7])
    made.clear()
    session.generate(Query(list(range(60))), 5)
    assert made == [16]
    assert torch.equal(session.score(Query([5]), [6, 7]), before)


def test_buffer_is_bounded(model: LlamaForCausalLM) -> None:
    eviction = Eviction(2, 6, 1)
    with torch.inference_mode():
        session = StreamingSession(model, eviction, list(range(3, 60)))
    assert session._cache._states.shape[-2] == 2 * eviction.capacity
