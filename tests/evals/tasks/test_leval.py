"""L-Eval: scores are those of its scripts, texts come by hash or are our own, a judge compares in both orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import GOLDEN
from prompt_text import text

from evals.errors import UserError
from evals.records.models import Answer, SampleRecord
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common.official_prompts import sha256
from evals.tasks.leval import rows, scores, wording
from evals.tasks.leval.rivals import better
from evals.tasks.leval.task import LEval, LEvalJudged, LEvalSettings

ROWS = json.loads((GOLDEN / "leval" / "scores.json").read_text(encoding="utf-8"))["rows"]
OFFICIAL = {name: f"official {name} {{}} and {{}} " for name in wording.HASHES}
"""Stand-ins for the official texts, which cannot be part of this repository."""


@pytest.mark.parametrize(("dataset", "kind", "answer", "reference", "expected"), ROWS)
def test_scores_are_those_of_the_published_scripts(
    dataset: str, kind: str, answer: str, reference: str, expected: float
) -> None:
    found = scores.score(dataset, kind, answer, reference)
    assert found["score"] == pytest.approx(expected, abs=1e-6)


def test_a_guess_in_the_place_of_the_model_is_counted() -> None:
    assert scores.score("coursera", "exam", "no letter", "AB") == {"score": 0.25, "unparsed": 1.0}
    assert scores.score("tpo", "exam", "", "A") == {"score": 0.0, "unparsed": 1.0}
    assert scores.score("tpo", "exam", "A", "A") == {"score": 1.0, "unparsed": 0.0}


def row(**fields: Any) -> dict[str, Any]:
    return {
        "input": "The fox sleeps. The dog barks.",
        "instructions": ["Who {sleeps}?", "Who barks?"],
        "outputs": ["the fox", "the brown dog"],
        "evaluation": "f1",
        **fields,
    }


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the repository, with other texts of the same form."""
    monkeypatch.setattr(wording, "HASHES", {name: sha256(content) for name, content in OFFICIAL.items()})
    for script in wording.SCRIPTS:
        (tmp_path / script).parent.mkdir(exist_ok=True)
        lines = [f"    x = f'{{1}}' + {content!r}" for content in OFFICIAL.values()]
        (tmp_path / script).write_text("import nothing_of_this_runs\ndef f():\n" + "\n".join(lines))
    for name in ("quality", "codeU", "financial_qa"):
        group = "Closed-ended-tasks" if name in rows.CLOSED else "Open-ended-tasks"
        kinds = ["exam"] if name in rows.CLOSED else ["f1", "LLM"]
        path = tmp_path / "LEval-data" / group / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in (row(evaluation=kind) for kind in kinds)))
    predictions = tmp_path / "Predictions" / "llm_turbo_eval" / "turbo-16k-0613.pred.jsonl"
    predictions.parent.mkdir(parents=True)
    predictions.write_text(json.dumps({"query": "Who {sleeps}?", "gt": "the fox", "t_pred": "A cat."}) + "\n")
    return tmp_path


def made(
    tokenizer: Any, folder: Path, subset: str, length: int | None = None, judged: bool = False, **settings: object
) -> list[Instance]:
    kind = LEvalJudged if judged else LEval
    task = kind(subset, LEvalSettings.model_validate(settings), DataSource(folder))
    task.check()
    return list(task.instances(tokenizer, length, None, 0))


def test_an_open_question_names_the_length_of_its_reference(tokenizer: Any, clone: Path) -> None:
    first, second = made(tokenizer, clone, "financial_qa", wording="own")
    own = wording.OWN
    assert text(tokenizer, first) == (
        f"{own['open']}\n\nDocument:\nThe fox sleeps. The dog barks.\n\nInstruction: Who {{sleeps}}?\n"
        "Write about 2 words.\nOutput: "
    )
    assert text(tokenizer, second).endswith("Who barks?\nWrite about 3 words.\nOutput: ")
    assert first.prompt.context_key == second.prompt.context_key
    assert (first.id, second.id) == ("0001-01", "0001-02")
    assert first.reference == "the fox"


def test_official_texts_come_out_of_the_clone_by_hash(tokenizer: Any, clone: Path) -> None:
    first = made(tokenizer, clone, "quality")[0]
    assert text(tokenizer, first) == (
        "official closed {} and {} \n\nofficial closed form The fox sleeps. The dog barks. and Who {sleeps}? "
    )
    script = clone / wording.SCRIPTS[0]
    (clone / wording.SCRIPTS[1]).write_text("")
    (clone / wording.SCRIPTS[2]).write_text("")
    script.write_text(script.read_text().replace("official coursera", "another"))
    wording._official.cache_clear()
    with pytest.raises(UserError, match=r"lacks the official text of coursera .*wording=own"):
        made(tokenizer, clone, "quality")
    script.write_text("def (")
    wording._official.cache_clear()
    with pytest.raises(UserError, match="not a Python file"):
        made(tokenizer, clone, "quality")
    script.unlink()
    with pytest.raises(UserError, match=r"There is no Baselines/LEval_config\.py"):
        made(tokenizer, clone, "quality")
    assert made(tokenizer, clone, "quality", wording="own")


