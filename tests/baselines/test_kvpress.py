"""Presses of kvpress: the same numbers as the package used by hand, on the context alone, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from not_empty import not_empty

pytest.importorskip("kvpress")

from folders import ROOT
from presses import NOTHING, PRESSES
from tiny_press import CONTEXT, PREFIX, QUERY, TARGET, by_hand, load, load_dense
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from baselines.dense import FullAttention
from baselines.kvpress.adapter import KVPress
from baselines.kvpress.context_only import Shifted
from baselines.kvpress.library import library, press_classes
from evals.errors import UserError
from evals.methods import flops
from evals.methods.presets import Preset, Weights


@pytest.fixture(scope="module")
def dense() -> FullAttention:
    return load_dense()


@pytest.mark.parametrize("press", PRESSES)
def test_scores_are_those_of_kvpress_used_by_hand(press: str, tiny_llama, patched_attention) -> None:
    method = load(press, **PRESSES[press])
    method.model.config.name_or_path = str(tiny_llama)  # where kvpress finds KVzip's tokenizer
    torch.testing.assert_close(method.prefill(CONTEXT).score(QUERY, TARGET), by_hand(method), atol=1e-4, rtol=0)


@pytest.mark.parametrize("press", PRESSES)
def test_a_press_that_removes_nothing_is_dense_attention(
    press: str, dense: FullAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = load(press, **{**PRESSES[press], **NOTHING.get(press, {"ratio": 0})})
    entered = []
    cls = type(method.recipe.press())
    call = cls.__call__
    monkeypatch.setattr(cls, "__call__", lambda self, model: entered.append(self) or call(self, model))
    got, wanted = (m.prefill(CONTEXT, PREFIX).score(QUERY, TARGET) for m in (method, dense))
    assert len(entered) == 1, "the press is on the model all the same"
    if press in ("kvcompose", "observedattention"):  # which read with the eager kernel
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    else:
        assert torch.equal(got, wanted)


def test_the_hooks_run_where_nothing_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = []
    compress = library().ScorerPress.compress

    def counted(self, module, *rest: Any) -> Any:
        layers.append(module.layer_idx)
        return compress(self, module, *rest)

    monkeypatch.setattr(library().ScorerPress, "compress", counted)
    load("knorm", ratio=0).prefill(CONTEXT, PREFIX)
    assert layers == [0, 1]


@pytest.mark.parametrize("press", PRESSES)
def test_the_prefix_stays_whole(press: str, dense: FullAttention) -> None:
    method = load(press, **PRESSES[press])
    session, whole, alone = method.prefill(CONTEXT, PREFIX), dense.prefill(CONTEXT, PREFIX), method.prefill(CONTEXT)
    layers = not_empty(zip(session._cache.keys_values(), whole._cache.keys_values(), strict=True))
    for index, (got, wanted) in enumerate(layers):
        for x, y in zip(got, wanted, strict=True):
            torch.testing.assert_close(x[:, :, : len(PREFIX)], y[:, :, : len(PREFIX)], atol=1e-5, rtol=0)
        kept = session._kept[index]
        assert kept is None or kept[:, : len(PREFIX)].all()
    if press not in ("simlayerkv", "chunkkv:snapkv", "dms:knorm"):  # the content decides how much of it stays
        assert sum(session.kept_tokens) == sum(alone.kept_tokens) + len(PREFIX) * len(alone.kept_tokens)


def test_what_stays_of_the_context_is_rounded_as_kvpress_does() -> None:
    for ratio, kept in ((0.3, 31), (0.9, 4), (0.999, 1)):
        assert load("knorm", ratio=ratio).prefill(CONTEXT, PREFIX).kept_tokens == [kept + len(PREFIX)] * 2


def test_a_press_sees_the_context_alone(dense: FullAttention) -> None:
    """Knorm by hand: of the keys after the prefix, the smaller ones."""
    session = load("knorm").prefill(CONTEXT, PREFIX)
    for (keys, _), (wanted, _) in zip(
        session._cache.keys_values(), dense.prefill(CONTEXT, PREFIX)._cache.keys_values(), strict=True
    ):
        wanted = wanted[:, :, len(PREFIX) :]
        best = wanted.norm(dim=-1).topk(22, largest=False).indices
        wanted = wanted.gather(2, best[..., None].expand(-1, -1, -1, 8))
        torch.testing.assert_close(keys[:, :, len(PREFIX) :], wanted, atol=1e-5, rtol=0)


def test_positions_that_a_press_makes_up_count_the_prefix(dense: FullAttention) -> None:
    """Scores depend on distances alone: of a text that stands 60 positions later, the same values are kept."""
    model, kept = dense.model, []
    for first, shift in ((0, 0), (60, 60), (60, 0)):
        press, cache = (
            press_classes()["expectedattention"](compression_ratio=0.5, n_future_positions=16),
            DynamicCache(),
        )
        with torch.no_grad(), press(model):
            for layer in model.model.layers:
                layer.self_attn.rotary_emb = Shifted(model.model.rotary_emb, shift)
            model.model(
                input_ids=torch.tensor([CONTEXT]),
                position_ids=torch.arange(first, first + len(CONTEXT))[None],
                cache_position=torch.arange(len(CONTEXT)),
                past_key_values=cache,
            )
        for layer in model.model.layers:
            del layer.self_attn.rotary_emb
        kept.append(torch.stack([layer.values for layer in cache.layers]))
    torch.testing.assert_close(kept[1], kept[0], atol=1e-4, rtol=0)
    assert (kept[2] - kept[0]).abs().max() > 0.1, "the text is one in which it matters"


def test_the_question_and_the_answer_are_not_compressed() -> None:
    session = load("knorm").prefill(CONTEXT)
    with torch.inference_mode():
        session._forward(session._tensor([*QUERY.ids, *TARGET]))
    assert {keys.shape[2] for keys, _ in session._cache.keys_values()} == {22 + len(QUERY.ids) + len(TARGET)}


def test_a_context_shorter_than_the_window_stays_whole(dense: FullAttention) -> None:
    session = load("snapkv").prefill(CONTEXT)  # 64 tokens
    assert session.kept_tokens == [45, 45]
    assert torch.equal(session.score(QUERY, TARGET), dense.prefill(CONTEXT).score(QUERY, TARGET))


# --- what a press leaves behind


@pytest.mark.parametrize("press", ["adakv:knorm", "dms:knorm", "kvzip"])
def test_sessions_of_one_model_have_their_own_masks(press: str) -> None:
    settings = (
        {"n_sink": 2}
        if press == "kvzip"
        else {"threshold": -2.5, "sliding_window_size": 4}
        if press == "dms:knorm"
        else {}
    )
    method, other = load(press, **settings), load(press, **settings)
    contexts = [CONTEXT, CONTEXT[::-1], CONTEXT[5:20]]
    wanted = [other.prefill(context).score(QUERY, TARGET) for context in contexts]
    sessions = [method.prefill(context) for context in contexts]  # the last one read is the last to mark the modules
    for _ in range(2):
        for session, scores in zip(sessions, wanted, strict=True):
            assert torch.equal(session.score(QUERY, TARGET), scores)
            assert any(not kept.all() for kept in session._kept)


def test_nothing_of_a_press_stays_on_the_model(dense: FullAttention) -> None:
    method = load("adakv:knorm")
    before = {name for name, _ in method.model.named_modules()}
    method.prefill(CONTEXT, PREFIX)
    method.recipe = load("chunk:snapkv", window_size=8, chunk_length=40).recipe  # the last chunk has 5 tokens
    with pytest.raises(
        UserError, match=r"A context under the press chunk:snapkv cannot be read \(Query length 5 should"
    ):
        method.prefill(CONTEXT)
    assert {name for name, _ in method.model.named_modules()} == before
    assert not any(hasattr(layer.self_attn, "masked_key_indices") for layer in method.model.model.layers)
    assert not any(layer.self_attn._forward_hooks for layer in method.model.model.layers)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_memory_that_runs_out_and_a_stop_are_seen_as_such(
    monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    method = load("kvcompose")
    layer = method.model.model.layers[1]
    monkeypatch.setattr(layer, "forward", lambda *a, **k: (_ for _ in ()).throw(kind("in the middle")))
    with pytest.raises(kind, match="in the middle"):
        method.prefill(CONTEXT)
    assert method.model.config._attn_implementation == "sdpa"


ISOLATED = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
torch.manual_seed(0)
config = LlamaConfig(vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
model, ids = LlamaForCausalLM(config).eval(), torch.arange(60)[None]
functions = dict(ALL_ATTENTION_FUNCTIONS.items())
with torch.no_grad():
    before = model(ids).logits
    from baselines.kvpress.library import library
    kvpress = library()
    after = model(ids).logits
assert torch.equal(before, after)
assert functions == dict(ALL_ATTENTION_FUNCTIONS.items())
kvpress.patch_attention_functions()
assert all(function is not ALL_ATTENTION_FUNCTIONS[name] for name, function in functions.items())
"""


