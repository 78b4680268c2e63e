"""CEPE's training: parity with the authors' training code, its two stages, and the way into the harness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from not_empty import not_empty
from released import write_sentencepiece
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from baselines.cepe.adapter import CEPE
from baselines.cepe.training import CEPEOptions, TrainedCEPE
from evals.methods.base import Query, Runtime
from evals.methods.presets import Preset, Weights
from sharedllm.errors import UserError
from sharedllm.training.batches import NO_CONTEXT, Batch

GOLDEN = folders.GOLDEN / "cepe"
CASES = json.loads((GOLDEN / "training.json").read_text())["cases"]
OPTIONS = {"chunk_size": 8, "encoder_chunk": 8, "encoder_layers": 2, "same_text": 0.25}
GROUPS = ["cross_attn", "encoder"]


def base(kv_heads: int = 4) -> LlamaForCausalLM:
    """The decoder of the golden model without its cross-attention, with the first `kv_heads` key and value heads."""
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        known = json.loads(file.metadata()["decoder_config"])
    fields = {name: value for name, value in known.items() if "cross" not in name and "coder" not in name}
    model = LlamaForCausalLM(LlamaConfig(**fields | {"num_key_value_heads": kv_heads}))
    own = {n: w for n, w in load_file(GOLDEN / "weights.safetensors").items() if n in model.state_dict()}
    for name in own:
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            own[name] = own[name][: kv_heads * 16]
    model.load_state_dict(own)
    return model


def build(init: Path | None = None, kv_heads: int = 4, **options: Any) -> TrainedCEPE:
    torch.manual_seed(0)
    method = TrainedCEPE.build(base(kv_heads), OPTIONS | options, init)
    method.trainable(GROUPS)
    method.model.train()
    return method


def sequence(rows: int, tokens: int, a: int, b: int) -> torch.Tensor:
    index = torch.arange(rows * tokens)
    return (3 + (a * index**2 + b * index) % 125).view(rows, tokens)


RUNNING, CONTEXT = sequence(2, 24, 11, 5), sequence(2, 24, 7, 3).view(2, 3, 8)


def batch(**changes: Any) -> Batch:
    return Batch(**{"input_ids": RUNNING, "labels": RUNNING, "context_ids": CONTEXT, **changes})


# --- parity


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['kv_heads']}-{'same' if c['same_text'] else 'before'}")
def test_loss_and_gradients_equal_the_authors_code(case: dict[str, Any]) -> None:
    """Initialisation from the base, both stages, grouped heads too."""
    method = build(kv_heads=case["kv_heads"])
    loss = method.loss(batch(progress=0.0 if case["same_text"] else 0.25), compiled=False)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-4)
    norms = {n: p.grad.norm().item() for n, p in method.model.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(case["gradient_norms"], abs=1e-4)


# --- the method


def test_only_cross_attention_and_encoder_learn_and_the_base_is_shared() -> None:
    shared = base()
    method = TrainedCEPE.build(shared, OPTIONS, None)
    groups = method.trainable(GROUPS)
    trained = {name for name, p in method.model.named_parameters() if p.requires_grad}
    assert trained == set(CASES[0]["gradient_norms"])
    assert sum(map(len, groups.values())) == len(trained)
    for name, weight in shared.state_dict().items():
        assert method.model.state_dict()[name].data_ptr() == weight.data_ptr()
        assert not any(p.data_ptr() == weight.data_ptr() for p in not_empty(groups["lr"]))


def test_the_first_stage_is_for_language_modelling_alone() -> None:
    method = build()
    asked = batch(query_length=torch.tensor([3, 3]), progress=0.0)
    assert method.loss(asked, False) == method.loss(replace(asked, progress=1.0), False)
    assert method.loss(batch(progress=0.0), False) != method.loss(batch(), False)
    assert method.tokens(batch(progress=0.0)) == 2 * RUNNING.numel()
    assert method.tokens(batch()) == RUNNING.numel() + CONTEXT.numel()


def test_without_context_it_is_the_base_and_everything_takes_part() -> None:
    method = build()
    dropped = batch(context_ids=CONTEXT[:, :1], num_chunks=torch.zeros(2, dtype=torch.long), kind=NO_CONTEXT)
    wanted = base()(RUNNING).logits
    for inputs in (dropped, batch(context_ids=None)):
        torch.testing.assert_close(method.head(method.hidden(inputs)), wanted, atol=1e-5, rtol=0)
    method.loss(dropped, False).backward()


def test_it_starts_as_the_base_where_its_output_starts_at_zero() -> None:
    method = build(start="zero")
    torch.testing.assert_close(method.head(method.hidden(batch())), base()(RUNNING).logits, atol=1e-5, rtol=0)
    method.loss(batch(), False).backward()
    assert all(layer.cross_attn.o_proj.weight.grad.norm() > 0 for layer in method.model.model.layers)


def test_chunks_of_the_windows_are_read_in_pieces_of_the_encoder() -> None:
    """Chunks of 12 tokens, pieces of 8; the last piece is shorter and order does not matter."""
    method, context = build(chunk_size=12), sequence(2, 36, 7, 3)
    got = method.hidden(batch(context_ids=context.view(2, 3, 12)))
    pieces = [method.model.encode(p[:, None]).states for p in context.split(8, dim=1)]
    encoded = method.model.encode_text(context, 8)
    assert method.model.encode_text(context[:, :7], 8).states.shape[:2] == (2, 7)
    torch.testing.assert_close(encoded.states, torch.cat(pieces, dim=1))
    swapped = torch.cat([context[:, 8:16], context[:, :8], context[:, 16:]], dim=1).view(2, 3, 12)
    torch.testing.assert_close(method.hidden(batch(context_ids=swapped)), got, atol=1e-5, rtol=0)


@torch.no_grad()
def test_training_reads_as_evaluation_does() -> None:
    method = build()
    got = method.hidden(batch())
    method.model.train(False)
    torch.testing.assert_close(method.hidden(batch()), got, atol=1e-5, rtol=0)


def test_recomputed_activations_give_the_same_gradients() -> None:
    plain, frugal = build(), build()
    frugal.checkpoint_gradients()
    for method in (plain, frugal):
        method.loss(batch(), False).backward()
    for (name, a), b in zip(plain.model.named_parameters(), frugal.model.parameters(), strict=True):
        if a.requires_grad:
            assert a.grad is not None, name
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_layers": 4}, "has 3 layers, not 4"),
        ({"encoder_chunk": 65}, "has 64 positions, not 65"),
        ({"encoder": 2}, "encoder"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**options)


def test_another_family_is_refused() -> None:
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=10, n_positions=64))
    other.config.max_position_embeddings = 64
    with pytest.raises(UserError, match="'gpt2'"):
        TrainedCEPE.build(other, OPTIONS, None)


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="needles: 65 tokens"):
        build().check_window("needles", 3, 65)


# --- the way into the harness


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a base with its tokenizer and of an adapter whose parts have moved from where they start."""
    folder, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    shared = base(kv_heads=2)
    shared.save_pretrained(folder)
    write_sentencepiece(folder, vocab_size=100, byte_fallback=False)
    method = TrainedCEPE.build(shared, OPTIONS, None)
    torch.manual_seed(1)
    for name, parameter in method.model.named_parameters():
        if parameter.requires_grad and any(known(name) for known in method.groups().values()):
            parameter.data += 0.1 * torch.randn_like(parameter)
    method.trainable(GROUPS)
    method.save(adapter, str(folder), 2**30)
    return folder, adapter


