"""Task efficiency: what is measured, that models are measured in isolation, and the longest context that fits."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from benchmark_scripts import load
from fixtures.efficiency_run import write_efficiency_run
from hypothesis import given
from hypothesis import strategies as st
from processes import workers_of

from evals import registry
from evals.measure.device import Rates, measure_rates
from evals.measure.efficiency import Efficiency, EfficiencySettings, MaxLength, MaxLengthSettings, costs
from evals.measure.longest import longest
from evals.measure.request import Clock
from evals.measure.task import Measured
from evals.methods.base import Runtime
from evals.methods.presets import Preset, Weights
from evals.methods.weights import byte_tokenizer
from evals.records.models import Measurement
from evals.report.data import Data
from evals.report.load import load as read_whole
from evals.report.tables import summary_table
from evals.run.grid import Cell
from evals.run.identity import ModelChoice, TaskChoice
from evals.run.isolated import Loaded, Result, measure_isolated
from evals.tasks.common.source import DataSource

TOKENIZER = byte_tokenizer(258)


def toy_preset(**settings: Any) -> Preset:
    return Preset(
        name="toy",
        method="toy",
        description="",
        weights=Weights(source="nowhere"),
        settings={"factor": 1, **settings},
        shape={"model_type": "llama"},
    )


def toy_file(folder: Path, **settings: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_preset(**settings).model_dump()), encoding="utf-8")
    return path


@given(st.integers(0, 5000), st.integers(1, 3000), st.integers(1, 4000), st.integers(1, 64))
def test_longest_is_exact_and_asks_little(limit: int, start: int, cap: int, step: int) -> None:
    asked: list[int] = []

    def fits(tokens: int) -> bool:
        asked.append(tokens)
        return tokens <= limit

    found = longest(fits, start, cap, step)
    assert found == min(limit, cap) // step * step
    assert max(asked, default=0) <= cap
    assert len(asked) == len(set(asked))
    assert len(asked) <= 2 * math.log2(cap / step + 2) + 2


def test_an_instance_is_a_context_of_that_length() -> None:
    task = Efficiency(None, EfficiencySettings(query_tokens=8), DataSource())
    one, again, other = (task.instance(TOKENIZER, 100, seed) for seed in (1, 1, 2))
    assert len(one.prompt.context) == 100
    assert one.prompt.prefix == [256]
    assert len(one.prompt.query) == 8
    assert one.prompt == again.prompt
    assert one.prompt.context != other.prompt.context
    assert one.prompt.question == (0, 8)
    assert len(one.prompt) == one.prompt.audit.tokens == 109
    quiet = Efficiency(None, EfficiencySettings(search=False), DataSource())
    assert quiet.instance(TOKENIZER, 100, 1).prompt.question is None


PERF = Measurement(
    status="ok",
    ttft_s=4.0,
    tpot_ms=10.0,
    request_s=5.25,
    new_tokens=101,
    prefill_flops=2e12,
    decode_bytes=5e9,
    tokens_per_s=100.0,
    reserved_bytes=3 << 30,
    again_s=0.5,
)
RATES = Rates(matmul_flops=1e12, copy_bytes=1e12)


def test_costs_are_shares_of_the_floors() -> None:
    metrics = costs(PERF, RATES)
    assert metrics["total_s"] == 5.25
    assert (metrics["prefill_floor_s"], metrics["prefill_share"]) == (2.0, 0.5)
    assert (metrics["token_floor_ms"], metrics["token_share"]) == (5.0, 0.5)
    assert (metrics["tokens_per_s"], metrics["reserved_gib"], metrics["again_s"]) == (100.0, 3.0, 0.5)


def test_a_token_whose_context_comes_over_the_bus_has_no_floor(tmp_path: Path) -> None:
    over_bus = costs(PERF.model_copy(update={"bus_bytes": 1e9}), RATES)
    floors = {name: value for name, value in costs(PERF, RATES).items() if name not in over_bus}
    assert floors == {"token_floor_ms": 5.0, "token_share": 0.5}

    lines = (write_efficiency_run(tmp_path) / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    cell = rows[0]["cell"]
    for row in rows:
        if row["kind"] == "perf" and row["cell"] == cell:
            row["bus_bytes"] = 1e9
        if row["kind"] == "sample" and row["cell"] != cell:
            row["metrics"] |= floors
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data.of(read_whole(tmp_path))
    table = summary_table(data)
    dashes = table.text()["token_floor_ms"] == "\u2013"
    assert dashes.sum() == 1
    assert table.numbers()["token_floor_ms"][dashes].isna().all()
    [sentence] = [note for note in table.notes if "over the bus" in note]
    assert sentence.startswith(f"{data.run.cells[cell].model}: ")


def test_rates_are_those_of_this_machine() -> None:
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert 1e8 < rates.matmul_flops < 1e15
    assert 1e7 < rates.copy_bytes < 1e14


def test_clock_on_the_cpu() -> None:
    clock = Clock(torch.device("cpu"))
    for _ in range(3):
        clock.mark()
    assert len(clock.spans()) == 2
    assert min(clock.spans()) >= 0


def test_a_real_method_is_measured() -> None:
    shape = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    preset = Preset(name="tiny", method="full", description="", weights=Weights(source="nowhere"), shape=shape)
    model = registry.method("full").load(preset, Runtime(random_weights=True))
    task = Efficiency(None, EfficiencySettings(query_tokens=8, new_tokens=4, repeats=2, questions=3), DataSource())
    found = task.measure(model, task.instance(model.tokenizer, 200, 0), Rates(1e12, 1e12))
    perf, metrics = found.perf, found.metrics
    assert perf.status == "ok"
    assert perf.context_tokens == 201
    assert perf.new_tokens == 4
    assert perf.state_bytes == model.cost(201, 0).state_bytes
    assert 0 < perf.query_s < perf.ttft_s
    assert metrics["again_s"] > 0
    assert 0 < metrics["prefill_share"] < 1
    assert metrics["total_s"] == perf.request_s > perf.ttft_s


# --- isolated: the task runs in children, so what happens there is reported through metrics


class Telltale(Efficiency):
    """Says in which process it ran; 66 tokens kill it, 67 are a bug, 68 bad luck with memory, 69 take for ever."""

    def measure(self, model: Any, instance: Any, rates: Rates) -> Measured:
        tokens = len(instance.prompt.context)
        if tokens == 66:
            os._exit(7)
        if tokens == 67:
            raise KeyError("a bug")
        if tokens == 68:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if tokens == 69:
            time.sleep(600)
        return Measured(Measurement(status="ok"), {"pid": float(os.getpid())})


def cells(lengths: list[int], **settings: Any) -> list[Cell]:
    choice = ModelChoice(toy_preset(**settings), registry.method("toy"), Runtime(random_weights=True))
    task = TaskChoice("efficiency", Telltale(None, EfficiencySettings(), DataSource()))
    return [Cell(choice, task, length, 0) for length in lengths]


def test_a_failure_does_not_reach_other_cells(standins: None) -> None:
    grid = cells([64, 68, 66, 65, 67])
    messages = list(measure_isolated(grid))
    results = {cell.length: next(m for m in messages if isinstance(m, Result) and m.cell == cell.id) for cell in grid}
    assert [results[n].status for n in (64, 68, 66, 65, 67)] == ["ok", "oom", "failed", "ok", "failed"]
    assert sum(isinstance(m, Result) for m in messages) == len(grid)
    assert sum(isinstance(m, Loaded) for m in messages) == 2  # a new process after the death
    assert len({results[64].metrics["pid"], results[65].metrics["pid"], os.getpid()}) == 3
    assert "exit code 7" in str(results[66].error)
    assert results[67].error == "KeyError: 'a bug'"
    assert "measure" in str(results[67].traceback)
    perf = results[68].perf
    assert perf is not None
    assert perf.status == "oom"
    assert perf.peak_bytes > 0


def test_beyond_out_of_memory_nothing_is_tried(standins: None) -> None:
    grid = cells([68, 64, 90, 66])  # 68 has too little memory, 66 would kill the process
    results = [message for message in measure_isolated(grid) if isinstance(message, Result)]
    assert [(r.status, bool(r.metrics)) for r in results] == [
        ("oom", False), ("ok", True), ("oom", False), ("failed", False)
    ]  # fmt: skip
    assert results[2].error == "not tried: 68 tokens ran out of memory"


def relay(grid: list[Cell], tell: Connection) -> None:
    for message in measure_isolated(grid):
        tell.send(message)


def test_the_child_ends_with_a_killed_run(standins: None) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)
    run = multiprocessing.get_context("spawn").Process(target=relay, args=(cells([69]), send))
    run.start()
    send.close()
    assert isinstance(receive.recv(), Loaded)
    (child,) = workers_of(run.pid)
    run.kill()
    run.join()
    try:
        child.wait(timeout=30)
    finally:
        if child.is_running():
            child.kill()


def test_command(standins: None, command: Callable[..., Any], tmp_path: Path) -> None:
    """A grid with a cell that runs out of memory; the same command again has nothing left to do."""
    toy = toy_file(tmp_path, room=200)
    run = ("--task", "efficiency", "--model", toy, "--length", "64,96,256", "--random-weights")
    options = ("--set", "repeats=1", "--set", "new_tokens=3", "--output", tmp_path / "run")
    result = command(*run, *options)
    assert result.code == 0, result.err
    ok, long, lost = result.last["cells"]
    assert [cell["status"] for cell in (ok, long, lost)] == ["ok", "ok", "oom"]
    assert ok["metric"] == "total_s"
    assert ok["n"] == 1
    assert {"total_s", "again_s", "token_share"} <= ok["metrics"].keys()
    assert (ok["state_gib"], long["state_gib"]) == (8 * 65 / 2**30, 8 * 97 / 2**30)
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    perf = [record for record in map(json.loads, lines) if record["kind"] == "perf"]
    assert perf[0]["rates"]["matmul_flops"] > 0
    assert perf[2]["peak_bytes"] > 0
    again = command(*run, *options)
    assert again.code == 0
    assert [cell["status"] for cell in again.last["cells"]] == ["ok", "ok", "oom"]
    assert (tmp_path / "run" / "samples.jsonl").read_text().splitlines() == lines


def test_maxlen_is_another_task(standins: None, command: Callable[..., Any], tmp_path: Path) -> None:
    toy = toy_file(tmp_path)
    result = command("--task", "efficiency", "--maxlen", "--random-weights", "--dry-run", "--model", toy)
    assert [(cell["task"], cell["length"]) for cell in result.last["cells"]] == [("efficiency-maxlen", 1 << 20)]
    assert command("--task", "needle", "--maxlen", "--model", toy).code == 2


def test_maxlen_says_when_nothing_fits_and_when_the_end_is_reached(standins: None) -> None:
    task = MaxLength(None, MaxLengthSettings(start=64, step=32, query_tokens=4), DataSource())
    # BOS + context + 4 query tokens must fit
    for room, status, found in ((20, "oom", None), (200, "ok", 192.0), (10_000, "ok", 256.0)):
        model = registry.method("toy").load(toy_preset(room=room), Runtime())
        measured = task.measure(model, task.instance(model.tokenizer, 256, 0), Rates(1.0, 1.0))
        assert measured.perf.status == status
        assert measured.metrics.get("max_tokens") == found
    assert measured.metrics["limited_by_memory"] == 0


def test_maxlen_is_limited_by_memory_only_where_a_step_did_not_fit(standins: None) -> None:
    task = MaxLength(None, MaxLengthSettings(start=64, step=32, query_tokens=4), DataSource())
    for room, found, limited in ((10_000, 96.0, 0.0), (100, 64.0, 1.0)):
        model = registry.method("toy").load(toy_preset(room=room), Runtime())
        measured = task.measure(model, task.instance(model.tokenizer, 120, 0), Rates(1.0, 1.0))
        assert measured.metrics == {"max_tokens": found, "limited_by_memory": limited}


def test_maxlen_needs_a_length_of_one_step(standins: None, command: Callable[..., Any], tmp_path: Path) -> None:
    run = ("--task", "efficiency", "--maxlen", "--random-weights", "--model", toy_file(tmp_path), "--length", 512)
    result = command(*run, "--output", tmp_path / "run")
    assert result.code == 2
    assert "A length of 512 tokens is shorter than the search's step of 1024" in result.err


# --- benchmarks/paper_overhead.py


@pytest.fixture(scope="module")
def overhead() -> Any:
    return load("paper_overhead")


@pytest.mark.parametrize("height", [1, 2, 3, 4])
@pytest.mark.parametrize("beta", [8, 16, 64])
def test_ratios_give_the_compression_asked_for(overhead: Any, beta: float, height: int) -> None:
    ratios = overhead.ratios(beta, height)
    sizes = [2.0**-level for level in range(1, height + 1)]
    sizes[-1] *= 2  # both halves of the last split are kept
    assert sum(size / ratio for size, ratio in zip(sizes, ratios, strict=True)) == pytest.approx(1 / beta)
    assert overhead.ratios(8, 3) == [16, 8, 4]
    assert overhead.ratios(1, 3) == [1, 1, 1]


def test_overheads_stand_beside_the_papers(overhead: Any) -> None:
    rows = overhead.variants([9, 10, 11, 12])
    base = toy_preset()
    made = overhead.models(base, rows)
    assert len(made) == 19
    assert len({preset.name for preset in made}) == 16
    names = list(dict.fromkeys(preset.name for preset in made))
    summary = pd.DataFrame({"model": names, "status": "ok", "total_s": range(1, 17), "ttft_s": 0.5, "peak_gib": 2.0})
    compared = overhead.compare(rows, made, summary).set_index("variant")
    default = summary.set_index("model").loc[base.name, "total_s"]
    assert compared.loc["M=4", "total_s"] == compared.loc["beta=8", "total_s"] == default
    assert compared.loc["M=1", "total_s_ratio"] == pytest.approx(1 / default)
    assert compared.loc["M=16", "paper_time_s_ratio"] == pytest.approx(25.85 / 11.81)
    assert compared.loc["policy=last_token", "paper_memory_gb_ratio"] == pytest.approx(1.15)
    assert (compared["peak_gib_ratio"] == 1).all()
    assert (compared["ttft_s_ratio"] == 1).all()
    overhead.plot(compared.reset_index()).savefig(io.BytesIO(), format="svg")


def test_overhead_command_plans_every_variant_once(overhead: Any, tmp_path: Path, capfd: Any) -> None:
    preset = tmp_path / "tiny.yaml"
    shape = {"model_type": "llama", "vocab_size": 300, "hidden_size": 16, "num_attention_heads": 2}
    fields = {"name": "tiny", "method": "sharedllm", "description": "", "weights": {"source": "nowhere"}}
    preset.write_text(yaml.safe_dump(fields | {"settings": {"policy": "right"}, "shape": shape}), encoding="utf-8")
    assert overhead.main(["--preset", str(preset), "--output", str(tmp_path), "--dry-run"]) == 0
    cells = json.loads(capfd.readouterr().out.splitlines()[-1])["cells"]
    assert cells[0]["model"] == "tiny"
    assert len(cells) == 16
    assert {cell["length"] for cell in cells} == {8192}