def test_the_import_of_kvpress_changes_no_other_model() -> None:
    """In a process of its own; the last line shows that there is something to undo."""
    subprocess.run([sys.executable, "-c", ISOLATED], check=True, cwd=ROOT, timeout=300)


@pytest.mark.parametrize(
    ("before", "end"),
    [("<s><u>Read this: ", "</u><a>"), ("Read this: ", "\n"), ("", "\n")],
    ids=["chat", "plain", "none"],
)
def test_kvzip_asks_for_the_context_in_the_form_of_the_prompt(before: str, end: str, monkeypatch) -> None:
    method = load("kvzip", n_sink=2, chunk_size=30)
    tokenizer, asked = method.tokenizer, []
    tokenizer.chat_template = "<s>{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}<a>"
    method.model.model.embed_tokens.register_forward_pre_hook(lambda module, ids: asked.append(ids[0][0].tolist()))
    method.prefill(CONTEXT, tokenizer.encode(before, add_special_tokens=False))
    ask = [
        f"\n\nRepeat the previous context exactly.{end}",
        "\n\nRepeat the part of the previous context exactly, starting with",
    ]
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in ask)
    closing = tokenizer.encode(end, add_special_tokens=False)
    assert asked[1:] == [[*first, *CONTEXT[:30]], [*second, *CONTEXT[22:30], *closing, *CONTEXT[30:]]]


