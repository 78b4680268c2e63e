"""Models over several GPUs: the same numbers as on one, and one sentence where they have no place.

Two devices that a CPU stands in for (tests/two_devices.py) show every tensor that is left behind on the other one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_result import Result
from two_devices import DEVICES, Placed, spread, two_devices

from evals import registry
from evals.errors import UserError
from evals.measure import hardware
from evals.measure.request import PeakMemory
from evals.methods.base import LongContextModel, Query, Request, Runtime
from evals.methods.presets import Preset, Weights
from evals.methods.sharedllm import SharedLLM
from evals.methods.weights import load, random_model, shape_config
from evals.methods.weights.spread import materialised, placement
from evals.run.grid import plan
from evals.run.spec import RunSpec
from sharedllm import layout, reading

SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
}
SHARED = {"chunk_size": 20, "ratios": [4, 2], "lower_layers": 2}
WHOLE = {**SHARED, "policy": "maxsim", "nodes": "all"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {"block": 7}),
    "truncated": ("truncated", {"window": 40}),
    "yarn": ("yarn", {"factor": 4}),
    "yarn by length": ("yarn", {"dynamic": True}),
    "streaming": ("streaming_llm", {"sinks": 2, "recent": 10, "chunk": 8}),
    "streaming by token": ("streaming_llm", {"sinks": 2, "recent": 10, "regime": "token"}),
    "sharedllm": ("sharedllm", {**SHARED, "policy": "maxsim", "injection": "top"}),
    "sharedllm last token": ("sharedllm", {**SHARED, "policy": "last_token", "injection": "interleaved"}),
    "sharedllm right": ("sharedllm", {**SHARED, "policy": "right"}),
    "sharedllm in host memory": ("sharedllm", {**SHARED, "policy": "maxsim", "injection": "top", "offload": True}),
    "sharedllm whole trees": ("sharedllm", WHOLE),
    "sharedllm whole trees in host memory": ("sharedllm", {**WHOLE, "offload": True}),
    "sharedllm right in host memory": ("sharedllm", {**SHARED, "policy": "right", "offload": True}),
}
ONE, BOTH = Runtime(random_weights=True), Runtime(random_weights=True, gpus=2)


def loaded(case: str) -> LongContextModel:
    """The method of a case; its cross-attention has an output that matters, whatever device it is on."""
    method, settings = CASES[case]
    preset = Preset(
        name="a", method=method, description="-", weights=Weights(source="none"), shape=SHAPE, settings=settings
    )
    model = registry.method(method).load(preset, ONE)
    if isinstance(model, SharedLLM):
        draws = torch.Generator().manual_seed(0)
        for cross in model.model.cross_attention:
            cross.o_proj.weight.data.copy_(torch.randn(32, 32, generator=draws) * 0.3)
    return model


def answers(model: LongContextModel) -> list[Any]:
    """What a model makes of a context: generated, scored, continued and batched."""
    context, query = [i * 7 % 290 for i in range(41)], Query([5, 6, 7, 8], (0, 3))
    session = model.prefill(context, [1])
    together = [Request(session, query, 4), Request(model.prefill(context[:15]), query, 4)]
    return [
        session.generate(query, 6),
        session.score(query, [9, 8, 7]).tolist(),
        session.score(Query(), [3, 4, 5]).tolist(),
        model.generate_batch(together),
        session.state_bytes,
    ]


def over_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every base be spread: the first layer on one device, two on the other."""
    made = random_model(shape_config(SHAPE), ONE)
    monkeypatch.setattr(load, "random_model", lambda *_: spread(made, 1))


@pytest.mark.parametrize("case", CASES)
def test_a_model_over_two_devices_answers_as_on_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1)  # several blocks of chunks
    wanted = answers(loaded(case))
    over_two(monkeypatch)
    with two_devices():
        model = loaded(case)
        found = answers(model)
    assert found == wanted
    assert model.device == DEVICES[0]
    assert model.fairness["decode"] == "eager"


def test_the_two_devices_refuse_what_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    one, other = (Placed(torch.ones(2), device) for device in DEVICES)
    with two_devices(), pytest.raises(RuntimeError, match="tensors of"):
        one + other
    over_two(monkeypatch)
    monkeypatch.setattr(layout, "layer_device", lambda layer: DEVICES[0])
    with two_devices(), pytest.raises(RuntimeError, match="tensors of"):
        answers(loaded("sharedllm"))


def on_meta(**fields: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape_config({**SHAPE, **fields}))


def test_layers_are_placed_in_order_and_evenly() -> None:
    places = placement(on_meta(num_hidden_layers=8), {0: 1 << 30, 1: 1 << 30})
    gpus = [places[f"model.layers.{i}"] for i in range(8)]
    assert gpus == sorted(gpus)
    assert 3 <= gpus.count(0) <= 5
    assert places["model.embed_tokens"] == 0
    assert places["lm_head"] == 1


