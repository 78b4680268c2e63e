"""InfiniteBench: official files row by row, generated rows, prompts by hash, rows, end to end."""

from __future__ import annotations

import json
import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from not_empty import not_empty

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common import official_prompts
from evals.tasks.common.spread import spread
from evals.tasks.infinitebench.computed import HEADER, TARGETS
from evals.tasks.infinitebench.generators import GENERATORS
from evals.tasks.infinitebench.needles import Sweep, needle_context, sweep
from evals.tasks.infinitebench.subsets import TASKS
from evals.tasks.infinitebench.task import InfiniteBench, InfiniteBenchSettings
from evals.tasks.infinitebench.templates import fields, template

DATA = os.environ.get("SHAREDLLM_DATA")
GOLDEN = json.loads((folders.GOLDEN / "prompt_hashes.json").read_text())["infinitebench"]
needs_data = pytest.mark.skipif(DATA is None, reason="SHAREDLLM_DATA names no folder with the official files")


def task(name: str, folder: Path | None = None, **options: Any) -> InfiniteBench:
    return InfiniteBench(name, InfiniteBenchSettings(**options), DataSource(folder, offline=True))


def instances(made: InfiniteBench, length: int | None, limit: int | None = None, seed: int = 0) -> list[Instance]:
    return list(made.instances(byte_tokenizer(258), length, limit, seed))


def decode(ids: list[int]) -> str:
    return byte_tokenizer(258).decode(ids, skip_special_tokens=True)


# --- official files


@needs_data
@pytest.mark.parametrize("length", [8192, 16384, 32768, 65536])
def test_official_passkey_files_row_by_row(length: int) -> None:
    archive = Path(DATA or "") / "infinitebench" / "passkey_official_8k_16k_32k_64k.zip"
    plan = sweep(length)
    with zipfile.ZipFile(archive) as opened, opened.open(f"passkey_{length}.jsonl") as stream:
        rows = 0
        for index, line in enumerate(stream):
            row = json.loads(line)
            depth = index // plan.repeat * plan.step
            assert needle_context("passkey", row["answer"], depth, plan.lines) == row["context"]
            made = GENERATORS["passkey"].make(random.Random(index), index, plan.lines, length)
            assert made.context.replace(str(made.answer), row["answer"]) == row["context"]
            assert made.input == row["input"]
            rows += 1
    assert rows == plan.rows == GENERATORS["passkey"].count(length)


