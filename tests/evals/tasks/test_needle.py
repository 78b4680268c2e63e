"""Needles: where they land, that they are whole, and how answers are scored."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from not_empty import not_empty
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.run.work import sample_count
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common.documents import folder_documents
from evals.tasks.common.haystack import BLOCK_CHARS
from evals.tasks.common.token_ids.encoding import TextEncoder
from evals.tasks.needle.facts import TEMPLATES, draw
from evals.tasks.needle.haystack import insert, spread
from evals.tasks.needle.scores import score_number, word_recall
from evals.tasks.needle.task import Needle, NeedleSettings
from sharedllm.validation import validate


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_tokenizer(300)


def make(tokenizer, length=1024, limit=None, seed=0, data_dir: Path | None = None, **fields) -> list[Instance]:
    task = Needle(None, NeedleSettings(**fields), DataSource(data_dir=data_dir))
    return list(task.instances(tokenizer, length, limit, seed))


def text_of(tokenizer, ids) -> str:
    return tokenizer.decode(ids)


@given(
    hay=st.lists(st.integers(0, 9), max_size=60),
    needles=st.lists(st.lists(st.integers(100, 109), min_size=1, max_size=4), min_size=1, max_size=4),
    depth=st.floats(0, 100),
)
def test_insertion_keeps_hay_and_needles_whole_and_stands_behind_a_sentence(hay, needles, depth) -> None:
    ends = {0, 1}
    context, starts = insert(hay, needles, depth, ends)
    assert [token for token in context if token < 100] == hay
    assert starts == sorted(starts)
    for k, (start, needle) in enumerate(zip(starts, needles, strict=True)):
        assert context[start : start + len(needle)] == needle
        before = [token for token in context[:start] if token < 100]
        percent = depth + k * (100 - depth) / len(needles)
        assert len(before) <= len(hay) * percent / 100
        assert percent >= 100 or not before or before[-1] in ends
        passed = hay[len(before) : int(len(hay) * percent / 100)]
        assert not ends & set(passed)  # the last sentence end before the place was taken


def test_a_needle_at_depth_100_is_the_end() -> None:
    assert insert([1, 2, 3], [[7]], 100, set()) == ([1, 2, 3, 7], [3])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12, unique=True))
def test_depths_are_all_asked_and_every_start_of_the_order_is_spread(depths) -> None:
    order = spread(depths)
    assert sorted(order) == sorted(depths)
    assert order[0] == min(depths)
    assert len(order) == 1 or order[1] == max(depths)


def test_the_order_of_the_default_grid() -> None:
    assert spread((0, 25, 50, 75, 100)) == [0, 100, 50, 25, 75]


@pytest.mark.parametrize("template", ["city", "item", "classic"])
@pytest.mark.parametrize("length", [300, 1024])
def test_prompts_hold_their_needle_and_keep_their_length(tokenizer, template, length) -> None:
    instances = make(tokenizer, length=length, template=template)
    assert [i.meta["depth"] for i in instances] == [0, 100, 50, 25, 75]
    for instance in instances:
        context = text_of(tokenizer, instance.prompt.context)
        key = instance.meta["key"]
        sentence = TEMPLATES[template].needle.format(key=key, value=instance.reference)
        assert context.count(sentence) == 1
        assert instance.prompt.audit.needle_survived
        start = len(text_of(tokenizer, instance.prompt.context[: instance.meta["token"] - 1]))
        assert context[start:].startswith(" " + sentence)
        longest_key = max(map(len, TEMPLATES[template].keys), default=0)
        assert length - 2 * longest_key <= len(instance.prompt) + instance.max_new_tokens <= length
        query = instance.prompt.query
        assert text_of(tokenizer, query[slice(*instance.prompt.question)]) == TEMPLATES[template].question.format(
            key=key
        )
        assert text_of(tokenizer, query).endswith(TEMPLATES[template].stem.format(key=key))


def test_needles_stand_behind_a_full_stop_near_their_depth(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A sentence of words. " * 100, encoding="utf-8")
    for instance in not_empty(make(tokenizer, depths=(20, 40, 60, 80), data_dir=tmp_path)):
        before = instance.prompt.context[: instance.meta["token"] - 1]
        assert text_of(tokenizer, before).endswith(" A sentence of words.")
        assert 0 <= instance.meta["depth"] * 0.97 - instance.meta["depth_percent"] < 5


def test_a_cell_of_the_grid_does_not_depend_on_the_others(tokenizer) -> None:
    alone = {i.id: i for i in make(tokenizer, depths=50)}
    among = {i.id: i for i in make(tokenizer, depths=(0, 50, 70), samples=2)}
    for name, instance in not_empty(alone.items()):
        assert among[name] == instance
    assert make(tokenizer, limit=2) == make(tokenizer)[:2]


def test_a_limit_is_the_number_of_samples_unless_the_settings_bound_it(tokenizer) -> None:
    asked = [i.id for i in make(tokenizer, limit=12)]
    assert len(set(asked)) == 12
    assert asked[:5] == [i.id for i in make(tokenizer)], "without a limit one context per depth"
    assert asked == [i.id for i in make(tokenizer, samples=3)][:12], "the same samples, however they were asked for"
    assert len(make(tokenizer, limit=12, samples=2)) == 10


@pytest.mark.parametrize(
    ("settings", "limit", "count"),
    [
        ({}, None, 5),
        ({}, 12, 12),
        ({"samples": 2}, 12, 10),
        ({"needles": 2, "questions": 2}, 3, 3),
        ({"depths": (50, 0, 50)}, None, 2),
    ],
)
def test_a_plan_says_how_many_samples_there_will_be(tokenizer, settings, limit, count) -> None:
    task = Needle(None, NeedleSettings(**settings), DataSource())
    assert sample_count(task, limit) == count == len(list(task.instances(tokenizer, 1024, limit, 0)))
    assert draw("city", 3, 0, 1024, 50.0, 0)[:1] != draw("city", 3, 1, 1024, 50.0, 0)[:1]
    values = {fact.value for depth in range(20) for fact in draw("city", 1, 0, 1024, depth, 0)}
    assert len(values) == 20
    assert all(len(value) == 7 for value in values)


def test_several_questions_share_one_context(tokenizer) -> None:
    instances = make(tokenizer, needles=4, questions=3, depths=(0, 50), length=1500)
    assert len(instances) == 6
    for group in (instances[:3], instances[3:]):
        assert len({i.prompt.context_key for i in group}) == 1
        assert len({i.group for i in group}) == 1
        assert len({i.meta["key"] for i in group}) == 3
        first = group[0].meta["depth"]
        assert [i.meta["depth"] for i in group] == [first + k * (100 - first) / 4 for k in range(3)]
        percents = [i.meta["depth_percent"] for i in group]
        assert percents == sorted(percents)
        assert percents[2] > percents[0]


def test_samples_differ_in_key_and_in_haystack(tokenizer, tmp_path: Path) -> None:
    for name, word in (("b", "beta"), ("a", "alpha"), ("c", "gamma")):
        (tmp_path / f"{name}.txt").write_text(f"{word} sentence. " * 200, encoding="utf-8")
    instances = make(tokenizer, data_dir=tmp_path, depths=100, samples=3)
    starts = [text_of(tokenizer, i.prompt.context).split()[0] for i in instances]
    assert starts == ["alpha", "beta", "gamma"]  # files in the order of their names
    assert len({i.reference for i in instances}) == 3


def test_no_more_of_a_long_text_is_tokenised_than_a_few_blocks(tokenizer, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "long.txt").write_text("A sentence. " * (BLOCK_CHARS // 2), encoding="utf-8")
    read = []
    encoded = TextEncoder._encoded
    monkeypatch.setattr(TextEncoder, "_encoded", lambda *of: read.append(len(of[1])) or encoded(*of))
    make(tokenizer, data_dir=tmp_path, length=1024)
    assert sum(read) < 3 * BLOCK_CHARS


def test_a_short_haystack_repeats(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("Seven tokens here. ", encoding="utf-8")
    (instance,) = make(tokenizer, data_dir=tmp_path, depths=0, length=600)
    assert text_of(tokenizer, instance.prompt.context).count("Seven tokens here.") > 10


def test_a_chat_prompt_begins_the_reply(tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}[U]{{ m['content'] }}[M]{% endfor %}"
    (instance,) = make(tokenizer, depths=0, chat=True)
    text = text_of(tokenizer, instance.prompt.query)
    key = instance.meta["key"]
    assert text == f"\n\nWhat is the magic number for {key}?[M]The magic number for {key} is"
    assert text_of(tokenizer, instance.prompt.prefix).endswith("[U]")


@pytest.mark.parametrize(
    ("text", "exact", "digits", "strict"),
    [
        (" 1234567.", 1, 1, 1),
        ("It is 1234567 or 7654321", 1, 1, 1),
        (" 1234576", 0, 5 / 7, 0),
        (" 123456", 0, 6 / 7, 0),
        (" 12345678", 0, 1, 0),
        (" no number", 0, 0, 0),
        (" 1,234,567.", 1, 1, 0),
        (" 1 234 567", 1, 1, 0),
        (" 1.234.567", 1, 1, 0),
        (" 1\u202f234\u202f567 is the number", 1, 1, 0),
        ("1'234'567", 1, 1, 0),
        ("12,34,567", 1, 1, 0),
        ("123-4567", 1, 1, 0),
        ("１２３４５６７", 1, 1, 1),
        ("1，234，567", 1, 1, 0),
        ("1,234.567", 0, 4 / 7, 0),  # two separators: a decimal number
        ("1234567.50", 1, 1, 1),
        ("1234567, 7654321", 1, 1, 1),
        ("1234567,7654321", 1, 1, 1),
        ("7654321 1234567", 0, 1 / 7, 0),
        ("12 1234567", 0, 2 / 7, 0),
        (" (2 facts) 1234567", 0, 0, 0),  # the first number counts
        ("1,2,3", 0, 1 / 7, 0),
    ],
)
def test_numbers_are_compared_digit_by_digit_whatever_separates_their_groups(text, exact, digits, strict) -> None:
    expected = {"exact_match": exact, "digit_accuracy": pytest.approx(digits), "strict_match": strict}
    assert score_number(text, "1234567") == expected


def test_the_classic_needle_is_scored_by_its_words(tokenizer) -> None:
    task = Needle(None, NeedleSettings(template="classic", depths=(0,)), DataSource())
    (instance,) = task.instances(tokenizer, 800, None, 0)
    right = task.evaluate(instance, Output(text=" eat a sandwich and sit in Dolores Park on a  sunny day."))
    assert right == {"exact_match": 1, "recall": 1}
    half = task.evaluate(instance, Output(text="Sit in Dolores Park"))
    assert half == {"exact_match": 0, "recall": pytest.approx(4 / 11)}
    assert word_recall("", "a b") == 0


def test_a_context_without_room_is_refused_with_the_length_it_needs(tokenizer) -> None:
    instances = make(tokenizer, length=64, needles=2, questions=2)
    assert len(instances) == 10
    for instance in instances:
        assert "too short for the needle task: needles, question and answer take" in instance.refused
    assert [i.id for i in instances] == [i.id for i in make(tokenizer, length=1024, needles=2, questions=2)]
    needed = int(make(tokenizer, length=64)[0].refused.partition("take ")[2].partition(",")[0])
    made = make(tokenizer, length=needed + 3)  # keys differ in length
    assert {i.refused is None for i in made} == {True, False}
    with pytest.raises(UserError, match="needs a length"):
        make(tokenizer, length=None)


@pytest.mark.parametrize(
    "fields",
    [{"depths": "0,120"}, {"depths": []}, {"questions": 2}, {"template": "classic", "needles": 2}, {"needles": 0}],
)
def test_settings_that_do_not_fit_are_refused(fields) -> None:
    with pytest.raises(ValidationError):
        NeedleSettings(**fields)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"depths": -5}, "settings of needle do not fit together: depths are percentages from 0 to 100, at least one."),
        ({"questions": 2}, "settings of needle do not fit together: 2 questions need as many needles: set needles=2."),
        ({"needles": 0}, "setting needles of needle does not fit: expected 1 or more, found 0."),
    ],
)
def test_the_sentence_about_settings_says_which_do_not_fit(setting, sentence) -> None:
    with pytest.raises(UserError) as error:
        validate(NeedleSettings, setting, "needle")
    assert str(error.value) == f"The {sentence}"


def test_depths_may_be_written_with_commas() -> None:
    assert NeedleSettings(depths="0, 33.3,100").depths == (0, 33.3, 100)
    assert NeedleSettings(depths=50).depths == (50,)


def test_a_folder_without_text_is_refused_before_any_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.txt"):
        Needle(None, NeedleSettings(), DataSource(data_dir=tmp_path)).check()


@pytest.mark.parametrize("below", ["PaulGrahamEssays", "texts/essays"])
def test_a_folder_with_texts_further_down_names_where_they_are(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Some text.", encoding="utf-8")
    with pytest.raises(UserError) as error:
        Needle(None, NeedleSettings(), DataSource(data_dir=tmp_path)).check()
    assert str(error.value).endswith(f" file in {tmp_path}: {folder} has some, so name that one.")


def test_rows_of_another_benchmark_beside_texts_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Some text.", encoding="utf-8")
    path = tmp_path / "multi_news.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"input": "", "context": "c", "answers": ["a"]}\n'))
    assert refused(path) == (
        ", line 1 has no field `text` or `content` (it has input, context, answers): give --data-dir a folder "
        "that holds texts only."
    )


def refused(path: Path) -> str:
    """What is said about a file that gives no haystack."""
    with pytest.raises(UserError) as error:
        list(folder_documents(path.parent))
    assert str(error.value).startswith(str(path))
    return str(error.value).removeprefix(str(path))


NOT_UTF8 = pyarrow.Array.from_buffers(pyarrow.string(), 1, pyarrow.array([b"\xff"], pyarrow.binary()).buffers())


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", ["one", None], ", row 2: text does not fit (expected text, found null)"),
        ("content", ["one", " \n"], ", row 2: content does not fit (it is empty or blank)"),
        ("text", [1, 2], ", row 1: text does not fit (expected text, found 1)"),
        ("text", NOT_UTF8, ", row 1 is not UTF-8 (byte 0): fix or delete the row."),
        ("text", pyarrow.array([], pyarrow.string()), " has no rows: remove it from the folder."),
    ],
)
def test_a_bad_row_of_a_parquet_file_is_named(tmp_path: Path, column, values, message) -> None:
    path = tmp_path / "set.parquet"
    pyarrow.parquet.write_table(pyarrow.table({column: values}), path)
    assert refused(path).startswith(message)


@pytest.mark.parametrize("kept", [slice(0), slice(100, None), slice(None)])
def test_a_broken_parquet_file_is_one_sentence(tmp_path: Path, kept: slice) -> None:
    path = tmp_path / "set.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"sentence {i}" for i in range(1000)]}), path)
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content[kept])
    assert refused(path).startswith(" cannot be read as Parquet (")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "x"}\n{"text": " \\n"}\n', ", line 2: text does not fit (it is empty or blank)"),
        (b'{"text": "x", "n": 1' + b"0" * 5000 + b"}\n", ", line 1 has too long a number"),
        (b'{"text": "x", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", ", line 1 has too long a number or"),
        (b"\n", " has no rows: remove it from the folder."),
    ],
)
def test_a_bad_line_of_a_jsonl_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert refused(path).startswith(message)


def test_a_damaged_gzip_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress(b'{"text": "x"}\n' * 1000))
    content[12:30] = b"\xff" * 18
    path.write_bytes(content)
    assert refused(path).startswith(" is broken (")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_broken_link_is_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    (tmp_path / "b.txt").write_text("Some text.", encoding="utf-8")
    (tmp_path / name).symlink_to(tmp_path / "missing")
    assert refused(tmp_path / name).startswith(" cannot be read")


def test_white_space_around_a_text_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": " x\\n"}\n', encoding="utf-8")
    assert [document.text for document in folder_documents(tmp_path)] == [" x\n"]
