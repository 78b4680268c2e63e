"""The estimate of a run's time: from formulas, corrected by what was measured, and honest about the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from not_empty import not_empty
from shapes import TINY_SHAPE
from standins import write_preset

from evals.methods import presets
from evals.methods.base import Runtime
from evals.records.models import CellState, Measurement, PerfRecord, RunMeta
from evals.records.read import read_run
from evals.records.seconds import cold_seconds
from evals.run.devices import BUS_BYTES, GPUS, REFERENCE
from evals.run.dry_run import planned
from evals.run.estimate import STEP_S, estimate
from evals.run.grid import plan
from evals.run.plan_record import record_plan
from evals.run.spec import RunSpec
from evals.run.work import ASSUMED_SAMPLES, expected_work

pytestmark = pytest.mark.usefixtures("standins")
SHAPE = {
    **TINY_SHAPE,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "max_position_embeddings": 8192,
}


def spec_of(folder: Path, *methods: str, **fields: Any) -> RunSpec:
    models = [str(write_preset(folder, method, method=method, shape=SHAPE)) for method in methods]
    return RunSpec(
        models=models, **{"tasks": ["needle"], "lengths": [1024, 4096], "perf": False, "random_weights": True, **fields}
    )


def test_the_work_is_that_of_the_methods_formula(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "full", "streaming_llm", limit=4)
    works = expected_work(plan(spec), spec, "bfloat16")
    model = plan(spec)[0].model

    dense = model.method.load(model.preset, Runtime(device="meta", dtype="bfloat16", random_weights=True))
    assert works[0].read_flops == 4 * dense.cost(1024 - 64, 64).prefill_flops
    assert works[0].steps == 4 * plan(spec)[0].task.task.answer_tokens() > 0
    assert works[0].weight_bytes == works[1].weight_bytes == sum(p.nbytes for p in dense.model.parameters())
    assert not any(work.assumed for work in not_empty(works))
    assert works[0].state_bytes == dense.cost(1024 - 64, 64).state_bytes
    assert works[2].state_bytes <= works[3].state_bytes < works[1].state_bytes, "streaming keeps a window of tokens"


def test_perplexity_reads_a_window_per_control_and_generates_nothing(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "full", tasks=["perplexity"], lengths=[1024], limit=3)
    both = spec.model_copy(update={"settings": {"task.context": ("own", "other")}})
    one = spec.model_copy(update={"settings": {"task.context": ("own",)}})
    (two,), (single,) = (expected_work(plan(s), s, "float32") for s in (both, one))
    assert two.read_flops == 2 * single.read_flops
    assert two.steps == 0


def test_what_no_formula_gives_is_named(tmp_path: Path) -> None:
    path = write_preset(tmp_path, "shapeless", method="full", weights={"source": "hub:nobody/nothing"}, shape=None)
    spec = RunSpec(tasks=["perplexity"], models=[str(path)], lengths=[1024], offline=True)
    found = estimate(plan(spec), spec, REFERENCE, "bfloat16")
    text = " ".join(found.assumes)
    assert "two FLOPs per token for each of 7 billion parameters (no formula: no shape" in text
    assert f"perplexity: {ASSUMED_SAMPLES} samples a cell (no --limit)" in text
    assert found.seconds[0] > 0


def test_a_faster_device_takes_less_time_and_a_token_has_a_floor(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "full", limit=4)
    slow, fast = (estimate(plan(spec), spec, GPUS[name], "bfloat16") for name in ("A100", "H100"))
    assert all(f < s for f, s in zip(fast.seconds, slow.seconds, strict=True))
    assert fast.seconds[0] >= 4 * STEP_S
    walls = fast.walls()
    assert walls[1] == pytest.approx(sum(fast.seconds) + fast.load_s[0])
    assert list(walls.values()) == sorted(walls.values(), reverse=True)


def test_a_model_over_two_gpus_costs_both(tmp_path: Path) -> None:
    one = spec_of(tmp_path, "full", "truncated", limit=4)
    both = one.model_copy(update={"settings": {"gpus": 2}})
    single, double = (estimate(plan(spec), spec, REFERENCE, "bfloat16") for spec in (one, both))
    assert double.seconds == single.seconds
    assert double.hours == 2 * single.hours
    assert min(double.walls()) == 2
    assert double.walls()[2] == single.walls()[1]
    assert double.walls()[4] == single.walls()[2]
    three = one.model_copy(update={"settings": {"gpus": 3}})
    assert list(estimate(plan(three), three, REFERENCE, "bfloat16").walls()) == [3, 8, 16]


def test_an_earlier_run_corrects_the_estimate_once(tmp_path: Path, command: Callable[..., Any]) -> None:
    """The second run knows how far off the first plan was, whatever that plan itself was corrected by."""
    preset = write_preset(tmp_path, "a")
    base = ("--task", "sum", "--model", preset, "--length", 64, "--random-weights", "--device", "cpu")
    assert command(*base, "--output", tmp_path / "one", "--set", "pause=0.01").code == 0
    assert command(*base, "--output", tmp_path / "two", "--plan-from", tmp_path / "one", "--seed", 1).code == 0
    plans = [read_run(tmp_path / name) for name in ("one", "two")]
    (first,), (second,) = ([state.planned_s for state in meta.cells.values()] for meta in plans)
    factor = plans[1].plan["factors"]["a"]
    assert plans[0].plan["factors"] == {}
    assert second == pytest.approx(first * factor)
    assert any(f"times {factor:.3g}, as measured in" in sentence for sentence in plans[1].plan["assumes"])
    frame = pd.read_csv(tmp_path / "two" / "tables" / "plan.csv")
    assert list(frame["model"]) == ["a", "all of these"]
    assert frame["planned s"].tolist() == pytest.approx([second, second])
    assert frame["measured s"][0] > 0
    assert frame["measured / planned"][1] == pytest.approx(frame["measured s"][0] / second)
    page = (tmp_path / "two" / "report.html").read_text()
    assert 'id="plan"' in page
    assert plans[1].plan["assumes"][0] in page
    dry = command(*base, "--output", tmp_path / "two", "--dry-run")
    assert dry.code == 0
    assert dry.last["plan"]["gpu_hours"] > 0
    assert dry.last["plan"]["wall_hours"]["1"] >= dry.last["plan"]["gpu_hours"]
    assert "as measured in" in dry.out
    missing = command(*base, "--dry-run", "--plan-from", tmp_path / "nowhere")
    assert (missing.code, "is not a run" in missing.err) == (2, True)


def test_a_complete_pass_keeps_the_plan_that_it_was_made_with(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "full", limit=4)
    cells = plan(spec)
    meta = RunMeta(created="2026-01-01", models={}, cells={cell.id: cell.state() for cell in cells})
    record_plan(meta, cells, spec)
    before = [state.planned_s for state in meta.cells.values()]
    states: list[CellState] = list(meta.cells.values())
    states[0].status, states[0].limit = "ok", 4
    record_plan(meta, cells, spec.model_copy(update={"limit": 2}))
    after = [state.planned_s for state in meta.cells.values()]
    assert after[0] == before[0]
    assert after[1] is not None
    assert before[1] is not None
    assert after[1] < before[1]


def test_a_context_in_host_memory_comes_over_the_bus_for_each_token() -> None:
    near = RunSpec(tasks=["needle"], models=["sharedllm-7b"], lengths=[131072], limit=1, offline=True, perf=False)
    far = near.model_copy(update={"settings": {"offload": True}})
    (here,), (there,) = (estimate(plan(spec), spec, REFERENCE, "bfloat16").works for spec in (near, far))
    assert there.bus_bytes > 0 == here.bus_bytes
    (short,), (long,) = (estimate(plan(spec), spec, REFERENCE, "bfloat16").seconds for spec in (near, far))
    assert long - short == pytest.approx(there.steps * there.bus_bytes / BUS_BYTES)
    assert any("over a bus of 50 GB/s" in sentence for sentence in there.assumed)


def test_memory_and_times_of_a_plan_are_for_one_device_and_dtype(tmp_path: Path, command: Callable[..., Any]) -> None:
    """Where a run here would take float32 on the CPU, as where it would not."""
    preset = write_preset(tmp_path, "full", method="full", shape=SHAPE)
    words = ("--task", "needle", "--model", preset, "--length", 4096, "--limit", 4, "--random-weights", "--dry-run")
    half, single = (command(*words, "--device", "cpu", *more) for more in ((), ("--dtype", "float32")))
    for found, dtype in ((half, "bfloat16"), (single, "float32")):
        assert f"Memory and times are for {REFERENCE.name} in {dtype}." in found.out
        assert found.last["plan"]["dtype"] == dtype
    ((low,), (high,)) = (found.last["cells"] for found in (half, single))
    for size in ("weight_bytes", "state_bytes", "dense_kv_bytes"):
        assert high[size] == 2 * low[size] > 0
    assert high["planned_s"] > low["planned_s"]


def test_a_plan_has_the_memory_of_what_a_method_adds_and_of_a_context_as_long_as_the_length() -> None:
    """CEPE has an encoder; `efficiency` reads a query after its context, so no chunk of SharedLLM's is left over."""
    spec = RunSpec(
        tasks=["efficiency"], models=["full-7b", "cepe-7b", "sharedllm-7b"], lengths=[131072], random_weights=True
    ).model_copy(update={"dtype": "bfloat16"})
    full, cepe, shared = planned(plan(spec), spec).rows
    assert full.weight_bytes == 2 * 6_738_415_616
    assert cepe.weight_bytes and cepe.weight_bytes > 1.2 * full.weight_bytes
    assert shared.weight_bytes == full.weight_bytes + 4 * 2 * (2 * 4096 * 4096 + 4096), "queries, outputs and norms"
    assert shared.state_bytes == 128 * 2 * 128 * 4 * 4096 * 2 + (1 + 64) * 2 * 32 * 4096 * 2


def test_cold_requests_count_with_their_warm_up() -> None:
    perf = Measurement(status="ok", ttft_s=2.0, tpot_ms=100.0, new_tokens=11, repeats=3)
    assert cold_seconds(PerfRecord.of("c", perf)) == pytest.approx(4 * 3.0)
    assert cold_seconds(PerfRecord.of("c", perf.model_copy(update={"request_s": 3.5}))) == pytest.approx(4 * 3.5)
    assert cold_seconds(PerfRecord.of("c", Measurement(status="oom"))) == 0


@pytest.mark.parametrize("name", ["full-7b", "sharedllm-7b", "cepe-7b", "beacon-7b", "longllama-3b", "retrieval-7b"])
def test_the_formulas_of_our_methods_need_no_weights(name: str) -> None:
    assert presets.load_preset(name).shape
    spec = RunSpec(tasks=["needle"], models=[name], lengths=[32768], limit=1, offline=True)
    (work,) = expected_work(plan(spec), spec, "bfloat16")
    assert not work.assumed
    assert 1e12 < work.read_flops < 1e17
