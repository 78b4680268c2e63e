"""Samples that cannot have the seeds, controls or prompts that a run asks for are refused in its plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.errors import UserError
from evals.run.checks.sampling import check_sampling
from evals.run.grid import plan
from evals.run.spec import RunSpec

ALONE = "can lend another its context, as all have the same"
REFUSED = {
    "needle --limit 1 --set samples=1 needles=4 --context own,other": ALONE,
    "needle --limit 4 --set needles=4 questions=4 --context own,other": ALONE,
    "needle --set samples=1 depths=50 --context own,other": ALONE,
    "ruler:niah_single_1,needle --limit 1 --context own,other": ALONE,
    "graphwalks:bfs --limit 1 --context own,other,none": ALONE,
    "needle --set template=classic --context own,none": "The classic needle is the same in every context",
    "infinitebench:math_calc --context own,none": "In math_calc the question stands in the context",
    "needle --limit 2 --set seeds=3": "--limit 2 leaves nothing for some of 3 seeds",
    "needle --set seeds=2 template=classic": "Nothing in needle is drawn",
    "longbench:qasper --set seeds=2": "Nothing in longbench:qasper is drawn",
    "infinitebench:code_debug --set seeds=2": "Nothing in infinitebench:code_debug is drawn",
    "mrcr:2needle --set source=official seeds=2": "Nothing in mrcr:2needle is drawn",
}
ASKED = [
    "needle --limit 1 --context own,none",
    "needle --limit 2 --context own,other",
    "needle --limit 8 --set needles=4 questions=4 --context own,other",
    "needle --limit 2 --set samples=1 depths=50 seeds=2 --context own,other",
    "needle --context own,other",
    "ruler:qa_1 --limit 1 --context own,other",
    "longbench:qasper --context own,other,none",
    "nolima:onehop --set source=official seeds=2",
    "infinitebench:passkey --set seeds=2",
    "perplexity --limit 1 --context own,other,none",
    "efficiency --limit 1",
]


def spec_of(case: str, preset: Path) -> RunSpec:
    task, _, options = case.partition(" ")
    words = options.split()
    limit = int(words[words.index("--limit") + 1]) if "--limit" in words else None
    settings: dict[str, object] = dict(word.split("=") for word in words if "=" in word)
    if "--context" in words:
        settings["context"] = words[words.index("--context") + 1]
    return RunSpec(tasks=task.split(","), models=[str(preset)], lengths=[8192], limit=limit, settings=settings)


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_sample_can_have_is_refused_before_one_is_made(case: str, tiny_presets: Callable[..., Path]) -> None:
    spec = spec_of(case, tiny_presets("full"))
    with pytest.raises(UserError) as error:
        check_sampling(plan(spec), spec.limit)
    assert REFUSED[case] in str(error.value)
    assert all(name in str(error.value) for name in spec.tasks if REFUSED[case] is ALONE)


@pytest.mark.parametrize("case", ASKED)
def test_what_samples_can_have_is_not_refused(case: str, tiny_presets: Callable[..., Path]) -> None:
    spec = spec_of(case, tiny_presets("full"))
    check_sampling(plan(spec), spec.limit)


SAID = {
    "needle --limit 1 --context own,other": "No sample of needle " + ALONE,
    "needle --set chat=true --length 8k": "full-tiny: This tokenizer has no chat template: leave chat off",
    "perplexity --length 4m,8m": "No document is long enough, the longest possible length here is",
    "infinitebench:passkey --set family=kimi": "The prompts of the family kimi do not come with lm-eval",
    "infinitebench:passkey --set templates=nowhere.py": "The templates file nowhere.py cannot be read",
}


@pytest.mark.parametrize("case", SAID)
def test_a_plan_says_it_as_a_run_does(
    case: str, command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    task, *options = case.split()
    length = [] if "--length" in options else ["--length", "2k"]
    words = ["--task", task, "--model", tiny_presets("full"), *length, *options, "--device", "cpu", "--no-perf"]
    said = []
    for more in (["--dry-run"], ["--output", tmp_path / "run"]):
        found = command(*words, *more)
        assert found.code == 2
        assert SAID[case] in found.err
        said.append(found.err)
    assert said[0] == said[1]
    assert said[0].count(SAID[case]) == 1  # not for every length
    assert not (tmp_path / "run").exists()


def test_a_second_document_that_is_too_short_is_found_in_a_plan(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("One sentence after another. " * 2000, encoding="utf-8")
    (tmp_path / "short.txt").write_text("Only one sentence, of other words.", encoding="utf-8")
    words = ["--task", "perplexity", "--model", tiny_presets("full"), "--length", "8k", "--data-dir", tmp_path]
    found = command(*words, "--dry-run")
    assert found.code == 2
    assert "The control `other` needs a second document of" in found.err
    assert command(*words, "--dry-run", "--context", "own,none").code == 0


def test_a_window_that_the_running_text_fills_is_refused_in_a_plan(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["--task", "perplexity", "--model", tiny_presets("truncated"), "--length", "2k", "--limit", 1]
    filled = command(*words, "--set", "window=1024", "--dry-run")
    assert filled.code == 2
    assert "perplexity with truncated-tiny: Prefix, query and answer take 1024 of the 1024 tokens" in filled.err
    (cell,) = command(*words, "--set", "window=1024", "--device", "cpu", "--output", tmp_path / "run").last["cells"]
    assert "nothing of the context fits" in cell["error"]
    assert command(*words, "--set", "window=1100", "--dry-run").code == 0


def test_rows_are_compared_with_a_length_that_is_given(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "qasper.jsonl").touch()
    words = ["--task", "longbench:qasper", "--model", tiny_presets("full"), "--data-dir", tmp_path, "--dry-run"]
    found = command(*words, "--set", "overlength=skip")
    assert found.code == 2
    assert "overlength=skip compares rows with a length" in found.err
    assert command(*words, "--set", "overlength=skip", "--length", "8k").code == 0


def test_a_served_model_is_asked_for_no_log_probabilities_in_a_plan(command: Callable[..., Any]) -> None:
    found = command("--task", "perplexity", "--model", "served-135m", "--length", "2k", "--dry-run")
    assert found.code == 2
    assert "perplexity needs log-probabilities of a given text" in found.err
