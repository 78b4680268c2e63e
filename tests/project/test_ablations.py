"""benchmarks/ablations.py: variants share start and batches, a finished one is not run again, tables hold both."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ablation_bench as bench
import ablation_report as report
import ablations
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from not_empty import not_empty
from processes import workers_of

from evals.report import published
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.tree import entries_per_chunk

SCRIPT = Path(ablations.__file__)
SETTINGS = ["chunk_size=64", "lower_layers=2", "windows=2", "chunks=[2]", "running=64", "warmup=1", "max_chunks=8"]


@pytest.fixture(scope="module")
def options(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two documents whose sentences repeat, for training and evaluation alike."""
    file = tmp_path_factory.mktemp("texts") / "text.jsonl"
    rng = np.random.default_rng(0)
    rows = [" ".join(f"word{n}" for n in rng.integers(40, size=900)) for _ in range(2)]
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    texts = ["--data", str(file), "--heldout", str(file)]
    return ["--base", str(tiny_llama), *texts, "--windows", "2"]


def run(options: list[str], output: Path, *more: str) -> dict[str, Any]:
    ablations.main([*options, "--output", str(output), *more])
    return json.loads((output / "ablation.json").read_text(encoding="utf-8"))["variants"]


def without_times(done: dict[str, Any]) -> dict[str, Any]:
    """What a variant learned and scored."""
    log = {n: [(e["step"], e["loss"], e["grad_norm"]) for e in found["log"]] for n, found in done.items()}
    return {n: (found["scores"], log[n], found["steps"]) for n, found in done.items()}


def test_variants_are_trained_compared_and_not_run_twice(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["injection=top", "beta=1", "split_noise=0.2"]
    more = ["--steps", "3", "--variants", ",".join(names), "--set", *SETTINGS]
    done = run(options, tmp_path, *more)
    assert set(done) == {"reference", *names}
    assert {record["steps"] for record in done.values()} == {3}
    assert [done[n]["entries"] for n in ("reference", *names)] == [8, 8, 64, 8]
    assert len({str(found["scores"]["own"]) for found in done.values()}) == 4, "every setting makes a difference"
    none = [np.round(found["scores"]["none"], 5).tolist() for found in done.values()]
    assert none.count(none[0]) == 4, "the base is the same"

    rows = pd.read_csv(tmp_path / "ablation.csv").set_index("variant")
    assert list(rows.index) == ["reference", *names]
    mine, reference = (np.mean(done[n]["scores"]["own"]) for n in ("beta=1", "reference"))
    assert rows.loc["beta=1", "change of loss (nats per token)"] == pytest.approx(mine - reference)
    assert rows.loc["beta=1", "paper: Arxiv ppl"] == 2.43
    assert "split_noise=0.2" in (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert {p.name for p in tmp_path.glob("*.png")} == {"ablation-use.png", "ablation-own.png"}
    log = (tmp_path / "variants" / "beta=1" / "train.log").read_text(encoding="utf-8")
    assert "step 3/3" in log
    assert not list(tmp_path.rglob("checkpoint.pt"))

    with monkeypatch.context() as patch:
        patch.setattr(ablations, "results", None)  # nothing is left to train
        assert run(options, tmp_path, *more) == done


def test_two_jobs_killed_and_gone_on_with_are_the_same_as_one(options: list[str], tmp_path: Path) -> None:
    more = ["--variants", "beta=1,height=2", "--steps", "80", "--set", *SETTINGS, "windows=1", "chunks=[1]"]
    killed, errors = tmp_path / "killed", tmp_path / "stderr"

    def one_done_another_half() -> bool:
        record = killed / "ablation.json"
        done = json.loads(record.read_text())["variants"] if record.exists() else {}
        return bool(done) and any(path.parent.name not in done for path in killed.glob("variants/*/checkpoint.pt"))

    command = [sys.executable, str(SCRIPT), *options, *more, "--output", str(killed), "--jobs", "2"]
    single = {**os.environ, "OMP_NUM_THREADS": "1"}
    with errors.open("w") as stream, subprocess.Popen(command, stderr=stream, env=single) as process:
        deadline = time.monotonic() + 120
        while not one_done_another_half():
            assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
            time.sleep(0.02)
        children = workers_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
    assert children and not psutil.wait_procs(children, timeout=60)[1], "workers end with their parent"
    assert "[1/3]" in errors.read_text()
    assert "step 80/80" not in errors.read_text()
    assert without_times(run(options, killed, *more)) == without_times(run(options, tmp_path / "whole", *more))


def test_a_variant_does_not_depend_on_those_before_it(options: list[str], tmp_path: Path) -> None:
    changes = {"chunk_size": 64, "lower_layers": 2, "windows": 2, "chunks": [2], "running": 64, "warmup": 1}
    training = {"max_chunks": 8, "trainable": ["cross_attention", "top"], "lr_base": 0.01}
    settings = bench.shared_settings(2, False, changes | training)
    text = (Path(options[3]),)
    found = bench.Bench(bench.Recipe(options[1], text, text, tmp_path, settings.model_dump_json(), 2))
    names = ("key_positions=node", "injection=top", "key_positions=node")
    alone, _, after = (found.run(bench.VARIANTS[n], tmp_path / str(i)) for i, n in enumerate(names))
    assert alone["scores"] == after["scores"]
    untrained = SharedLLMForCausalLM.from_base(found.base, **settings.method)
    assert found.evaluate(untrained.eval())["none"] != alone["scores"]["none"], "the top layers were trained"


def test_needles_vary_the_search(options: list[str], tmp_path: Path) -> None:
    stage = "needles=[{windows: 2, chunks: 2, needles: 2, questions: 1, share: 0.7}]"
    changed = [*SETTINGS, "chunk_size=256", "running=256", "needle_running=400", stage]
    done = run(options, tmp_path, "--steps", "4", "--variants", "policy=right", "--set", *changed)
    assert {kind for entry in done["reference"]["log"] for kind in entry["loss"]} == {"lm", "needle 2"}
    assert all(0 <= score <= 1 for record in done.values() for score in not_empty(record["scores"]["digits"][0]))
    assert (tmp_path / "ablation-digits.svg").exists()


def test_held_out_losses_are_those_of_each_window_alone(options: list[str], tmp_path: Path) -> None:
    settings = bench.shared_settings(1, False, {"chunk_size": 64, "lower_layers": 2, "chunks": [2], "running": 64})
    text = (Path(options[3]),)
    found = bench.Bench(bench.Recipe(options[1], text, text, tmp_path, settings.model_dump_json(), 2))
    model = SharedLLMForCausalLM.from_base(found.base, **settings.method).eval()
    model.cross_attention[0].o_proj.weight.data.normal_(std=0.5)
    [corpus] = found.heldout
    losses = bench.losses(model, corpus, 2, 64, 3)
    assert losses["use"] == [o - w for o, w in zip(losses["other"], losses["own"], strict=True)]
    assert len(losses["own"]) == 3
    assert all(use != 0 for use in losses["use"])
    rng = np.random.default_rng(0)
    first = corpus.document(0)
    start = int(rng.integers(len(first) - 192 + 1))
    row = torch.from_numpy(first[start : start + 192].astype(np.int64))[None]
    context, running = row[:, :128].view(1, 2, 64), row[:, 128:]
    with torch.no_grad():
        logits = model(input_ids=running, context_ids=context).logits[0, :-1]
    assert losses["own"][0] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, running[0, 1:])), abs=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "height=9"], "no variant 'height=9'"),
        (["--variants", "policy=right"], "add --needles"),
        (["--set", "no_such=1"], "no_such"),
        (["--data", "missing.jsonl"], "no data file missing.jsonl"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str], tmp_path: Path, capsys: Any, more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        ablations.main([*options, "--output", str(tmp_path), *more])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_variant_with_other_settings_does_not_join_a_record(options: list[str], tmp_path: Path, capsys: Any) -> None:
    chosen = ["--variants", "reference", "--set", *SETTINGS]
    run(options, tmp_path, "--steps", "1", *chosen)
    with pytest.raises(SystemExit):
        run(options, tmp_path, "--steps", "2", *chosen)
    assert "other settings" in capsys.readouterr().err


