"""LongLLaMA's training: parity with the authors' crossbatch, which entries see which, and the way into the harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from released import write_sentencepiece
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from baselines.longllama.adapter import LongLLaMA
from baselines.longllama.crossbatch import attend_entries, crossbatch
from baselines.longllama.training import LongLLaMAOptions, TrainedLongLLaMA
from evals.errors import UserError
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights
from sharedllm.training.batches import NO_CONTEXT, Batch

GOLDEN = folders.GOLDEN / "longllama"
CASES = json.loads((GOLDEN / "training.json").read_text())["cases"]
OPTIONS = {"chunk_size": 8, "window": 16, "mem_layers": [1, 2]}


def base(kv_heads: int = 4, tied: bool = False) -> LlamaForCausalLM:
    """The golden model as a plain Llama, with the first `kv_heads` key and value heads."""
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        known = json.loads(file.metadata()["config"])
    fields = {n: v for n, v in known.items() if "mem" not in n and n not in ("last_context_length", "torch_attention")}
    changes = {"num_key_value_heads": kv_heads, "max_position_embeddings": 64, "tie_word_embeddings": tied}
    model = LlamaForCausalLM(LlamaConfig(**fields | changes))
    own = load_file(GOLDEN / "weights.safetensors")
    for name in own:
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            own[name] = own[name][: kv_heads * 16]
    model.load_state_dict(own)
    return model


def build(init: Path | None = None, kv_heads: int = 4, **options: Any) -> TrainedLongLLaMA:
    method = TrainedLongLLaMA.build(base(kv_heads), OPTIONS | options, init)
    method.trainable(["all"])
    method.model.train()
    return method


def text(documents: int, tokens: int) -> torch.Tensor:
    index = torch.arange(documents * tokens)
    return (3 + (11 * index**2 + 5 * index) % 125).view(documents, tokens)


def batch(ids: torch.Tensor, chunks: int, **changes: Any) -> Batch:
    """Windows of `chunks` chunks of 8 tokens and what follows them."""
    context, running = ids[:, : 8 * chunks].reshape(len(ids), chunks, 8), ids[:, 8 * chunks :]
    fields = {"input_ids": running, "labels": running, "context_ids": context if chunks else None}
    return Batch(**fields | changes)


# --- parity


@pytest.mark.parametrize("case", CASES, ids=lambda c: "{documents}x{packing}-{range}".format_map(c))
def test_loss_and_gradients_equal_the_authors_code(case: dict[str, Any]) -> None:
    """All next tokens are targets, that of the last token of an entry too."""
    entries = case["packing"]
    method = build(negatives=case["range"] - (entries - 1))
    whole = text(case["documents"], entries * 16 + 1)
    hidden = method.hidden(batch(whole[:, :-1], 0))
    loss = F.cross_entropy(method.head(hidden).flatten(0, 1), whole[:, 1:].flatten())
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    norms = {n: p.grad.norm().item() for n, p in method.model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(case["gradient_norms"], abs=1e-4)


# --- crossbatch


@given(documents=st.integers(1, 5), entries=st.integers(1, 7), negatives=st.integers(0, 9))
def test_entries_see_what_came_before_and_the_last_one_all_of_its_document(
    documents: int, entries: int, negatives: int
) -> None:
    seen = {}
    for run in crossbatch(documents, entries, negatives):
        for document in run.documents:
            assert (document, run.place) not in seen
            seen[document, run.place] = run.others
            assert run.others <= document * entries + run.place
    assert len(seen) == documents * entries
    for document in range(documents):
        others = [seen[document, place] for place in range(entries)]
        assert others == sorted(others)
        assert others[-1] >= min(entries - 1 + negatives, document * entries + entries - 1)


def test_the_mixture_of_the_3b_model() -> None:
    """(own, foreign) entries of the paper: a quarter each of (0, 0), (1, 1), (2, 1), (3, 0)."""
    counts = {run.place: run.others for run in crossbatch(9, 4, 0) if 8 in run.documents}
    assert counts == {0: 0, 1: 2, 2: 3, 3: 3}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("negatives", [0, 3])
def test_a_memory_layer_equals_a_slow_reference(kv_heads: int, negatives: int) -> None:
    """One entry at a time over explicit lists of keys; the last entry of a document is shorter."""
    torch.manual_seed(0)
    heads, window, tokens, documents = 4, 5, 13, 3
    q, raw, keys, values = (torch.randn(documents, n, tokens, 6) for n in (heads, kv_heads, kv_heads, kv_heads))
    runs = crossbatch(documents, 3, negatives)
    got = attend_entries(q, raw, keys, values, window, runs, 0.4)
    raw, keys, values = (x.repeat_interleave(heads // kv_heads, 1) for x in (raw, keys, values))
    spans = [(d, slice(s, min(s + window, tokens))) for d in range(documents) for s in range(0, tokens, window)]
    for number, (document, span) in enumerate(spans):
        place = number % 3
        most = 2 + negatives
        others = min(place * -(-(most + 1) // 2), most, number)
        for i in range(span.start, span.stop):
            seen = [raw[d, :, s] for d, s in spans[number - others : number]]
            k = torch.cat([*seen, keys[document, :, span.start : i + 1]], 1)
            v = [values[d, :, s] for d, s in spans[number - others : number]]
            v = torch.cat([*v, values[document, :, span.start : i + 1]], 1)
            weights = (0.4 * q[document, :, i, None] @ k.mT).softmax(-1)
            torch.testing.assert_close(got[document, :, i], (weights @ v)[:, 0], atol=1e-5, rtol=0)


# --- the method


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_evaluation_reads_as_the_released_code_does(kv_heads: int) -> None:
    """A prompt in windows, the last of them as the local context: no other documents."""
    method = build(kv_heads=kv_heads)
    method.model.train(False)
    method.model.config.update({"mem_dtype": "float32"})
    ids = text(2, 40)
    states, state = method.hidden(batch(ids, 3)), method.model.new_state()
    read = method.model.read(ids[:, :32], state, last_context_length=16)
    wanted = torch.cat([read, method.model.append(ids[:, 32:], state)], 1)
    torch.testing.assert_close(states, wanted[:, 24:], atol=1e-5, rtol=0)


def test_every_token_is_a_target_but_in_batches_of_questions() -> None:
    method, ids = build(), text(3, 40)
    hidden = method._states(ids)
    every = F.cross_entropy(method.head(hidden[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    last = F.cross_entropy(method.head(hidden[:, 24:-1]).flatten(0, 1), ids[:, 25:].flatten())
    assert method.loss(batch(ids, 3), False).item() == pytest.approx(every.item(), abs=1e-5)
    asked = batch(ids, 3, query_length=torch.tensor([2, 2, 2]))
    assert method.loss(asked, False).item() == pytest.approx(last.item(), abs=1e-5)
    dropped = batch(ids, 3, kind=NO_CONTEXT)
    assert method.hidden(dropped).shape == (3, 16, 64)
    torch.testing.assert_close(method.loss(dropped, False), method.loss(batch(ids[:, 24:], 0), False))


def test_what_can_be_trained() -> None:
    method = build()
    names = {name for name, _ in method.model.named_parameters()}
    for group, count in {"all": len(names), "attention": 4 * 4, "memory_layers": 2 * 9}.items():
        assert len(method.trainable([group])["lr"]) == count
    assert method.trainable(["memory_layers"])["lr_base"] == []
    with pytest.raises(UserError, match="choose from all, attention, memory_layers"):
        method.trainable(["memory"])


def test_recomputed_activations_give_the_same_gradients() -> None:
    plain, frugal = build(), build()
    frugal.checkpoint_gradients()
    for method in (plain, frugal):
        method.loss(batch(text(2, 40), 3), False).backward()
    for a, b in zip(plain.model.parameters(), frugal.model.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad)


def test_memory_layers_lie_where_the_released_ones_do() -> None:
    assert build(mem_layers=None).model.config.mem_layers == [1, 2, 3]
    method = build(window=12)
    assert (method.model.window, method.model.config.last_context_length) == (12, 6)


@pytest.mark.parametrize(
    ("options", "message"), [({"window": 65}, "has 64 positions"), ({"mem_layers": [4]}, "beyond the 4")]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)


# --- the way into the harness


def moved(tied: bool = False) -> tuple[LlamaForCausalLM, TrainedLongLLaMA]:
    """A base, and a method over a copy of it whose weights are others than where they began."""
    method = TrainedLongLLaMA.build(base(2, tied), OPTIONS, None)
    method.trainable(["all"])
    torch.manual_seed(1)
    for parameter in method.model.parameters():
        parameter.data = parameter.data + 0.05 * torch.randn_like(parameter)
    return base(2, tied), method


@pytest.mark.parametrize("tied", [False, True])
def test_the_harness_scores_what_training_minimises(tied: bool, tmp_path: Path) -> None:
    """Context of two windows, then a window of running text."""
    shared, method = moved(tied)
    shared.save_pretrained(tmp_path / "base")
    write_sentencepiece(tmp_path / "base", vocab_size=100, byte_fallback=False)
    method.save(tmp_path / "adapter", "base", 2**30)
    sources = [Weights(source=str(tmp_path / name)) for name in ("base", "adapter")]
    settings = {"last_context_length": 16, "mem_dtype": "float32"}
    preset = Preset(
        name="tiny", method="longllama", description="", weights=sources[0], adapter=sources[1], settings=settings
    )
    harness = LongLLaMA.load(preset, Runtime())
    assert harness.fairness["trained"]
    assert (harness.fairness["window"], harness.fairness["mem_layers"]) == (16, [1, 2])
    trained = TrainedLongLLaMA.build(base(2, tied), {}, tmp_path / "adapter")
    trained.model.train(False)
    window = batch(text(1, 48), 4, query_length=torch.tensor([1]))
    ids = text(1, 48)[0].tolist()
    scores = harness.prefill(ids[:32]).score(Query(ids[32:33]), ids[33:])
    assert -scores.mean().item() == pytest.approx(trained.loss(window, False).item(), abs=1e-5)
    untrained = TrainedLongLLaMA.build(shared, OPTIONS, None)
    untrained.model.train(False)
    assert abs(untrained.loss(window, False).item() + scores.mean().item()) > 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_is_saved_and_loaded_whole(tied: bool, tmp_path: Path) -> None:
    """In bfloat16; tied embeddings once."""
    shared, method = moved(tied)
    method.model.to(torch.bfloat16).float()
    method.save(tmp_path, "base", 2**30)
    again = TrainedLongLLaMA.build(shared, {}, tmp_path)
    assert again.options == LongLLaMAOptions(**OPTIONS)
    assert (again.model.lm_head.weight is again.model.model.embed_tokens.weight) == tied
    for (name, a), b in zip(method.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name