def loaded(saved: tuple[Path, Path], **settings: Any) -> CEPE:
    source, adapter = (Weights(source=str(folder)) for folder in saved)
    preset = Preset(name="tiny", method="cepe", description="", weights=source, adapter=adapter, settings=settings)
    return CEPE.load(preset, Runtime())


@pytest.mark.parametrize("cache_cross", ["states", "kv"])
def test_the_harness_scores_what_training_minimises(saved: tuple[Path, Path], cache_cross: str) -> None:
    """One window: its context in the encoder, its running text in the decoder."""
    method = TrainedCEPE.build(base(kv_heads=2), {}, saved[1])
    harness = loaded(saved, window=24, chunk=8, room=1, cache_cross=cache_cross)
    for row in range(2):
        window = batch(input_ids=RUNNING[row, None], labels=RUNNING[row, None], context_ids=CONTEXT[row, None])
        context, running = CONTEXT[row].flatten().tolist(), RUNNING[row].tolist()
        session = harness.prefill([*context, running[0]])
        scores = session.score(Query(), running[1:])
        assert session.trace() == {"encoder_tokens": 24, "decoder_tokens": 1}
        assert -scores.mean().item() == pytest.approx(method.loss(window, False).item(), abs=1e-5)
    untrained = TrainedCEPE.build(base(kv_heads=2), OPTIONS, None)
    assert abs(untrained.loss(window, False).item() + scores.mean().item()) > 0.01


def test_an_adapter_is_saved_and_loaded_whole(saved: tuple[Path, Path], tmp_path: Path) -> None:
    method = TrainedCEPE.build(base(kv_heads=2), {}, saved[1])
    assert method.options == CEPEOptions(**OPTIONS)
    method.trainable(GROUPS)
    method.save(tmp_path, "base", 2**30)
    again = TrainedCEPE.build(base(kv_heads=2), {}, tmp_path)
    for (name, a), b in zip(method.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_what_the_adapter_was_trained_with_is_in_the_fairness_record(saved: tuple[Path, Path]) -> None:
    harness = loaded(saved, window=24, chunk=6)
    assert harness.fairness["trained"]
    assert (harness.fairness["chunk"], harness.fairness["trained chunk"]) == (6, 8)


def test_an_adapter_of_another_base_is_refused(saved: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="other weights"):
        TrainedCEPE.build(base(), {}, saved[1])