def test_weights_that_do_not_fit_are_one_sentence() -> None:
    model = on_meta()
    size = sum(p.nbytes for p in model.parameters())
    with pytest.raises(UserError, match="raise gpus, or free memory"):
        placement(model, {0: size // 3, 1: size // 3})


@pytest.mark.parametrize("tied", [False, True])
def test_random_weights_depend_on_the_seed_and_not_on_the_placement(tied: bool) -> None:
    cpu, names = torch.device("cpu"), ["model.embed_tokens", *(f"model.layers.{i}" for i in range(3))]
    names += ["model.norm", "model.rotary_emb", "lm_head"]
    made = [
        materialised(on_meta(tie_word_embeddings=tied), dict.fromkeys(order, "cpu"), cpu, seed)
        for order, seed in ((names, 3), ([""], 3), (names, 4))
    ]
    one, whole, other = (model.state_dict() for model in made)
    assert one.keys() == whole.keys()
    assert not torch.equal(one["model.layers.2.mlp.up_proj.weight"], other["model.layers.2.mlp.up_proj.weight"])
    assert torch.equal(
        made[0].model.rotary_emb.inv_freq, random_model(shape_config(SHAPE), ONE).model.rotary_emb.inv_freq
    )
    assert made[0](torch.arange(5)[None]).logits.isfinite().all()
    assert (made[0].lm_head.weight is made[0].model.embed_tokens.weight) == tied
    assert 0.35 < one["model.layers.2.mlp.up_proj.weight"].std() < 0.45


def test_more_gpus_than_there_are_is_one_sentence(
    command: Callable[..., Result], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["--task", "efficiency", "--length", 64, "--device", "cpu", "--output", tmp_path / "run"]
    for preset, more in ((tiny_presets("full", "one"), ["--set", "gpus=2"]), (tiny_presets("full", "two", gpus=2), [])):
        done = command("--model", preset, *words, *more)
        assert done.code == 2
        assert "needs 2 GPUs of one machine, and this run has no GPU" in done.err
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    for wrong in ("0", "two", "true", "1.5", "1000"):
        done = command("--model", tiny_presets("full", "one"), *words, "--set", f"gpus={wrong}")
        assert done.code == 2
        assert "is not a whole number from 1 to 64" in done.err


def test_a_method_that_runs_on_one_gpu_says_so(
    command: Callable[..., Result], tiny_presets: Callable[..., Path]
) -> None:
    for method in ("retrieval", "kvpress"):
        done = command("--task", "needle", "--model", tiny_presets(method, settings={}), "--set", "gpus=2")
        assert done.code == 2
        assert "its method runs on one GPU; set gpus=1" in done.err


def test_gpus_are_no_part_of_a_cell_but_of_random_weights(tiny_presets: Callable[..., Path]) -> None:
    def ids(gpus: int, random: bool) -> list[str]:
        spec = RunSpec(
            tasks=["needle"],
            models=[str(tiny_presets("full"))],
            lengths=[512],
            settings={"gpus": gpus},
            random_weights=random,
        )
        return [cell.id for cell in plan(spec)]

    assert ids(1, random=False) == ids(2, random=False)
    assert ids(1, random=True) != ids(2, random=True)
    assert ids(2, random=True) == ids(4, random=True)


def test_names_and_peaks_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.device("cuda", i) for i in range(2)]
    names = {0: "H100", 1: "H100"}
    monkeypatch.setattr(hardware, "device_name", lambda device: names[device.index])
    assert hardware.devices_name(gpus[:1]) == "H100"
    assert hardware.devices_name(gpus) == "2 x H100"
    names[1] = "A100"
    assert hardware.devices_name(gpus) == "1 x H100 + 1 x A100"
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 10 + device.index)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 20 + device.index)
    memory = PeakMemory(gpus)
    assert (memory.peak_bytes(), memory.reserved_bytes()) == (21, 41)
    assert Runtime(device="cuda", gpus=2).devices() == tuple(gpus)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("case", CASES)
def test_two_gpus_answer_as_one(case: str, tmp_path: Path) -> None:
    from evals.methods.weights import byte_tokenizer

    random_model(shape_config(SHAPE), ONE).save_pretrained(tmp_path)
    byte_tokenizer(300).save_pretrained(tmp_path)
    method, settings = CASES[case]
    preset = Preset(name="a", method=method, description="-", weights=Weights(source=str(tmp_path)), settings=settings)
    one, two = (registry.method(method).load(preset, Runtime(device="cuda", gpus=gpus)) for gpus in (1, 2))
    assert len({p.device for p in two.model.parameters()}) == 2  # type: ignore[attr-defined]
    assert len(two.devices) == 2
    wanted, found = answers(one), answers(two)
    assert found[0] == wanted[0]
    for scores, others in zip(found[1:3], wanted[1:3], strict=True):
        assert scores == pytest.approx(others, abs=1e-3)
    assert found[3:] == wanted[3:]