@needs_data
@pytest.mark.parametrize("name", ["passkey", "number_string"])
def test_the_128k_files_have_the_same_form(name: str) -> None:
    recipe = json.loads(
        (Path(DATA or "") / "infinitebench" / "rebuild_recipe_passkey_number_string_128k.json").read_text()
    )
    plan = sweep(131072)
    assert plan == Sweep(recipe["N"], recipe["step"], recipe["repeat"])
    assert plan.rows == len(recipe[name]["keys"])
    key = recipe[name]["keys"][37]
    needle = recipe[name]["needle"].format(key=key)
    context = needle_context(name, key, 37 // 10 * 90, plan.lines)
    assert context == recipe["noise_line"] * 270 + needle + recipe["noise_line"] * (5220 - 270)
    assert GENERATORS[name].make(random.Random(0), 0, 10, 8192).input == recipe[name]["input"]


# --- generated rows


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_rows_fit_the_length_and_answer_themselves(name: str) -> None:
    made = task(name)
    got = instances(made, 4096, limit=4)
    assert len(got) == 4
    assert got == instances(made, 4096, limit=4)
    assert got != instances(made, 4096, limit=4, seed=1)
    for instance in got:
        assert 0.75 * 4096 < len(instance.prompt) + instance.max_new_tokens <= 4096
        assert instance.prompt.audit.cut_tokens == 0
        reference = instance.reference
        right = str(reference) if name == "math_calc" else f" {reference}"
        assert made.evaluate(instance, Output(text=right)) == {"score": 1.0}
        assert made.evaluate(instance, Output(text=" wrong"))["score"] == 0.0


def test_needles_are_where_their_meta_says() -> None:
    for name in ("passkey", "number_string", "kv_retrieval"):
        for instance in not_empty(instances(task(name), 4096, limit=6)):
            at = 100 * decode(instance.prompt.context).index(instance.reference) / len(instance.prompt.context)
            assert at == pytest.approx(instance.meta["depth"], abs=5)
            assert instance.prompt.audit.needle_survived


def test_a_context_holds_the_answer_to_its_question() -> None:
    for instance in not_empty(instances(task("math_find"), 4096, limit=14)):
        numbers = json.loads(decode(instance.prompt.context))
        ordered = sorted(set(numbers))
        asked = re.search(r"The (.+) number of", decode(instance.prompt.query))
        assert asked
        assert asked.group(1) in TARGETS
        middle = sorted(numbers)[(len(numbers) - 1) // 2], sorted(numbers)[len(numbers) // 2]
        expected = {
            "largest": ordered[-1], "second largest": ordered[-2], "third largest": ordered[-3],
            "smallest": ordered[0], "second smallest": ordered[1], "third smallest": ordered[2],
            "median": sum(middle) / 2,
        }[asked.group(1)]  # fmt: skip
        assert instance.reference == expected
    for instance in not_empty(instances(task("code_run"), 4096, limit=10)):
        space: dict[str, Any] = {}
        header, code = decode(instance.prompt.context)[: len(HEADER)], decode(instance.prompt.context)[len(HEADER) :]
        assert header == HEADER
        exec(code, space)
        call = re.search(r"func_\d+\(-?\d+\)", decode(instance.prompt.query))
        assert call
        assert eval(call.group(0), space) == instance.reference
    for instance in not_empty(instances(task("math_calc"), 4096, limit=3)):
        parts = decode(instance.prompt.context).split(" ")
        values = [eval("".join(parts[: 2 * i + 1])) for i in range(1, len(parts) // 2 + 1)]
        assert values == instance.reference
        assert all(0 <= value <= 99 for value in values)


def test_a_larger_limit_keeps_the_samples_of_a_smaller_one() -> None:
    few, many = (instances(task("passkey"), 2048, limit=n) for n in (5, 20))
    assert {i.id for i in few} < {i.id for i in many}
    depths = sorted(i.meta["depth"] for i in few)
    assert depths[0] < 25
    assert depths[-1] > 75


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 600), st.integers(1, 60))
def test_spread_reaches_everywhere(rows: int, limit: int) -> None:
    chosen = sorted(spread(list(range(rows)), limit))
    assert len(chosen) == min(rows, limit)
    gaps = [b - a for a, b in zip([0, *chosen], [*chosen, rows - 1], strict=True)]
    assert max(gaps) <= 3 * rows / limit + 1


def test_chat_goes_around_the_families_made_for_it() -> None:
    tokenizer = byte_tokenizer(258)
    tokenizer.chat_template = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}<a>"
    shown = {}
    for chat in ("official", "never"):
        made = task("passkey", chat=chat, max_new_tokens=15)
        (instance,) = made.instances(tokenizer, 2048, 1, 0)
        assert len(instance.prompt) + instance.max_new_tokens <= 2048
        assert instance.max_new_tokens == 15
        shown[chat] = decode(instance.prompt.query)
    assert shown["official"] == shown["never"] + "</u><a>"


def test_what_cannot_be_generated_says_so() -> None:
    with pytest.raises(UserError, match="give --length"):
        instances(task("passkey", source="generated"), None)
    with pytest.raises(UserError, match="cannot be generated"):
        instances(task("code_debug", source="generated"), 4096)
    with pytest.raises(UserError, match="exceed --length 1024"):
        instances(task("code_debug", max_prompt_tokens=1020), 1024)
    with pytest.raises(UserError, match="needs a longer --length than 256"):
        instances(task("kv_retrieval"), 256)


# --- prompts


@pytest.mark.parametrize("name", TASKS)
def test_the_gpt4_family_has_the_official_hashes(name: str) -> None:
    assert official_prompts.sha256(template(name)) == GOLDEN["gpt4"][name]


def yarn_passkey() -> str:
    """The official text differs from gpt4's in words that this rebuilds; its hash tells whether it is right."""
    text = template("passkey").replace("memorize them", "memorize it").replace("information there.", "information.")
    return text + "\n\nThe pass key is"


@pytest.mark.parametrize("suffix", ["py", "json"])
def test_another_family_comes_from_a_file(tmp_path: Path, suffix: str) -> None:
    text = yarn_passkey()
    file = tmp_path / f"prompt.{suffix}"
    if suffix == "py":
        file.write_text(f"raise SystemExit\nyarn_mistral_templates = {{'passkey': {text[:20]!r} + {text[20:]!r}}}\n")
    else:
        file.write_text(json.dumps({"yarn_mistral": {"passkey": text}}))
    made = task("passkey", family="yarn_mistral", templates=file)
    (instance,) = instances(made, 2048, limit=1)
    assert decode(instance.prompt.query) == "\n\nWhat is the pass key?\n\nThe pass key is"
    assert instance.prompt.audit.template_sha256 == GOLDEN["yarn_mistral"]["passkey"]
    begin, end = instance.prompt.question or (0, 0)
    assert decode(instance.prompt.query[begin:end]) == "What is the pass key?"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "yarn"}, "did you mean yarn_mistral"),
        ({"family": "yarn_mistral"}, "--set templates=FILE"),
        ({"family": "yarn_mistral", "templates": "missing.py"}, "missing.py cannot be read"),
        ({"family": "yarn_mistral", "templates": "empty.json"}, "no text for passkey"),
        ({"family": "yarn_mistral", "templates": "other.json"}, "not the official one"),
    ],
)
def test_bad_templates_are_one_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "other.json").write_text(json.dumps({"passkey": "{context} Key?"}))
    if "templates" in options:
        options = {**options, "templates": tmp_path / options["templates"]}
    with pytest.raises(UserError, match=message):
        instances(task("passkey", **options), 2048)


