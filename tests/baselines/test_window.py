"""The base fine-tuned in its own window: what is trained, the window, positions, an exact resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from not_empty import not_empty
from trained_runs import adapter, train
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from baselines.window.adapter import FineTuned
from baselines.window.low_rank import LowRank, add_updates, is_update, merge_updates
from baselines.window.training import Window
from evals.methods import presets
from evals.methods.base import Query, Runtime
from sharedllm.errors import UserError
from sharedllm.training.batches import Batch

OPTIONS = {"chunk_size": 64, "rank": 2}


def base(tiny_llama: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


def windows(tokens: int, chunks: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    context = torch.randint(256, (2, chunks, 64), generator=generator)
    running = torch.randint(256, (2, tokens), generator=generator)
    return Batch(input_ids=running, labels=running, context_ids=context).prepared()


def trained_updates(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if is_update(name):
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)


def test_an_update_starts_as_nothing_and_merges_into_the_weights(tiny_llama: Path) -> None:
    model, ids = base(tiny_llama), torch.arange(20)[None]
    plain = model(ids).logits
    add_updates(model, rank=2, scale=0.5)
    assert sum(isinstance(m, LowRank) for m in model.modules()) == 4 * model.config.num_hidden_layers
    assert torch.equal(model(ids).logits, plain)
    trained_updates(model)
    apart = model(ids).logits
    assert not torch.allclose(apart, plain, atol=1e-3)
    merge_updates(model)
    assert not any(isinstance(m, LowRank) for m in model.modules())
    torch.testing.assert_close(model(ids).logits, apart, atol=1e-5, rtol=1e-4)


def test_only_the_updates_are_trained(tiny_llama: Path) -> None:
    method = Window.build(base(tiny_llama), OPTIONS, None)
    groups = method.trainable(["low_rank"])
    assert len(groups["lr"]) == 2 * 4 * method.model.config.num_hidden_layers
    assert groups["lr_base"] == []
    method.loss(windows(32), compiled=False).backward()
    assert {n for n, p in method.model.named_parameters() if p.grad is not None} == {
        n for n, _ in method.model.named_parameters() if is_update(n)
    }


def test_the_loss_is_that_of_the_base_on_its_last_tokens(tiny_llama: Path) -> None:
    model, batch = base(tiny_llama), windows(32)
    ids = torch.cat([batch.context_ids.flatten(1), batch.input_ids], 1)
    for window in (100, 160, 1000):
        method = Window.build(base(tiny_llama), {**OPTIONS, "window": window}, None)
        read = ids[:, -window:]
        labels = read.clone()
        labels[:, :-32] = -100
        labels[:, -32] = -100  # the first running token has no state of the running text before it
        expected = model(read, labels=labels).loss
        torch.testing.assert_close(method.loss(batch, compiled=False), expected, atol=1e-5, rtol=1e-5)
        assert method.tokens(batch) == read.numel()


def test_yarn_stretches_positions_and_window(tiny_llama: Path) -> None:
    plain = Window.build(base(tiny_llama), OPTIONS, None)
    yarn = Window.build(base(tiny_llama), {**OPTIONS, "rope": "yarn", "factor": 4}, None)
    assert yarn.window == 4 * plain.window
    assert not torch.allclose(yarn.hidden(windows(32)), plain.hidden(windows(32)), atol=1e-3)
    for options in ({"rope": "yarn"}, {"factor": 4}):
        with pytest.raises(UserError, match="rope yarn goes with a factor above 1"):
            Window.check({**OPTIONS, **options})


def test_needles_that_the_window_cannot_reach_are_refused(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    stages = [{"windows": 1, "chunks": 4, "needles": 1, "questions": 1, "share": 0.5, "running": 100}]
    with pytest.raises(UserError, match="needles: 356 tokens do not fit the window of 200"):
        train("window", tiny_llama, texts, tmp_path, {**OPTIONS, "window": 200}, needles=stages)
    with pytest.raises(UserError, match="chunks: 64 tokens do not fit the window of 32"):
        train("window", tiny_llama, texts, tmp_path, {**OPTIONS, "window": 32})
    with pytest.raises(UserError, match="is not trained in the mode sft"):
        train("window", tiny_llama, texts, tmp_path, mode="sft")


def test_a_base_without_such_projections_is_refused() -> None:
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=32)
    with pytest.raises(UserError, match="A base of type 'gpt2' has no q_proj"):
        Window.build(GPT2LMHeadModel(config), OPTIONS, None)


def test_a_stopped_run_resumes_to_the_same_adapter_and_another_starts_from_it(
    tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    settings = {"steps": 3, "drop_context": 0.3, "lr": 0.01, "warmup": 0}
    held = [texts / "others.jsonl.gz"]
    whole = train("window", tiny_llama, texts, tmp_path / "whole", heldout=held, **settings)
    assert set(whole["evaluation"]["language modelling"]["mean"]) == {"own", "other", "none", "use"}
    for step in (1, 2, 3):
        summary = train("window", tiny_llama, texts, tmp_path / "cut", max_seconds=0, **settings)
        assert summary["step"] == step
    mine, expected = adapter(tmp_path / "cut"), adapter(tmp_path / "whole")
    assert all(torch.equal(mine[n], expected[n]) for n in not_empty(expected))
    assert all(t.abs().max() > 0 for t in mine.values())
    assert summary["tokens"] == whole["tokens"] == sum_of_tokens(tmp_path / "whole", whole)
    card = (tmp_path / "cut" / "adapter" / "README.md").read_text()
    assert "| rank | 2 |" in card
    assert "--method window" in card
    record = json.loads((tmp_path / "cut" / "adapter" / "trained_adapter.json").read_text())
    assert record["method"] == "window"

    train("window", tiny_llama, texts, tmp_path / "further", init=tmp_path / "cut" / "adapter", lr=1e-9, steps=1)
    further = adapter(tmp_path / "further")
    assert all(torch.allclose(further[n], mine[n], atol=1e-4) for n in mine)
    other = AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.nn.init.normal_(other.model.layers[0].mlp.up_proj.weight)
    with pytest.raises(UserError, match="this base has other weights"):
        Window.build(other, OPTIONS, tmp_path / "cut" / "adapter")


@pytest.mark.parametrize("rope", [{}, {"rope": "yarn", "factor": 2}])
def test_the_harness_reads_what_was_trained(
    rope: dict[str, object], tiny_llama: Path, tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    method = Window.build(base(tiny_llama), {**OPTIONS, **rope}, None)
    method.trainable(["low_rank"])
    trained_updates(method.model)
    method.save(tmp_path / "adapter", "tiny", 2**30)
    for name, parameter in method.model.named_parameters():
        if is_update(name):
            parameter.data = parameter.data.bfloat16().float()  # as it is stored
    name = f"window-tiny-{len(rope)}"
    preset = presets.load_preset(str(tiny_presets("window", name, adapter={"source": str(tmp_path / "adapter")})))
    loaded = FineTuned.load(preset, Runtime())
    assert loaded.fairness["trained"] is True
    assert loaded.window == method.window == 768 * rope.get("factor", 1)
    batch = windows(32)
    context, running = batch.context_ids.flatten(1)[0].tolist(), batch.input_ids[0].tolist()
    found = loaded.prefill(context).score(Query(running[:8]), running[8:])
    with torch.no_grad():
        expected = method.head(method.hidden(batch)[0]).log_softmax(-1)
    expected = expected[7:-1].gather(1, batch.input_ids[0, 8:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="sharedllm-train has made, name its folder with --checkpoint"):
        FineTuned.load(preset, Runtime(checkpoint=str(tmp_path / "nowhere")))


def sum_of_tokens(folder: Path, summary: dict[str, object]) -> int:
    """Windows of 2 chunks of 64 and 64 tokens, two a step; the log says which had no context."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return sum(2 * 64 if set(e["loss"]) == {"no context"} else 2 * 192 for e in log)
