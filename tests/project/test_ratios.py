"""benchmarks/ratios.py: measured ratios of methods beside those of their floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmark_scripts import load
from fixtures.efficiency_run import write_efficiency_run
from not_empty import not_empty

SHARES = {"sharedllm-7b": (0.7, 0.8), "beacon-7b": (0.65, 0.78), "cepe-7b": (0.5, 0.4)}
"""Of the floors until the first token and per token."""


@pytest.fixture(scope="module")
def script() -> Any:
    return load("ratios")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in which every model reaches its SHARES at every length; Beacon's tokens at 64K have no floor."""
    folder = write_efficiency_run(tmp_path / "run", models=tuple(SHARES), stop=131072)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    times = {line["cell"]: line for line in lines if line["kind"] == "perf"}
    for line in lines:
        if line["kind"] != "sample":
            continue
        perf, (first, token) = times[line["cell"]], SHARES[line["cell"].rpartition("-")[0]]
        line["metrics"] |= {"prefill_floor_s": first * perf["ttft_s"], "prefill_share": first}
        if line["cell"] != "beacon-7b-65536":
            line["metrics"] |= {"token_floor_ms": token * perf["tpot_ms"], "token_share": token}
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_quotient_of_ratios_is_that_of_the_shares(script: Any, run: Path, tmp_path: Path) -> None:
    script.main([str(run), "--new-tokens", "100", "--output", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "ratios.csv")
    for row in not_empty(rows.to_dict("records")):
        assert row["measured / floors"] == pytest.approx(row["measured"] / row["floors"])
        assert row["measured / floors"] == pytest.approx(row["share of the other"] / row["share"])
    pair = (rows["model"] == "cepe-7b") & (rows["over"] == "sharedllm-7b") & (rows["length"] == "128K")
    first, token, both = (row for _, row in rows[pair].iterrows())
    assert [row["request"] for row in (first, token, both)] == ["first token", "per token", "first token + 100 more"]
    assert (first["measured / floors"], token["measured / floors"]) == pytest.approx((0.7 / 0.5, 0.8 / 0.4))
    assert first["measured"] == pytest.approx(1.11 / 0.36)
    assert both["measured"] == pytest.approx((1.11 + 100 * 0.0121) / (0.36 + 100 * 0.0077))


def test_ratios_agree_where_shares_do(
    script: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([str(run), "--output", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "ratios.csv")
    beacon = (rows["model"] == "beacon-7b") & (rows["request"] == "first token")
    assert set(rows[beacon]["agree"]) == {"yes"}, "0.7 / 0.65 is within a tenth"
    assert set(rows[rows["model"] == "cepe-7b"]["agree"]) == {"no"}
    assert f"{sum(rows['agree'] == 'yes')} of {len(rows)} measured ratios agree" in capsys.readouterr().out


def test_what_was_not_measured_and_tokens_without_a_floor_are_left_out(script: Any, run: Path, tmp_path: Path) -> None:
    script.main([str(run), "--output", str(tmp_path)])
    rows = pd.read_csv(tmp_path / "ratios.csv")
    assert set(rows["length"]) == {"8K", "16K", "32K", "64K", "128K"}
    at = rows[rows["length"] == "64K"].groupby("request").size()
    assert (at["first token"], at["per token"], at["first token + 128 more"]) == (3, 1, 1)


def test_other_runs_are_refused(script: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = write_efficiency_run(tmp_path / "without", models=("full-7b", "cepe-7b"))
    for arguments, reason in (
        ([str(without)], "has no floors"),
        ([str(tmp_path)], "is not a run"),
        ([str(run), "--new-tokens", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit, match="2"):
            script.main(arguments)
        assert reason in capsys.readouterr().err