def test_slots_are_filled_as_officially() -> None:
    assert fields("math_find", "The 2nd largest number of the list is:", [])["prefix"] == (
        "What is the 2nd largest number in the following list?"
    )
    values = fields("code_run", "Compute func_12(-3) now", [])
    assert (values["func"], values["func_call"]) == ("func_12", "func_12(-3)")
    assert fields("longbook_choice_eng", "Who?", ["a", "b", "c", "d"])["OPTION_C"] == "c"


# --- official rows


def choice_row(**more: Any) -> dict[str, Any]:
    book = "Once upon a time. " * 200
    return {"id": 0, "context": book, "input": "Who?", "answer": ["Ann"], "options": ["Bob", "Ann", "Cy", "Di"], **more}


def write(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_choice_rows_get_options_label_and_both_scores(tmp_path: Path) -> None:
    made = task("longbook_choice_eng", write(tmp_path, "longbook_choice_eng", choice_row()))
    (instance,) = instances(made, 2048)
    assert instance.reference == ["Ann", "B"]
    assert instance.max_new_tokens == 40
    assert len(instance.prompt) == 2048 - 40
    assert instance.prompt.audit.cut_tokens > 0
    assert decode(instance.prompt.query).endswith("B. Ann\nC. Cy\nD. Di")
    assert made.evaluate(instance, Output(text="A. no, B")) == {
        "score": 1.0, "score_2024-08": 1.0, "score_2024-06": 0.0
    }  # fmt: skip
    june = task("longbook_choice_eng", tmp_path, scorer="2024-06")
    assert june.evaluate(instance, Output(text="A. no, B"))["score"] == 0.0


def test_official_rows_of_a_length_come_before_generated_ones(tmp_path: Path) -> None:
    context = needle_context("passkey", "12345", 20, 40)
    write(tmp_path, "passkey_4096", {"context": context, "input": "What is the pass key?", "answer": "12345"})
    (official,) = instances(task("passkey", tmp_path), 4096)
    assert official.meta["source"] == "official"
    assert decode(official.prompt.context) == context
    assert instances(task("passkey", tmp_path), 8192, limit=1)[0].meta["source"] == "generated"
    (cut,) = instances(task("passkey", write(tmp_path, "passkey", {"context": context, "input": "", "answer": "12345"}),
                            source="official", max_prompt_tokens=1000), 1024)  # fmt: skip
    assert cut.prompt.audit.needle_survived is False


def test_rows_that_the_user_brings_are_never_replaced_by_generated_ones(tmp_path: Path) -> None:
    row = {"context": str([3, 7] * 900), "input": "The largest number of the list is: ", "answer": 7}
    write(tmp_path, "math_find", row)
    (instance,) = instances(task("math_find", tmp_path), 4096)
    assert instance.meta["source"] == "official"
    assert instance.reference == 7
    assert instance.prompt.audit.cut_tokens > 0
    (first, *_) = instances(task("math_find", tmp_path, source="generated"), 4096, limit=2)
    assert first.meta["source"] == "generated"


def test_a_task_reads_its_own_files_alone(tmp_path: Path) -> None:
    for name in ("passkey", "passkey_8192", "passkeys", "number_string"):
        write(tmp_path, name, choice_row())
    assert [path.name for path in task("passkey", tmp_path).files()] == ["passkey.jsonl", "passkey_8192.jsonl"]
    assert task("passkey", tmp_path, source="generated").files() == []
    assert task("passkey").files() == []


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no context": ({"input": "", "answer": "1"}, "line 1: context"),
    "no answer": (choice_row(answer=[]), "line 1: answer"),
    "a blank context": (choice_row(context=" \n"), r"line 1: context does not fit \(it is empty or blank\)"),
    "a foreign answer": (choice_row(answer=["Eve"]), "line 1: the answer 'Eve' is not one of four options"),
    "no options": (choice_row(options=[]), "line 1: there are 0 options"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_name_file_line_and_remedy(tmp_path: Path, case: str) -> None:
    row, message = BAD[case]
    with pytest.raises(UserError, match=f"longbook_choice_eng.jsonl, {message}"):
        instances(task("longbook_choice_eng", write(tmp_path, "longbook_choice_eng", row)), 2048)


@pytest.mark.parametrize("answer", ["", " ", ["", "\n"]])
def test_a_row_without_a_visible_answer_is_refused(tmp_path: Path, answer: str | list[str]) -> None:
    write(tmp_path, "longbook_qa_eng", {"context": "Ann sings.", "input": "Who?", "answer": answer})
    with pytest.raises(UserError, match=r"longbook_qa_eng.jsonl, line 1: the answer is empty or blank"):
        instances(task("longbook_qa_eng", tmp_path), None)


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"put code_debug.jsonl of https://huggingface.co/datasets/xinrongzhang2022"):
        task("code_debug", tmp_path).check_length(None)
    with pytest.raises(UserError, match="--offline forbids a download"):
        task("code_debug").check_length(None)
    task("passkey").check_length(4096)  # it can be generated


# --- through the command


def test_generated_passkeys_end_to_end(
    tmp_path: Path, tiny_presets: Callable[..., Path], command: Callable[..., Any]
) -> None:
    result = command(
        "--task", "infinitebench:passkey", "--model", tiny_presets("full", "full-infinitebench", max_context=2048),
        "--length", "1k,2k", "--limit", 3, "--offline", "--device", "cpu", "--dtype", "float32", "--no-perf",
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert result.code == 0
    assert [(c["length"], c["n"], c["status"]) for c in result.last["cells"]] == [(1024, 3, "ok"), (2048, 3, "ok")]
