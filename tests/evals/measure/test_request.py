"""The cold pass: fresh reads only, medians, peaks, and out of memory as a result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from standins import Sum, SumSettings, Toy, write_preset

from evals.measure import request as measure
from evals.measure.request import PeakMemory, Timing, cold, is_out_of_memory
from evals.methods.base import Runtime
from evals.methods.presets import load_preset as load
from evals.tasks.base import DataSource, Instance


def toy(folder: Path, **settings: int) -> Toy:
    return Toy.load(load(str(write_preset(folder, "a", settings=settings))), Runtime())


def instances(model: Toy) -> list[Instance]:
    return list(Sum(None, SumSettings(contexts=1), DataSource()).instances(model.tokenizer, 64, None, 0))


def test_every_repeat_reads_the_context_anew(tmp_path: Path) -> None:
    model = toy(tmp_path)
    record = cold(model, instances(model)[0], new_tokens=4, repeats=3)
    assert model.reads == 3 + 1  # and the warm-up
    assert (record.status, record.repeats, record.new_tokens) == ("ok", 3, 4)
    assert (record.context_tokens, record.query_tokens) == (57, 2)
    assert record.state_bytes == 8 * 57
    assert record.request_s > record.ttft_s > 0
    assert record.tpot_p95_ms >= record.tpot_ms > 0


def test_a_target_is_read_as_part_of_the_query(tmp_path: Path) -> None:
    model = toy(tmp_path)
    assert cold(model, instances(model)[1]).query_tokens == 2 + 3


def test_time_to_first_token_is_read_and_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 2.0, 2.5, 2.6, 2.8, 21.0])  # begin; start, read, three tokens; end
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    model = toy(tmp_path)
    record = cold(model, instances(model)[0], new_tokens=3, repeats=9)  # 21 s were measured: no second repeat
    assert record.repeats == 1
    assert (record.read_s, record.query_s, record.ttft_s) == (2.0, 0.5, 2.5)
    assert record.tpot_ms == pytest.approx(150)
    assert record.tpot_p95_ms == pytest.approx(200)
    assert record.tokens_per_s == pytest.approx(2 / 0.3)


def test_a_request_takes_as_long_as_its_slow_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of ten milliseconds and one of two seconds, as the one that captures a graph."""
    clock = iter([0.0, 0.0, 1.0, 1.5, 3.5, 3.51, 3.52, 3.53, 30.0])  # begin; start, read, five tokens; end
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    model = toy(tmp_path)
    record = cold(model, instances(model)[0], new_tokens=5, repeats=9)
    assert record.tpot_ms == pytest.approx(10)
    assert record.request_s == pytest.approx(3.53)
    assert record.tokens_per_s == pytest.approx(4 / 2.03)


@pytest.mark.parametrize(("second", "unsteady"), [(2.9, False), (9.4, True)])
def test_a_time_whose_repeats_disagree_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: float, unsteady: bool
) -> None:
    first = [0.0, 2.0, 2.5, 2.6]  # start, read, two tokens
    clock = iter([0.0, *first, 3.0, 3.0, 3.0, 3.0 + second, 3.0 + second, 20.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    model = toy(tmp_path)
    record = cold(model, instances(model)[0], new_tokens=2, repeats=9)  # 3 s: a second repeat, and no third
    assert record.repeats == 2
    assert (record.ttft_low_s, record.ttft_high_s) == pytest.approx((min(2.5, second), max(2.5, second)))
    assert record.unsteady is unsteady


def test_out_of_memory_is_a_record_with_its_peak(tmp_path: Path) -> None:
    model = toy(tmp_path, room=58)  # the context fits, the query does not
    record = cold(model, instances(model)[0])
    assert record.status == "oom"
    assert record.peak_bytes > 0
    assert record.error == "CUDA out of memory: 59 tokens do not fit"


def test_only_lack_of_memory_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError())
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_out_of_memory(error.value)


def test_a_peak_counts_from_its_start_only() -> None:
    memory = PeakMemory([torch.device("cpu")])
    held = torch.ones(64 << 20, dtype=torch.uint8)
    del held
    memory.start()
    before = memory.peak_bytes()
    held = torch.ones(256 << 20, dtype=torch.uint8)
    del held
    assert 200 << 20 < memory.peak_bytes() - before < 300 << 20


def test_what_replays_is_warmed_up_by_the_request_that_captures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU: the times are those of replays, and the peak counts from the capture on."""
    model, events = toy(tmp_path), []
    monkeypatch.setattr(type(model), "replays", True)
    monkeypatch.setattr(type(model), "forget", lambda _: events.append("forget"))
    monkeypatch.setattr(measure, "request", lambda *_: events.append("read") or Timing(1.0, 1.0, [1.0]))
    monkeypatch.setattr(PeakMemory, "start", lambda _: events.append("peak"))
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    monkeypatch.setattr(model, "spread", (torch.device("cpu"),))
    cold(model, instances(model)[0], repeats=1)
    assert events == ["forget", "peak", "read", "read", "read"]
    events.clear()
    monkeypatch.setattr(type(model), "replays", False)
    cold(model, instances(model)[0], repeats=1)
    assert events == ["forget", "peak", "read", "peak", "read"]