def test_a_long_document_loses_its_end_and_code_its_beginning(tokenizer: Any, clone: Path) -> None:
    whole = made(tokenizer, clone, "quality", wording="own")[0]
    length = len(whole.prompt) - 10 + 4
    cut = made(tokenizer, clone, "quality", length, wording="own", max_new_tokens=4)[0]
    assert tokenizer.decode(cut.prompt.context) == "The fox sleeps. The "
    whole = made(tokenizer, clone, "codeU", wording="own")[0]
    cut = made(tokenizer, clone, "codeU", len(whole.prompt) - 10 + 4, wording="own", max_new_tokens=4)[0]
    assert tokenizer.decode(cut.prompt.context) == "eeps. The dog barks."


def test_rows_for_a_judge_are_a_task_of_their_own(tokenizer: Any, clone: Path) -> None:
    asked = made(tokenizer, clone, "financial_qa", judged=True, wording="own")
    assert [i.meta["evaluation"] for i in asked] == ["LLM", "LLM"]
    task = LEvalJudged("financial_qa", LEvalSettings(wording="own"), DataSource(clone))
    assert task.evaluate(asked[0], Output(text="the fox")) == {"proxy_rouge_l": 1.0, "proxy_f1": 1.0}
    sample = SampleRecord(
        cell="c",
        sample="s",
        metrics={},
        output=Answer(text="A {fox}.", tokens=3),
        reference="the fox",
        meta=asked[0].meta,
    )
    ours_first, ours_second = task.judge_requests(sample)
    assert ours_first[0]["content"] == wording.OWN["judge"]
    assert "Answer A:\nA {fox}.\n\nAnswer B:\nA cat." in ours_first[1]["content"]
    assert "Answer A:\nA cat.\n\nAnswer B:\nA {fox}." in ours_second[1]["content"]
    unknown = sample.model_copy(update={"meta": asked[1].meta, "reference": "the brown dog"})
    assert task.judge_requests(unknown) == []
    with pytest.raises(UserError, match=r"There is no Predictions/a/b\.pred\.jsonl .*or name another rival"):
        made(
            tokenizer, clone, "financial_qa", judged=True, wording="own", rival="a/b", judge="http://x/v1",
            judge_model="m",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (("so [[A]]", "so [[B]]"), 1.0),
        (("[[A]]", "[[A]]"), 0.5),
        (("[[B]]", "[[A]]"), 0.0),
        (("[[C]]", "[[B]]"), 0.75),
        (("I cannot say.", "[[B]]"), 1.0),
        (("A", "B"), None),
    ],
)
def test_a_win_in_both_orders_is_a_win(replies: tuple[str, str], expected: float | None) -> None:
    assert better(replies) == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"outputs": ["one"]}, "more instructions than outputs"),
        ({"instructions": []}, "instructions"),
        ({"evaluation": "bleu"}, "evaluation"),
        ({"input": " "}, "input"),
    ],
)
def test_a_bad_row_is_named(tokenizer: Any, clone: Path, change: dict[str, Any], complaint: str) -> None:
    path = clone / "LEval-data" / "Open-ended-tasks" / "financial_qa.jsonl"
    path.write_text(json.dumps(row()) + "\n" + json.dumps(row(**change)) + "\n")
    with pytest.raises(UserError, match=rf"financial_qa\.jsonl, line 2: .*{complaint}"):
        made(tokenizer, clone, "financial_qa", wording="own")


def test_missing_data_says_where_it_is(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="git clone"):
        made(tokenizer, tmp_path, "quality")
    with pytest.raises(UserError, match="give it as --data-dir"):
        LEval("quality", LEvalSettings(), DataSource()).check()


def test_a_file_without_rows_of_the_task_is_one_sentence(
    command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path
) -> None:
    row = {"input": "A b.", "instructions": ["Q?"], "outputs": ["A"], "evaluation": "LLM"}
    (tmp_path / "quality.jsonl").write_text(json.dumps(row) + "\n")
    result = command(
        *("--task", "leval:quality", "--model", tiny_presets("full"), "--data-dir", tmp_path, "--no-perf"),
        *("--output", tmp_path / "run", "--set", "wording=own"),
    )
    assert result.code == 2
    assert "leval:quality has no sample in these data: choose another subset or --data-dir" in result.err