# --- cost


@pytest.mark.parametrize("press", ["knorm", "kvcompose", "kvzip"])
def test_the_arithmetic_is_what_torch_counts(press: str) -> None:
    """Torch counts the masked half of attention too, and of KVzip its request and its scores."""
    method, tokens = load(press, **PRESSES[press]), len(CONTEXT)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        method.prefill(CONTEXT)
    config = method.model.config
    formula = method.cost(tokens, 0).prefill_flops - flops.head_flops(config)
    formula += flops.attention_flops(config, tokens**2 - flops.causal_pairs(tokens))
    if press == "kvcompose":
        formula += flops.attention_flops(config, 2 * tokens**2 - flops.causal_pairs(tokens, tokens))
    more = counter.get_total_flops() - formula
    if press == "kvzip":
        assert formula > 1.9 * tokens * flops.linear_flops(config), "the context is read again"
        assert more > 0
    else:
        assert 0 <= more <= 2 * 2 * 8 * tokens  # some releases multiply frequencies and positions as matrices


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_other_bases(family: str) -> None:
    more = {"mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {"head_dim": 12}}
    method = load("snapkv", {"model_type": family, **more[family]}, window_size=8)
    torch.testing.assert_close(method.prefill(CONTEXT).score(QUERY, TARGET), by_hand(method), atol=1e-4, rtol=0)


def test_statistics_of_expected_attention_are_read_from_a_folder(tmp_path: Path) -> None:
    stats = sys.modules["kvpress.presses.expected_attention_with_stats"].ExpectedAttentionStats(
        2, 4, 8, "texts", "tiny", 1, 10, 2
    )
    torch.manual_seed(0)
    torch.nn.init.normal_(stats.query_mean)
    stats.save_pretrained(tmp_path)
    method = load("expectedattentionstats", stats_folder=str(tmp_path), n_sink=2)
    torch.testing.assert_close(method.prefill(CONTEXT).score(QUERY, TARGET), by_hand(method), atol=1e-4, rtol=0)
    preset = Preset(
        name="s",
        method="kvpress",
        description="",
        weights=Weights(source="x"),
        settings={"stats_folder": str(tmp_path)},
    )
    assert list(KVPress.files(preset)) == [tmp_path]
