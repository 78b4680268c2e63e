"""LongBench v1 and LongBench-E: prompts by hash, rows of all layouts, truncation, rules, views, end to end."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.records.models import Answer, SampleRecord
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common import hub, official_prompts
from evals.tasks.longbench import templates
from evals.tasks.longbench.datasets import DATASETS, LONGBENCH_E
from evals.tasks.longbench.task import LongBench, LongBenchE, prompt_budget
from evals.tasks.longbench.templates import parts, template
from evals.tasks.longbench.views import views
from evals.tasks.settings.official import OfficialSettings

GOLDEN = json.loads((folders.GOLDEN / "prompt_hashes.json").read_text())
CHAT = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"


def row(**fields: Any) -> dict[str, Any]:
    return {
        "input": "Who sings?",
        "context": "Ann sings. Bob dances. " * 60,
        "answers": ["Ann"],
        "length": 240,
        "dataset": "hotpotqa",
        "language": "en",
        "all_classes": None,
        "_id": "0",
        **fields,
    }


def lines(*records: dict[str, Any]) -> bytes:
    """JSON Lines; every row gets an _id of its own."""
    numbered = ({**record, "_id": str(i)} for i, record in enumerate(records))
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in numbered)


def task(folder: Path, dataset: str = "hotpotqa", kind: type[LongBench] = LongBench, **settings: Any) -> LongBench:
    return kind(dataset, OfficialSettings(**settings), DataSource(folder, offline=True))


def instances(made: LongBench, length: int | None = None, chat_template: str | None = None) -> list[Instance]:
    tokenizer = byte_tokenizer(258)
    tokenizer.chat_template = chat_template
    return list(made.instances(tokenizer, length, None, 0))


def text(instance: Instance) -> str:
    prompt = instance.prompt
    return byte_tokenizer(258).decode([*prompt.prefix, *prompt.context, *prompt.query], skip_special_tokens=True)


# --- prompts


@pytest.mark.parametrize("dataset", DATASETS)
def test_templates_have_the_official_hash(dataset: str) -> None:
    assert official_prompts.sha256(template(dataset)) == GOLDEN["longbench"][dataset]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(list(DATASETS)), st.text(min_size=1, max_size=3000), st.text(max_size=50))
def test_the_parts_of_a_prompt_join_to_the_official_prompt(dataset: str, context: str, question: str) -> None:
    made = parts(dataset, context, question)
    assert made.before + made.context + made.after == template(dataset).format(context=context, input=question)
    assert made.question in made.after
    if len(context) > 1:
        assert made.context


def test_the_last_lines_of_code_stand_with_the_question() -> None:
    code = "".join(f"line_{i} = {i}\n" for i in range(500))
    made = parts("lcc", code, "")
    assert made.question.startswith("line_")
    assert made.question.endswith("line_499 = 499\n")
    assert len(made.question) <= templates.CODE_TAIL
    assert made.after == made.question + "Next line of code:\n"


def test_a_template_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(official_prompts.tasks_folder() / "longbench", tmp_path / "longbench")
    file = tmp_path / "longbench" / "qasper.yaml"
    file.write_text(file.read_text().replace("scientific article", "paper", 1))
    monkeypatch.setattr(official_prompts, "tasks_folder", lambda: tmp_path)
    template.cache_clear()
    try:
        with pytest.raises(UserError, match=r"LongBench qasper .*sha256.*pip install"):
            template("qasper")
        assert template("hotpotqa")
    finally:
        template.cache_clear()


# --- rows


def write_layouts(folder: Path, name: str, content: bytes) -> list[Path]:
    """The same rows in every place and packing that is understood, each in a folder of its own."""
    made = [folder / str(i) for i in range(6)]
    for path in made:
        (path / "longbench").mkdir(parents=True)
    (made[0] / f"{name}.jsonl").write_bytes(content)
    (made[1] / f"{name}.jsonl.xz").write_bytes(lzma.compress(content))
    (made[2] / "longbench" / f"{name}.jsonl.gz").write_bytes(gzip.compress(content))
    (made[3] / "data").mkdir()
    (made[3] / "data" / f"{name}.jsonl").write_bytes(content)
    for archive in (made[4] / "data.zip", made[5] / "longbench" / "data.zip"):
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(f"data/{name}.jsonl", content)
    return [*made, made[4] / "data.zip"]


def test_every_layout_gives_the_same_rows(tmp_path: Path) -> None:
    content = lines(row(), row(_id="1", input="Who dances?", answers=["Bob"]))
    made = [instances(task(path)) for path in write_layouts(tmp_path, "hotpotqa", content)]
    assert len(made) == 7
    assert all(got == made[0] for got in made)
    assert [i.id for i in made[0]] == ["0001", "0002"]
    assert made[0][1].reference == ["Bob"]


BAD = {
    "not JSON": (lines(row()) + b"{'input'\n", r"hotpotqa.jsonl, line 2 is not JSON"),
    "not UTF-8": (lines(row()) + b'{"input": "\xff"}\n', r"line 2 is not UTF-8"),
    "no context": (lines({k: v for k, v in row().items() if k != "context"}), r"line 1: context does not fit"),
    "a number for text": (lines(row(input=3)), r"line 1: input does not fit"),
    "a text for answers": (lines(row(answers="Ann")), r"line 1: answers does not fit"),
    "no answer": (lines(row(answers=[])), r"line 1: answers does not fit"),
    "blank answers": (lines(row(answers=["", " \n"])), r"line 1: answers does not fit \(there is no answer"),
    "an empty context": (lines(row(), row(context="")), r"line 2: context does not fit \(it is empty or blank\)"),
    "a blank context": (lines(row(), row(context="  \n")), r"line 2: context does not fit \(it is empty or blank\)"),
    "a long number": (lines(row()).replace(b"240", b"1" + b"0" * 5000), r"line 1 has too long a number"),
    "nothing": (b"\n", r"hotpotqa.jsonl has no rows"),
    "a list": (b"[1]\n", r"line 1: the row does not fit"),
    "half a character": (lines(row()).replace(b"Who", b"\\ud800"), r"line 1 holds half a character"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_name_file_line_and_remedy(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    (tmp_path / "hotpotqa.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        instances(task(tmp_path))


def test_blanks_beside_an_answer_and_around_a_context_stay(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa.jsonl").write_bytes(lines(row(answers=["", "Ann"], context="\n Ann sings.  ")))
    (instance,) = instances(task(tmp_path))
    assert instance.reference == ["", "Ann"]
    assert byte_tokenizer(258).decode(instance.prompt.context) == "\n Ann sings.  "


def test_classes_are_required_where_they_are_scored(tmp_path: Path) -> None:
    (tmp_path / "trec.jsonl").write_bytes(lines(row(all_classes=[])))
    with pytest.raises(UserError, match=r"line 1: .*all_classes"):
        instances(task(tmp_path, "trec"))


@pytest.mark.parametrize("name", ["hotpotqa.jsonl.xz", "hotpotqa.jsonl.gz", "data.zip"])
def test_a_broken_archive_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive")
    with pytest.raises(UserError, match=f"{name} is (broken|not a zip)"):
        instances(task(tmp_path))


def test_missing_data_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"LongBench hotpotqa is not in .*: put hotpotqa.jsonl"):
        task(tmp_path).check()
    with pytest.raises(UserError, match=r"--offline forbids a download: get it from https://huggingface.co"):
        LongBench("hotpotqa", OfficialSettings(), DataSource(None, offline=True)).check()
    wrong = tmp_path / "data.zip"
    wrong.write_bytes(b"another archive")
    monkeypatch.setattr(hub, "_download", lambda *_: wrong)
    with pytest.raises(UserError, match="not cb45b11a4133 as published"):
        LongBench("hotpotqa", OfficialSettings(), DataSource()).check()


def test_a_data_set_reads_its_own_file_alone(tmp_path: Path) -> None:
    for name in ("hotpotqa.jsonl", "hotpotqa_e.jsonl", "qasper.jsonl", ".DS_Store"):
        (tmp_path / name).write_bytes(lines(row()))
    assert task(tmp_path).files() == [tmp_path / "hotpotqa.jsonl"]
    assert task(tmp_path, kind=LongBenchE).files() == [tmp_path / "hotpotqa_e.jsonl"]
    assert task(tmp_path, "trec").files() == []


# --- the rules of the official script


def test_truncation_is_the_official_one(tmp_path: Path) -> None:
    context = " ".join(map(str, range(2000)))
    (tmp_path / "hotpotqa.jsonl").write_bytes(lines(row(context=context)))
    (uncut,) = instances(task(tmp_path))
    (cut,) = instances(task(tmp_path), length=2048)
    ids = [*uncut.prompt.prefix, *uncut.prompt.context, *uncut.prompt.query]
    half = 1500 // 2
    assert [*cut.prompt.prefix, *cut.prompt.context, *cut.prompt.query] == ids[:half] + ids[-half:]
    assert cut.prompt.audit.cut_tokens == len(ids) - 1500
    assert uncut.prompt.audit.cut_tokens == 0
    assert cut.prompt.audit.template_sha256 == GOLDEN["longbench"]["hotpotqa"]


@pytest.mark.parametrize(("length", "official"), [(4096, 3500), (8192, 7500), (16384, 15500), (32768, 31500)])
def test_budgets_are_the_official_ones(length: int, official: int) -> None:
    assert prompt_budget(length, None, 512) == official


@pytest.mark.parametrize("length", [640, 1000, 4096, 131072])
def test_prompt_and_longest_answer_fit_the_length(length: int) -> None:
    assert 0 < (prompt_budget(length, None, 512) or 0) <= length - 512


def test_one_long_question_does_not_end_the_cell(tmp_path: Path) -> None:
    """The official script cuts the whole prompt, so it cuts a question that is longer than half of the budget."""
    long_row = row(input="Which paragraph? " + "Very long. " * 300, context="Paragraph 1: Ann. " * 100)
    (tmp_path / "hotpotqa.jsonl").write_bytes(lines(row(), long_row, row()))
    short, cut, _ = instances(task(tmp_path), length=2048)
    uncut = instances(task(tmp_path))[1].prompt
    ids = [*uncut.prefix, *uncut.context, *uncut.query]
    assert [*cut.prompt.prefix, *cut.prompt.context, *cut.prompt.query] == ids[:750] + ids[-750:]
    assert cut.prompt.audit.cut_query == len(uncut.query) - 750
    assert short.prompt.audit.cut_query == 0


def test_a_length_without_room_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa.jsonl").write_bytes(lines(row()))
    with pytest.raises(UserError, match="--length of 640"):
        instances(task(tmp_path), length=512)
    with pytest.raises(UserError, match="exceed --length 1024"):
        instances(task(tmp_path, max_prompt_tokens=1000), length=1024)


def test_the_chat_template_goes_around_fifteen_sets(tmp_path: Path) -> None:
    wrapped = []
    for dataset in DATASETS:
        answer = {"passage_retrieval_en": "Paragraph 1", "passage_retrieval_zh": "段落1", "passage_count": "3"}
        rows = lines(row(answers=[answer.get(dataset, "Ann")], all_classes=["Ann"]))
        (tmp_path / f"{dataset}.jsonl").write_bytes(rows)
        (instance,) = instances(task(tmp_path, dataset), chat_template=CHAT)
        shown = text(instance)
        assert instance.meta["chat"] == shown.startswith("<u>") == shown.endswith("</u><a>")
        wrapped.append(instance.meta["chat"])
        (plain,) = instances(task(tmp_path, dataset))
        assert shown.removeprefix("<u>").removesuffix("</u><a>") == text(plain)
    assert sum(wrapped) == 15


def test_only_samsum_stops_at_a_newline(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa.jsonl").write_bytes(lines(row()))
    (tmp_path / "samsum.jsonl").write_bytes(lines(row()))
    (other,), (samsum,) = instances(task(tmp_path)), instances(task(tmp_path, "samsum"))
    newline = byte_tokenizer(258).encode("\n", add_special_tokens=False)[-1]
    assert other.stop.ids == {257}
    assert other.stop.min_new_tokens == 0
    assert samsum.stop.ids == {257, newline}
    assert samsum.stop.min_new_tokens == 1


def test_the_question_is_what_a_search_may_see(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa.jsonl").write_bytes(lines(row()))
    (instance,) = instances(task(tmp_path))
    begin, end = instance.prompt.question or (0, 0)
    assert byte_tokenizer(258).decode(instance.prompt.query[begin:end]) == "Who sings?"


# --- scores and views


def test_longbench_e_scores_by_stored_length(tmp_path: Path) -> None:
    content = lines(*(row(length=length) for length in (3999, 4000, 7999, 8000)))
    (tmp_path / "hotpotqa_e.jsonl").write_bytes(content)
    made = task(tmp_path, kind=LongBenchE)
    answers = ["Ann", "Bob", "Ann", "Ann"]
    samples = [
        SampleRecord(
            cell="c",
            sample=instance.id,
            metrics=made.evaluate(instance, Output(text=answer)),
            output=Answer(text=answer, tokens=1),
        )
        for instance, answer in zip(instances(made), answers, strict=True)
    ]
    assert made.summarize(samples) == {"score": 0.75, "score_0-4k": 1.0, "score_4-8k": 0.5, "score_8k+": 1.0}
    assert LongBenchE.subsets == LONGBENCH_E
    assert len(LONGBENCH_E) == 13


def test_views_are_the_published_averages() -> None:
    """GPT-3.5-Turbo-16k's data sets and averages as the benchmark's README prints them."""
    published = {
        "narrativeqa": 23.6, "qasper": 43.3, "multifieldqa_en": 52.3, "multifieldqa_zh": 61.2,
        "hotpotqa": 51.6, "2wikimqa": 37.7, "musique": 26.9, "dureader": 28.7,
        "gov_report": 29.5, "qmsum": 23.4, "multi_news": 26.7, "vcsum": 16.0,
        "trec": 68.0, "triviaqa": 91.4, "samsum": 41.7, "lsht": 29.2,
        "passage_count": 4.5, "passage_retrieval_en": 71.0, "passage_retrieval_zh": 77.5,
        "lcc": 54.7, "repobench-p": 53.6,
    }  # fmt: skip
    got = {view.id: view.columns for view in views(published)}
    assert got["longbench-en"]["Average of 6 categories"] == pytest.approx(44.0, abs=0.05)
    assert got["longbench-zh"]["Average of 6 categories"] == pytest.approx(44.5, abs=0.05)
    assert got["longbench-en"]["Code"] == got["longbench-zh"]["Code"] == pytest.approx(54.15)
    paper = got["longbench-sharedllm"]
    assert list(paper) == ["Single-Doc QA", "Multi-Doc QA", "Summarization", "Few-shot", "Code"]
    beacon = got["longbench-activation-beacon"]["Average of 14 data sets"]
    assert beacon == pytest.approx(44.6, abs=0.05)
    assert beacon != pytest.approx(sum(paper.values()) / 5, abs=0.05)


def test_a_view_with_a_missing_set_is_left_out() -> None:
    scores = dict.fromkeys(DATASETS, 0.5)
    del scores["vcsum"]
    found = [view.id for view in views(scores)]
    assert found == ["longbench-en", "longbench-sharedllm", "longbench-activation-beacon"]
    assert views({"qasper": 0.5}) == []


# --- through the command


def test_end_to_end_and_a_bad_cell_does_not_stop_the_others(
    tmp_path: Path, tiny_presets: Callable[..., Path], command: Callable[..., Any]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "data.zip", "w") as archive:
        archive.writestr("data/hotpotqa.jsonl", lines(row(), row(input="Who dozes?", answers=["Bob"])))
        archive.writestr("data/qasper.jsonl", lines(row(answers=[])))
    result = command(
        "--task", "longbench:hotpotqa,longbench:qasper",
        "--model", tiny_presets("full", "full-longbench", max_context=2048),
        "--length", "1k", "--data-dir", data, "--offline", "--device", "cpu", "--dtype", "float32", "--no-perf",
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert result.code == 1
    cells = {cell["task"]: cell for cell in result.last["cells"]}
    assert cells["longbench:hotpotqa"]["n"] == 2
    assert 0 <= cells["longbench:hotpotqa"]["metrics"]["score"] <= 1
    assert cells["longbench:qasper"]["status"] == "failed"
    assert "line 1: answers does not fit" in result.err
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    asked = [s for s in samples if s["kind"] == "sample"]
    assert all(s["audit"]["cut_tokens"] > 0 and s["audit"]["tokens"] <= 500 for s in asked)
    assert len({s["group"] for s in asked}) == 1  # equal contexts, equally cut: one read


def test_without_weights_or_data_one_sentence_each(tmp_path: Path, command: Callable[..., Any]) -> None:
    result = command("--task", "longbench", "--model", "full-7b", "--offline", "--output", tmp_path / "run")
    assert result.code == 2
    complaints = [line for line in result.err.splitlines() if line.strip()]
    assert sum("zai-org/LongBench" in line for line in complaints) == 1
    assert "Traceback" not in result.err
