"""Training Activation Beacon: parity with the authors' code, gradients through windows, an exact resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from not_empty import not_empty
from safetensors import safe_open
from safetensors.torch import load_file
from trained_runs import adapter, train
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig

from baselines.activation_beacon import training, unrolled
from baselines.activation_beacon.adapter import ActivationBeacon
from baselines.activation_beacon.modeling import BeaconLlama
from baselines.activation_beacon.training import Beacon, BeaconOptions, draw_ratios
from evals.methods import presets
from evals.methods.base import Query, Runtime
from sharedllm.errors import UserError
from sharedllm.trained_adapter import BaseIdentity
from sharedllm.training.batches import NO_CONTEXT, Batch

GOLDEN = folders.GOLDEN / "activation_beacon"
OPTIONS: dict[str, Any] = {"chunk_size": 64, "window": 32, "ratios": [2, 4, 8]}


def reference_model(ratios: list[int]) -> BeaconLlama:
    with safe_open(GOLDEN / "weights.safetensors", "pt") as file:
        fields = json.loads(file.metadata()["config"])
    model = BeaconLlama._from_config(LlamaConfig(**fields | {"beacon_ratio": ratios}), attn_implementation="sdpa")
    model.load_state_dict(load_file(GOLDEN / "weights.safetensors"))
    return model


def built(tiny_llama: Path, **options: Any) -> Beacon:
    return Beacon.build(AutoModelForCausalLM.from_pretrained(tiny_llama), {**OPTIONS, **options}, None)


def windows(chunks: int = 2, running: int = 40) -> Batch:
    generator = torch.Generator().manual_seed(0)
    context = torch.randint(256, (2, chunks, 64), generator=generator)
    ids = torch.randint(256, (2, running), generator=generator)
    return Batch(input_ids=ids, labels=ids, context_ids=context).prepared()


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_the_authors_code(
    case: int, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = json.loads((GOLDEN / "training.json").read_text())["cases"][case]
    ids = torch.tensor(g["ids"])
    model = reference_model(g["ratios"]).train()
    method = Beacon(model, BeaconOptions(chunk_size=8, window=16, ratios=g["ratios"]), BaseIdentity.of(model), None)
    method.trainable(["beacon"])
    method.recompute = recompute
    full = -(-ids.shape[1] // 16) - 1
    ratios = [*(g["ratios"] * full)[:full], 0]
    monkeypatch.setattr(training, "draw_ratios", lambda config, tokens: ratios)
    batch = Batch(input_ids=ids[:, 24:], labels=ids[:, 24:], context_ids=ids[:, :24].view(-1, 3, 8))
    loss = method.loss(batch, compiled=False)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(g["loss"], abs=1e-5)
    found = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert found == pytest.approx(g["gradient_norms"], rel=1e-4)
    for other in ([0] * len(ratios), [16] * full + [0]):  # without beacons, with fewer: neither is the same loss
        monkeypatch.setattr(training, "draw_ratios", lambda config, tokens, other=other: other)
        assert abs(float(method.loss(batch, compiled=False).detach()) - g["loss"]) > 1e-3


@pytest.mark.parametrize("tokens", [16, 40, 64, 75])
def test_it_reads_what_inference_reads(tokens: int) -> None:
    model = reference_model([4]).eval()
    ids = torch.randint(3, 128, (2, tokens), generator=torch.Generator().manual_seed(tokens))
    with torch.no_grad():
        mine = unrolled.read(model, ids, [4] * -(-tokens // 16), recompute=False)
        torch.testing.assert_close(mine, model.read(ids, model.new_cache(4)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tokens", [1, 3, 4, 10, 12])
def test_tokens_and_beacons_are_mixed_and_sorted_again(tokens: int) -> None:
    window = unrolled.Interleaving(tokens, 4)
    token, beacon = torch.arange(tokens)[None, :, None], -1 - torch.arange(tokens // 4)[None, :, None]
    mixed = window.mix(token, beacon)
    expected = [x for i in range(tokens) for x in ([i, -1 - i // 4] if i % 4 == 3 else [i])]
    assert mixed[0, :, 0].tolist() == expected
    assert torch.equal(window.sort(mixed), torch.cat([token, beacon], 1))


def test_beacons_start_as_the_base_and_its_end_of_text(tiny_llama: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    method = Beacon.build(base, OPTIONS, None)
    for layer in method.beacon_model.decoder.layers:
        for name in "qkv":
            own, beacon = (getattr(layer.self_attn, f"{kind}{name}_proj").weight for kind in ("", "beacon_"))
            assert torch.equal(own, beacon)
            assert own.data_ptr() != beacon.data_ptr()
    end = base.get_input_embeddings().weight[base.config.eos_token_id]
    assert torch.equal(method.model.base_model.beacon_embed_tokens.weight[0], end)
    ids = torch.arange(20)[None]
    batch = Batch(input_ids=ids, labels=ids)
    expected = base.model(ids).last_hidden_state
    method.model.train()  # where the last window has no beacons
    torch.testing.assert_close(method.hidden(batch), expected, atol=1e-5, rtol=1e-5)


def test_only_beacons_learn_and_earlier_windows_through_them(tiny_llama: Path) -> None:
    method = built(tiny_llama)
    method.model.train()
    groups = method.trainable(["beacon"])
    assert len(groups["lr"]) == 1 + 3 * method.model.config.num_hidden_layers
    torch.manual_seed(0)
    method.loss(windows(), compiled=False).backward()
    # what the last layer's beacons ask for is read by nobody
    still = {n for n, p in method.model.named_parameters() if p.grad is None or not p.grad.any()}
    last = f"layers.{method.model.config.num_hidden_layers - 1}.self_attn.beacon_q_proj.weight"
    assert {n for n in still if "beacon_" in n} == {f"model.{last}"}
    assert {n for n, _ in method.model.named_parameters() if "beacon_" not in n} <= still


def test_a_text_of_one_window_teaches_nothing_but_has_a_gradient(tiny_llama: Path) -> None:
    method = built(tiny_llama)
    method.model.train()
    method.trainable(["beacon"])
    embedding = method.beacon_model.decoder.beacon_embed_tokens.weight
    ids = torch.arange(30)[None]
    method.loss(Batch(input_ids=ids, labels=ids, kind=NO_CONTEXT), compiled=False).backward()
    assert embedding.grad is not None
    assert not embedding.grad.any()


def test_every_window_draws_a_ratio_that_keeps_the_text_within_the_positions() -> None:
    config = LlamaConfig(beacon_window=32, beacon_ratio=[2, 4, 8], max_position_embeddings=64)
    torch.manual_seed(0)
    short = [draw_ratios(config, 96) for _ in range(50)]  # (64 - 32) * 2 + 32
    assert {len(r) for r in short} == {3}
    assert {r[-1] for r in short} == {0}
    assert {r[0] for r in short} == {2, 4, 8}
    assert any(r[0] != r[1] for r in short)
    assert {r for ratios in (draw_ratios(config, 97) for _ in range(50)) for r in ratios} == {0, 4, 8}
    assert set(draw_ratios(config, 10_000)) == {0, 8}
    torch.manual_seed(0)
    assert [draw_ratios(config, 96) for _ in range(50)] == short


def test_evaluation_reads_at_the_ratio_that_suits_the_length(tiny_llama: Path) -> None:
    method = built(tiny_llama)
    method.model.train(False)
    batch = windows()
    ids = torch.cat([batch.context_ids.flatten(1), batch.input_ids], 1)
    with torch.no_grad():
        expected = method.beacon_model.read(ids, method.beacon_model.new_cache(2))[:, -40:]
        torch.testing.assert_close(method.hidden(batch), expected, atol=1e-4, rtol=0)


def test_a_stopped_run_resumes_to_the_same_adapter_and_another_starts_from_it(
    tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    stages = [{"windows": 1, "chunks": 1, "needles": 2, "questions": 1, "share": 0.6, "running": 250}]
    options = {**OPTIONS, "chunk_size": 320}
    settings = {"steps": 3, "drop_context": 0.1, "lr": 0.01, "warmup": 0, "needles": stages, "chunks": [1], "seed": 1}
    held = [texts / "others.jsonl.gz"]
    whole = train("beacon", tiny_llama, texts, tmp_path / "whole", options, heldout=held, **settings)
    assert set(whole["evaluation"]) == {"language modelling", "needles"}
    for step in (1, 2, 3):
        summary = train("beacon", tiny_llama, texts, tmp_path / "cut", options, max_seconds=0, **settings)
        assert summary["step"] == step
    log = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert {kind for entry in log for kind in entry["loss"]} >= {"lm", "needle 1"}
    mine, expected = adapter(tmp_path / "cut"), adapter(tmp_path / "whole")
    assert all(torch.equal(mine[n], expected[n]) for n in not_empty(expected))
    further = {"init": tmp_path / "cut" / "adapter", "steps": 1, "lr": 1e-9, "chunks": [1]}
    train("beacon", tiny_llama, texts, tmp_path / "further", options, **further)
    again = adapter(tmp_path / "further")
    assert all(torch.allclose(again[n], mine[n], atol=1e-4) for n in mine)


def test_the_harness_reads_what_was_trained(
    tiny_llama: Path, tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    method = built(tiny_llama)
    for parameter in method.trainable(["beacon"])["lr"]:
        torch.nn.init.normal_(parameter, std=0.3)
        parameter.data = parameter.data.bfloat16().float()  # as it is stored
    method.save(tmp_path / "adapter", "tiny", 2**30)
    fields = {"adapter": {"source": str(tmp_path / "adapter")}, "settings": {"ratio": 2}}
    preset = presets.load_preset(str(tiny_presets("activation_beacon", "beacon-trained", **fields)))
    loaded = ActivationBeacon.load(preset, Runtime())
    assert loaded.fairness["trained"] is True
    batch, model = windows(), method.model
    model.train(False)
    context, running = batch.context_ids.flatten(1)[0].tolist(), batch.input_ids[0].tolist()
    found = loaded.prefill(context).score(Query(running[:8]), running[8:])
    with torch.no_grad():
        expected = method.head(method.hidden(batch)[0]).log_softmax(-1)
    expected = expected[7:-1].gather(1, batch.input_ids[0, 8:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    other = AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
    with pytest.raises(UserError, match="this base has other weights"):
        Beacon.build(other, OPTIONS, tmp_path / "adapter")


def test_what_does_not_fit_is_one_sentence(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"window": 30}, {}, "The ratio 4 does not divide the window of 30 tokens"),
        ({"window": 600}, {}, "takes 900 positions, the base has 768: set a smaller window"),
        ({"window": 512}, {"chunks": [1]}, "chunks: 128 tokens are one window of 512, in which nothing is condensed"),
        ({"ratios": [2]}, {"chunks": [100]}, "chunks: 6464 tokens are more than the 1504 that the largest ratio"),
        ({"ratios": []}, {}, "The setting ratios of the method beacon does not fit"),
        ({}, {"compile": True}, "set compile=false"),
    ]
    for options, changes, says in cases:
        with pytest.raises(UserError, match=says):
            train("beacon", tiny_llama, texts, tmp_path / "run", {**OPTIONS, **options}, **changes)
    with pytest.raises(UserError, match="A base of type 'gpt2' cannot get beacons: choose one of llama, mistral"):
        Beacon.build(GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2)), OPTIONS, None)
