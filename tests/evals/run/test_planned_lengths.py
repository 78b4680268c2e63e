"""A length that holds no sample of a task is refused in a plan, and in a run before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.methods import weights
from evals.run.identity import TaskChoice

SHORT = {
    "needle 32": "A length of 32 tokens is too short for the needle task",
    "ruler:niah_single_1 16": "A length of 16 tokens cannot hold niah_single_1",
    "ruler:vt 256": "A length of 256 tokens cannot hold vt",
    "ruler:cwe 64": "A length of 64 tokens cannot hold cwe",
    "graphwalks:bfs 130": "A length of 130 tokens cannot hold graphwalks bfs",
    "mrcr:8needle 256": "A length of 256 tokens cannot hold mrcr 8needle",
    "babilong:qa1 64": "A length of 64 tokens cannot hold BABILong qa1",
    "nolima:onehop 64": "A length of 64 tokens cannot hold NoLiMa",
    "longproc:path_traversal 600": "and an answer of 512 tokens: choose a larger --length",
    "infinitebench:passkey 64": "InfiniteBench passkey needs a longer --length than 64",
    "infinitebench:longbook_qa_eng 16": "InfiniteBench longbook_qa_eng may answer with 40 tokens",
    "perplexity 100": "A length of 100 tokens is too short to score 256",
    "longbench:qasper 100": "LongBench needs a --length of",
    "longbench-v2 128": "LongBench v2 may answer with 128 tokens",
    "aa-lcr 1024": "AA-LCR may answer with 1024 tokens",
    "leval:coursera 512": "L-Eval may answer with 512 tokens",
    "efficiency-maxlen 100": "A length of 100 tokens is shorter than the search's step of 1024",
}


@pytest.mark.parametrize("case", SHORT)
def test_a_length_that_is_too_short_is_refused_in_a_plan_and_before_a_run(
    case: str, command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    task, length = case.split()
    words = ["--task", task, "--model", tiny_presets("full"), "--length", length, "--limit", 1, "--offline"]
    for more in (["--dry-run"], ["--output", tmp_path / "run"]):
        found = command(*words, *more)
        assert found.code == 2
        assert SHORT[case] in found.err
        assert "Loading" not in found.err
    assert not (tmp_path / "run").exists()


def test_lengths_with_room_have_a_plan(command: Callable[..., Any], tiny_presets: Callable[..., Path]) -> None:
    tasks = "needle,ruler:niah_single_1,graphwalks:parents,babilong:qa1,nolima:direct"
    found = command("--task", tasks, "--model", tiny_presets("full"), "--length", "2k", "--dry-run")
    assert found.code == 0, found.err


def test_every_length_without_room_is_named_once(
    command: Callable[..., Any], tiny_presets: Callable[..., Path]
) -> None:
    models = f"{tiny_presets('full')},{tiny_presets('full', 'again')}"
    found = command("--task", "needle", "--model", models, "--length", "16,32,1k", "--dry-run")
    assert [found.err.count(f"A length of {length} tokens") for length in (16, 32, 1024)] == [1, 1, 0]


def test_no_long_prompt_is_made_for_a_plan(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(TaskChoice, "check_room_here", lambda self, tokenizer, length, seed: tried.append(length))
    words = ["--task", "needle,ruler:vt", "--model", tiny_presets("full"), "--length", "1k,128k", "--dry-run"]
    assert command(*words).code == 0
    assert tried == [1024, 1024]


def test_a_plan_without_the_tokenizer_tries_nothing(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "tokenizer_folder", lambda *_: None)
    preset = tiny_presets("full", "elsewhere", weights={"source": "hub:org/elsewhere"})
    assert command("--task", "needle", "--model", preset, "--length", 32, "--dry-run").code == 0
