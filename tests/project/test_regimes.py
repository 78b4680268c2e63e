"""benchmarks/regimes.py: floors by arithmetic, and from which length on a ratio can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark_scripts import load

from evals.measure.device import Rates


@pytest.fixture(scope="module")
def script() -> Any:
    return load("regimes")


def test_floors_of_the_7b_shape(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: script.MODELS[name] for name in (script.SHARED, "StreamingLLM", "dense, YaRN")}
    monkeypatch.setattr(script, "MODELS", chosen)
    monkeypatch.setattr(script, "LENGTHS", [])
    found = script.floors(Rates(748e12, 2.96e12))
    shared, streaming, dense = (found[name] for name in chosen)
    # linear maps of 32 layers against 3 layers with keys and values of a fourth, 202M and 34M weights a layer
    assert streaming[1 << 20].prefill_s / shared[1 << 20].prefill_s == pytest.approx(32 / (3 + 34 / 202), rel=0.12)
    assert streaming[1 << 20].token_s == streaming[8192].token_s  # its state does not grow
    kept = 2 * 4 * 4096 * 2 * (128 - 8) * 128  # keys and values of 4 layers, 128 entries per chunk
    assert shared[1 << 17].nbytes - shared[1 << 13].nbytes == kept
    assert dense[1 << 17].nbytes > 75 * script.GIB > shared[1 << 20].nbytes


def floor(script: Any, prefill: float, token: float) -> Any:
    return script.Floor(prefill, token, 0)


def test_a_request_is_prefill_and_tokens(script: Any) -> None:
    one = floor(script, 2.0, 0.01)
    assert one.total(100) == 3.0
    assert one.total(100, launch_s=0.05) == 7.0
    assert one.total(100, launch_s=0.001) == 3.0, "bytes take longer than launches"


def test_thresholds(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LENGTHS", [1, 2, 3, 4])
    shared = {n: floor(script, n, 0.0) for n in script.LENGTHS}
    rival = {n: floor(script, n * n, 0.0) for n in script.LENGTHS}
    assert script.threshold(rival, shared, 3.0, 10, 0.0) == 3
    assert script.threshold(rival, shared, 5.0, 10, 0.0) == 0
    assert script.threshold(rival, shared, 3.0, 10, launch_s=1.0) == 0, "ten equal tokens hide the prefill"
    rival[4] = floor(script, 4, 0.0)
    assert script.threshold(rival, shared, 3.0, 10, 0.0) == 0, "it must hold from there on"


def test_files(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(rates: Rates) -> dict[str, Any]:
        lengths = sorted({*script.LENGTHS, *script.TABLE_LENGTHS})
        speeds = {name: 2.0 if name == "Activation Beacon" else 1.0 for name in script.MODELS}
        return {name: {n: floor(script, s * n / 1e5, 0.005) for n in lengths} for name, s in speeds.items()}

    monkeypatch.setattr(script, "floors", made)
    script.main(["--output", str(tmp_path), "--new-tokens", "10"])
    rows = pd.read_csv(tmp_path / "regimes.csv")
    assert len(rows) == len(script.TABLE_LENGTHS) * len(script.MODELS)
    beacon = rows[(rows["model"] == "Activation Beacon") & (rows["length"] == "1M")].iloc[0]
    assert beacon["prefill ratio"] == pytest.approx(2.0)
    assert beacon["token ratio"] == pytest.approx(1.0)
    assert beacon["end-to-end ratio"] == pytest.approx((2 * 10.48576 + 0.05) / (10.48576 + 0.05))
    assert set(pd.read_csv(tmp_path / "thresholds.csv")["against"]) == set(script.MODELS) - {script.SHARED}
    assert (tmp_path / "regimes.png").stat().st_size > 10_000
