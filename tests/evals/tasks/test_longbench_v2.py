"""LongBench v2: official prompt by hash, parsing of answers, rows, scores by class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.records.models import Answer, SampleRecord
from evals.tasks.base import DataSource, Output
from evals.tasks.common import official_prompts
from evals.tasks.longbench_v2.prompts import template
from evals.tasks.longbench_v2.scores import parse_answer
from evals.tasks.longbench_v2.task import LongBenchV2
from evals.tasks.settings.official import OfficialSettings


def row(**fields: Any) -> dict[str, Any]:
    return {
        "_id": "0", "domain": "Code", "sub_domain": "repo", "difficulty": "easy", "length": "short",
        "question": " Which? ", "choice_A": "a", "choice_B": "b\n", "choice_C": "c", "choice_D": "d",
        "answer": "B", "context": " It is $Q$ b. ", **fields,
    }  # fmt: skip


def task(folder: Path, *rows: dict[str, Any]) -> LongBenchV2:
    numbered = [{**row, "_id": str(i)} for i, row in enumerate(rows)]
    (folder / "data.json").write_text(json.dumps(numbered), encoding="utf-8")
    return LongBenchV2(None, OfficialSettings(), DataSource(folder, offline=True))


def test_the_prompt_is_the_official_one(tmp_path: Path) -> None:
    assert official_prompts.sha256(template()) == official_prompts.hashes()["longbench_v2"]["0shot"]
    (instance,) = task(tmp_path, row()).instances(byte_tokenizer(258), None, None, 0)
    prompt = instance.prompt
    shown = byte_tokenizer(258).decode([*prompt.prefix, *prompt.context, *prompt.query], skip_special_tokens=True)
    assert "<text>\nIt is $Q$ b.\n</text>" in shown
    assert "question: Which?\nChoices:\n(A) a\n(B) b\n(C) c\n(D) d\n\n" in shown
    begin, end = prompt.question or (0, 0)
    assert byte_tokenizer(258).decode(prompt.query[begin:end]) == "Which?\nChoices:\n(A) a\n(B) b\n(C) c\n(D) d"
    assert instance.max_new_tokens == 128


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The correct answer is (B).", "B"),
        ("**The correct answer is** **C**", "C"),
        ("The correct answer is A, no: The correct answer is (D)", "D"),
        ("The answer is B", None),
        ("The correct answer is (E)", None),
        ("", None),
    ],
)
def test_answers_are_parsed_as_officially(response: str, answer: str | None) -> None:
    assert parse_answer(response) == answer


def test_scores_by_difficulty_and_length(tmp_path: Path) -> None:
    made = task(tmp_path, row(), row(difficulty="hard", length="long"))
    first, second = made.instances(byte_tokenizer(258), None, None, 0)
    samples = [
        SampleRecord(
            cell="c",
            sample=instance.id,
            metrics=made.evaluate(instance, Output(text=text)),
            output=Answer(text="", tokens=0),
        )
        for instance, text in ((first, "The correct answer is (B)"), (second, "B"))
    ]
    assert made.summarize(samples) == {
        "score": 0.5, "score_easy": 1.0, "score_short": 1.0, "score_hard": 0.0, "score_long": 0.0, "unparsed": 0.5
    }  # fmt: skip


def test_bad_rows_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.json, row 2: answer does not fit"):
        list(task(tmp_path, row(), row(answer="E")).instances(byte_tokenizer(258), None, None, 0))
    broken = LongBenchV2(None, OfficialSettings(), DataSource(tmp_path))
    for text in ("{", f"[{'9' * 5000}]", "[" * 100_000):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(UserError, match=r"data.json (is not JSON|has too long a number)"):
            list(broken.instances(byte_tokenizer(258), None, None, 0))
    (tmp_path / "data.json").unlink()
    with pytest.raises(UserError, match=r"put data.json of https://huggingface.co"):
        LongBenchV2(None, OfficialSettings(), DataSource(tmp_path)).check()


def test_long_documents_lose_their_middle(tmp_path: Path) -> None:
    (instance,) = task(tmp_path, row(context="x" * 3000)).instances(byte_tokenizer(258), 1024, None, 0)
    assert len(instance.prompt) == 1024 - 128
    assert instance.prompt.audit.cut_tokens > 0
