"""MRCR: the n-th of the alike texts is asked for, prompts fit, answers are scored as published."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from not_empty import not_empty

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import DataSource, Output
from evals.tasks.mrcr.generated import ORDINALS, SUBSETS
from evals.tasks.mrcr.scores import score
from evals.tasks.mrcr.settings import MrcrSettings
from evals.tasks.mrcr.task import Mrcr
from sharedllm.validation import validate


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(258)


def task(subset: str = "2needle", **settings) -> Mrcr:
    return Mrcr(subset, MrcrSettings(**settings), DataSource())


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("length", [3000, 8192])
def test_the_reference_is_the_nth_alike_text_of_the_prompt(tokenizer, subset: str, length: int) -> None:
    made = task(subset)
    for instance in not_empty(made.instances(tokenizer, length, 4, 0)):
        prompt = instance.prompt
        text = tokenizer.decode([*prompt.prefix, *prompt.context, *prompt.query], skip_special_tokens=True)
        prefix, ordinal, what = re.search(r"Write (\w{10}) and .* repeat the (\w+) (.*)\. Write nothing", text).groups()
        alike = re.findall(rf"User: Write a {what}\.\n\nAssistant: (.*)\n", text)
        assert len(alike) == len(set(alike)) == SUBSETS[subset]
        right = prefix + alike[ORDINALS.index(ordinal)]
        assert instance.reference == right
        assert len(right) <= instance.max_new_tokens
        scored = made.evaluate(instance, Output(text=f" {right}\n\nUser: Write a poem"))
        assert scored["score"] == 1
        others = [score(prefix + other, right, prefix) for other in alike if prefix + other != right]
        assert scored["chance"] == pytest.approx(sum(others) / len(others))
        assert 0 < scored["chance"] < 1
        assert made.evaluate(instance, Output(text=right[1:]))["score"] == 0
        assert length * 0.85 < len(prompt) + instance.max_new_tokens <= length
        assert prompt.audit.cut_tokens == 0


def test_instances_depend_on_the_arguments_alone(tokenizer) -> None:
    five, two = list(task().instances(tokenizer, 3000, 5, 0)), list(task().instances(tokenizer, 3000, 2, 0))
    assert two == five[:2]
    assert len({instance.reference for instance in five}) == 5


def test_a_length_without_room_is_one_sentence(tokenizer) -> None:
    with pytest.raises(UserError, match="cannot hold mrcr 8needle"):
        list(task("8needle").instances(tokenizer, 1024, 1, 0))


@pytest.mark.parametrize(
    ("response", "expected"),
    [("PREabcd", 1), ("PREab", 2 / 3), ("PRE", 0), ("abcd", 0), ("x PREabcd", 0), ("", 0)],
)
def test_the_score_is_the_ratio_after_the_prefix(response: str, expected: float) -> None:
    assert score(response, "PREabcd", "PRE") == pytest.approx(expected)


def published(turns: int, **fields: object) -> dict[str, object]:
    """A row in the official layout, with an invented conversation: two riddles about owls, asked for the second."""
    messages = [{"role": "user", "content": "Here is how it goes.\n\nwrite a song"}]
    for i in range(turns):
        asked = "write a riddle about owls" if i in (2, 5) else f"write a poem about the number {i}"
        messages += [{"role": "assistant", "content": f"Text number {i} is this."}, {"role": "user", "content": asked}]
    messages[-1]["content"] = "Prepend Xy12 to the 2nd (1 indexed) riddle about owls."
    row = {
        "prompt": json.dumps(messages),
        "answer": "Xy12Text number 6 is this.",
        "random_string_to_prepend": "Xy12",
        "n_needles": 2,
        "desired_msg_index": 13,
        "total_messages": len(messages),
        "n_chars": 9,
        "date_added": "1",
    }
    return {**row, **fields}


def official(folder: Path, rows: list[dict[str, object]], **settings) -> Mrcr:
    (folder / "2needle").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "2needle" / "2needle_0.parquet")
    return Mrcr("2needle", MrcrSettings(source="official", **settings), DataSource(folder, offline=True))


def test_official_conversations_are_asked_as_plain_text(tokenizer, tmp_path: Path) -> None:
    made = official(tmp_path, [published(20), published(100), published(22)])
    made.check()
    assert len(made.files()) == 1
    first, last = made.instances(tokenizer, 2000, None, 0)
    assert (first.id, last.id) == ("0-0001", "0-0003")  # the second is of another length
    prompt = tokenizer.decode([*first.prompt.prefix, *first.prompt.context, *first.prompt.query])
    assert prompt.startswith(
        "<s>User: Here is how it goes.\n\nwrite a song\n\nAssistant: Text number 0 is this.\n\nUser: "
    )
    assert prompt.endswith("\n\nUser: Prepend Xy12 to the 2nd (1 indexed) riddle about owls.\n\nAssistant:")
    assert tokenizer.decode(first.prompt.prefix) == "<s>User: "
    assert tokenizer.decode(first.prompt.context).endswith("Text number 19 is this.\n\nUser: ")
    assert first.max_new_tokens == len("Xy12Text number 6 is this.") + 32
    assert first.meta["source"] == "official"
    scored = made.evaluate(first, Output(text=" Xy12Text number 6 is this.\n\nUser: write"))
    assert scored == {"score": 1, "chance": score("Xy12Text number 3 is this.", "Xy12Text number 6 is this.", "Xy12")}
    assert 0 < scored["chance"] < 1


def test_official_conversations_are_asked_in_the_chat_template(tokenizer, tmp_path: Path) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    made = official(tmp_path, [published(20)], chat=True, max_new_tokens=70)
    (instance,) = made.instances(tokenizer, 2000, None, 0)
    prompt = instance.prompt
    text = tokenizer.decode([*prompt.prefix, *prompt.context, *prompt.query], skip_special_tokens=True)
    assert text.startswith("[user]Here is how it goes.\n\nwrite a song[assistant]Text number 0 is this.[user]")
    assert text.endswith("[user]Prepend Xy12 to the 2nd (1 indexed) riddle about owls.[assistant]")
    assert instance.max_new_tokens == 70
    tokenizer.chat_template = None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "[{"}, "prompt is not JSON"),
        ({"prompt": "[]"}, "messages"),
        ({"prompt": json.dumps([{"role": "robot", "content": "a"}] * 3)}, "role"),
        ({"prompt": json.dumps([{"role": "assistant", "content": "a" * 600}] * 3)}, "no question of a user"),
        ({"answer": "Text"}, "does not begin with random_string_to_prepend"),
        ({"answer": None}, "answer"),
        ({"random_string_to_prepend": ""}, "random_string_to_prepend"),
    ],
)
def test_wrong_rows_are_one_sentence(tokenizer, fields: dict[str, object], message: str, tmp_path: Path) -> None:
    made = official(tmp_path, [published(20, **fields)])
    with pytest.raises(UserError, match=f"2needle_0.parquet, row 1.*{message}"):
        list(made.instances(tokenizer, 2000, None, 0))


def test_a_tokenizer_without_a_chat_template_is_one_sentence_that_names_our_setting(tokenizer, tmp_path: Path) -> None:
    made = official(tmp_path, [published(20)], chat=True)
    with pytest.raises(UserError, match=r"row 1: This tokenizer has no chat template: leave out chat\.$"):
        list(made.instances(tokenizer, 2000, None, 0))


def test_missing_rows_and_settings_of_the_other_source_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MRCR 2needle is not in .*put 2needle/\*\.parquet of"):
        Mrcr("2needle", MrcrSettings(source="official"), DataSource(tmp_path, offline=True)).check()
    with pytest.raises(UserError, match="max_new_tokens is a setting of source=official"):
        validate(MrcrSettings, {"max_new_tokens": 9}, "mrcr")
    assert not {"source", "max_new_tokens"} & MrcrSettings().model_dump().keys()
