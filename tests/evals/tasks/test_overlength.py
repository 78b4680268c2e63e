"""Rows longer than their budget: cut, skipped or the end of the cell, and counted wherever the score is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.records.read import read_run
from evals.report.data import Data
from evals.report.load import load
from evals.report.tables import summary_table
from evals.tasks.base import DataSource, Instance, Task
from evals.tasks.infinitebench.task import InfiniteBench, InfiniteBenchSettings
from evals.tasks.longbench.task import LongBench
from evals.tasks.longbench_v2.task import LongBenchV2
from evals.tasks.settings.official import OfficialSettings

WORDS = (100, 2000, 120, 3000)
"""Of the contexts of four rows: the second and the fourth exceed a length of 2048."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    contexts = [("Ann sings. " * words)[: 6 * words] for words in WORDS]
    rows: dict[str, Any] = {
        "hotpotqa.jsonl": {"input": "Who?", "answers": ["Ann"], "length": 9, "all_classes": None, "_id": "0"},
        "longbook_qa_eng.jsonl": {"input": "Who?", "answer": ["Ann"], "options": []},
        "longbench_v2.jsonl": {
            **dict.fromkeys(("_id", "domain", "sub_domain", "question"), "x"),
            **{f"choice_{letter}": letter for letter in "ABCD"},
            "difficulty": "easy",
            "length": "short",
            "answer": "B",
        },
    }
    for name, row in rows.items():
        lines = (json.dumps({**row, "context": context}) + "\n" for context in contexts)
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    return tmp_path


def tasks(folder: Path, **settings: Any) -> list[Task]:
    data = DataSource(folder, offline=True)
    return [
        LongBench("hotpotqa", OfficialSettings(**settings), data),
        LongBenchV2(None, OfficialSettings(**settings), data),
        InfiniteBench("longbook_qa_eng", InfiniteBenchSettings(**settings), data),
    ]


def instances(task: Task, length: int | None = 2048) -> list[Instance]:
    return list(task.instances(byte_tokenizer(258), length, None, 0))


def test_long_rows_are_skipped_with_a_sentence_and_their_length(folder: Path) -> None:
    for cut, skipped in zip(tasks(folder), tasks(folder, overlength="skip"), strict=True):
        before, after = instances(cut), instances(skipped)
        assert [i.refused is None for i in before] == [True] * 4
        assert [i.refused is None for i in after] == [True, False, True, False]
        assert [i for i in after if i.refused is None] == [before[0], before[2]]
        assert after[1].meta["over_length"] == before[1].prompt.audit.uncut > 6 * 2000
        assert "2: the prompt has" in str(after[1].refused)


def test_a_long_row_ends_the_cell_on_request(folder: Path) -> None:
    for task in tasks(folder, overlength="fail"):
        with pytest.raises(UserError, match=r" 2: the prompt has \d+ tokens, its budget is \d+: choose a larger"):
            instances(task)
        with pytest.raises(UserError, match=r" 4: the prompt has \d+ tokens"):
            instances(task, 16384)
        assert len(instances(task, 32768)) == 4


def test_without_a_budget_nothing_is_too_long(folder: Path) -> None:
    longbench, _, infinitebench = tasks(folder, overlength="skip")
    for task in (longbench, infinitebench):
        with pytest.raises(UserError, match="overlength=skip compares rows with a length"):
            instances(task, None)


def test_the_default_is_no_part_of_an_identity() -> None:
    assert "overlength" not in OfficialSettings().model_dump(mode="json")
    assert OfficialSettings(overlength="skip").model_dump(mode="json")["overlength"] == "skip"


@pytest.mark.parametrize("overlength", ["truncate", "skip"])
def test_every_place_that_shows_a_score_counts_them(
    overlength: str, folder: Path, tiny_presets: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    result = command(
        *("--task", "longbench:hotpotqa", "--model", tiny_presets("truncated"), "--length", "2k", "--no-perf"),
        *("--data-dir", folder, "--set", f"overlength={overlength}", "--set", "window=512", "--output", tmp_path / "r"),
    )
    assert result.code == 0
    kind, other = ("cut", "skipped") if overlength == "truncate" else ("skipped", "cut")
    (cell,) = result.last["cells"]
    assert (cell[kind], cell[other]) == (2, 0)
    assert cell["n"] == (4 if overlength == "truncate" else 2)
    assert f"2 rows {kind}" in " ".join(result.out.split())
    (state,) = read_run(tmp_path / "r").cells.values()
    assert (getattr(state, kind), getattr(state, other)) == (2, 0)
    table = summary_table(Data.of(load(tmp_path / "r")))
    assert table.frame[kind].tolist() == [2]
    assert other not in table.frame
    sentence = "2 of 4 prompts were longer" if overlength == "truncate" else "2 skipped, longer than their budget"
    assert any(sentence in note for note in table.notes)
    bins = tmp_path / "r" / "tables" / "row-length.csv"
    assert bins.exists() == (overlength == "truncate")
    if bins.exists():
        assert [line.split(",")[3:5] for line in bins.read_text().splitlines()[1:]] == [
            ["0 to 4K", "2"],
            ["8K to 16K", "1"],
            ["16K to 32K", "1"],
        ]