def test_the_variants_are_those_of_the_paper() -> None:
    paper = published.table(5)
    shown = {v.paper for v in bench.VARIANTS.values()} | {v.paper_reference for v in bench.VARIANTS.values()}
    same_as_default = {"beta=8", "injection=bottom"}
    assert set(paper["variant"]) - same_as_default == shown - {None}
    assert bench.METHOD["ratios"] == [16, 8, 4]
    for name, variant in bench.VARIANTS.items():
        beta = 1024 / entries_per_chunk(1024, variant.settings.get("ratios", [16, 8, 4]), "equidistant")
        wanted = float(name.partition("=")[2]) if name.startswith("beta") else 8
        assert beta == pytest.approx(wanted, rel=0.02), name


def test_a_change_of_the_papers_perplexity_is_in_nats() -> None:
    variants = bench.VARIANTS
    assert report.paper_change(variants["beta=1"], "Arxiv") == (2.43, pytest.approx(math.log(2.43 / 2.46)))
    assert report.paper_change(variants["split_noise=0.2"], "MD-QA") == (30.93, pytest.approx(30.93 - 30.08))
    assert report.paper_change(variants["reference"], "Arxiv") == (2.46, None)
    assert report.paper_change(variants["policy=right"], "Arxiv") == (None, None)
    assert report.paper_change(variants["policy=maxsim"], "Arxiv") == (None, None)


def test_the_interval_of_paired_windows() -> None:
    found = report.mean_interval([[1.0, 2.0, 3.0]])
    assert found.estimate == 2
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3)) == 2 - found.low
    two = report.mean_interval([[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]])  # distance between files does not count
    assert two.estimate == 7
    assert two.high - 7 == pytest.approx(2.776445 * math.sqrt(1 / 3 + 1 / 3) / 2)
    done = {n: {"scores": {"own": [[base, base + 5.0]]}} for n, base in (("reference", 1.0), ("x", 1.5))}
    assert report.paired(done, "x", "own").estimate == pytest.approx(0.5)


def test_slow_variants_begin_first() -> None:
    names = bench.longest_first(list(bench.VARIANTS), bench.shared_settings(1, True, {}))
    assert names[:3] == ["reference", "split_noise=0.2", "beta=1"]
    assert set(names) == set(bench.VARIANTS)
