"""benchmarks/ablations.py: variants share start and batches, a finished one is not run again, tables hold both."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sharedllm.tree import entries_per_chunk

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ["chunk_size=64", "lower_layers=2", "windows=2", "chunks=[2]", "running=64", "warmup=1", "max_chunks=8"]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("ablations", ROOT / "benchmarks" / "ablations.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two documents whose sentences repeat, for training and evaluation alike."""
    file = tmp_path_factory.mktemp("texts") / "text.jsonl"
    rng = np.random.default_rng(0)
    rows = [" ".join(f"word{n}" for n in rng.integers(40, size=900)) for _ in range(2)]
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    texts = ["--data", str(file), "--heldout", str(file)]
    return ["--base", str(tiny_llama), *texts, "--repeats", "2", "--windows", "2"]


def run(script: Any, options: list[str], output: Path, *more: str) -> dict[str, Any]:
    script.main([*options, "--output", str(output), *more])
    return json.loads((output / "ablation.json").read_text(encoding="utf-8"))["variants"]


def test_variants_are_trained_compared_and_not_run_twice(
    script: Any, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["injection=top", "beta=1", "split_noise=0.2"]
    more = ["--steps", "3", "--variants", ",".join(names), "--set", *SETTINGS]
    done = run(script, options, tmp_path, *more)
    assert list(done) == ["reference", *names]
    assert {record["steps"] for record in done.values()} == {3}
    assert [done[n]["entries"] for n in done] == [8, 8, 64, 8]
    losses = {n: done[n]["scores"][0] for n in done}
    assert len({loss["own"] for loss in losses.values()}) == 4, "every setting makes a difference"
    assert {round(loss["none"], 5) for loss in losses.values()} == {round(losses["reference"]["none"], 5)}

    rows = pd.read_csv(tmp_path / "ablation.csv").set_index("variant")
    mine, reference = (np.mean([s["own"] for s in done[n]["scores"]]) for n in ("beta=1", "reference"))
    assert rows.loc["beta=1", "change of loss (nats a token)"] == pytest.approx(mine - reference)
    assert rows.loc["beta=1", "paper: Arxiv ppl"] == 2.43
    assert "split_noise=0.2" in (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert {p.name for p in tmp_path.glob("*.png")} == {"ablation-use.png", "ablation-own.png"}

    with monkeypatch.context() as patch:
        patch.setattr(script, "Trainer", None)  # nothing is left to train
        assert run(script, options, tmp_path, *more) == done


def test_a_variant_does_not_depend_on_those_before_it(script: Any, options: list[str], tmp_path: Path) -> None:
    changes = {"chunk_size": 64, "lower_layers": 2, "windows": 2, "chunks": [2], "running": 64, "warmup": 1}
    training = {"max_chunks": 8, "trainable": ["cross_attention", "top"], "lr_base": 0.01}
    settings = script.budget(2, False, changes | training)
    base, text = options[1], Path(options[3])
    bench = script.Bench(script.Files(base, [text], [], [text], None, tmp_path), settings, 1, 2)
    node = script.VARIANTS["key_positions=node"]
    alone, _, after = (bench.run(variant) for variant in (node, script.VARIANTS["injection=top"], node))
    assert alone["scores"] == after["scores"]
    untrained = script.SharedLLMForCausalLM.from_base(bench.base, **settings.method)
    assert bench._evaluate(untrained.eval(), 0)["none"] != alone["scores"][0]["none"], "the top layers were trained"


def test_needles_vary_the_search(script: Any, options: list[str], tmp_path: Path) -> None:
    stage = "needles=[{windows: 2, chunks: 2, needles: 2, questions: 1, share: 0.7}]"
    changed = [*SETTINGS, "chunk_size=256", "running=256", "needle_running=400", stage]
    done = run(script, options, tmp_path, "--steps", "4", "--variants", "policy=right", "--set", *changed)
    assert {kind for entry in done["reference"]["log"] for kind in entry["loss"]} == {"lm", "needle 2"}
    assert all(0 <= score["digits"] <= 1 for record in done.values() for score in record["scores"])
    assert (tmp_path / "ablation-digits.svg").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "height=9"], "no variant 'height=9'"),
        (["--variants", "policy=right"], "add --needles"),
        (["--set", "no_such=1"], "no_such"),
        (["--data", "missing.jsonl"], "no data file missing.jsonl"),
    ],
)
def test_mistakes_are_one_sentence(
    script: Any, options: list[str], tmp_path: Path, capsys: Any, more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        script.main([*options, "--output", str(tmp_path), *more])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_another_budget_does_not_join_a_record(script: Any, options: list[str], tmp_path: Path, capsys: Any) -> None:
    chosen = ["--variants", "reference", "--set", *SETTINGS]
    run(script, options, tmp_path, "--steps", "1", *chosen)
    with pytest.raises(SystemExit):
        run(script, options, tmp_path, "--steps", "2", *chosen)
    assert "another budget" in capsys.readouterr().err


def test_the_variants_are_those_of_the_paper(script: Any) -> None:
    paper = script.published.table(5)
    shown = {v.paper for v in script.VARIANTS.values()} | {v.paper_reference for v in script.VARIANTS.values()}
    same_as_default = {"beta=8", "injection=bottom"}
    assert set(paper["variant"]) - same_as_default == shown - {None}
    assert script.METHOD["ratios"] == [16, 8, 4]
    for name, variant in script.VARIANTS.items():
        beta = 1024 / entries_per_chunk(1024, variant.settings.get("ratios", [16, 8, 4]), "equidistant")
        wanted = float(name.partition("=")[2]) if name.startswith("beta") else 8
        assert beta == pytest.approx(wanted, rel=0.02), name


def test_a_change_of_the_papers_perplexity_is_in_nats(script: Any) -> None:
    variants = script.VARIANTS
    assert script.paper_change(variants["beta=1"], "Arxiv") == (2.43, pytest.approx(math.log(2.43 / 2.46)))
    assert script.paper_change(variants["split_noise=0.2"], "MD-QA") == (30.93, pytest.approx(30.93 - 30.08))
    assert script.paper_change(variants["reference"], "Arxiv") == (2.46, None)
    assert script.paper_change(variants["policy=right"], "Arxiv") == (None, None)
    assert script.paper_change(variants["policy=maxsim"], "Arxiv") == (None, None)


def test_the_interval_of_paired_draws(script: Any) -> None:
    found = script.mean_interval([1.0, 2.0, 3.0])
    assert found.estimate == 2 and found.high - 2 == pytest.approx(4.302653 / math.sqrt(3)) == 2 - found.low
    done = {n: {"scores": [{"own": base + v} for v in (0.0, 5.0)]} for n, base in (("reference", 1.0), ("x", 1.5))}
    assert script.paired(done, "x", "own").estimate == pytest.approx(0.5)
