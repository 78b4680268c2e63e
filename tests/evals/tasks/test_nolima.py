"""NoLiMa: needle and question share no word, the score is the published one, published needles and books are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from not_empty import not_empty
from prompt_text import text

from evals.errors import UserError
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common.files import RowFile
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.nolima.associations import ASSOCIATIONS, LINKS, NAMES, draw, stems
from evals.tasks.nolima.books import opened
from evals.tasks.nolima.settings import NolimaSettings
from evals.tasks.nolima.task import Nolima
from evals.tasks.settings.controls import controlled
from sharedllm.validation import validate


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> DataSource:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text(" ".join(f"Line {i} is about Amara in Paris, a doctor." for i in range(1000)))
    return DataSource(folder)


@pytest.mark.parametrize("hops", ["onehop", "twohop"])
def test_needle_and_question_share_no_content_word(hops: str) -> None:
    """Nor does a question share one with the needle of another character in the same prompt."""
    for asked in ASSOCIATIONS:
        for told in ASSOCIATIONS:
            if told.topic is asked.topic:
                shared = stems(told.needle("Greta")) & stems(asked.question(hops))
                assert not shared, f"{told.needle('Greta')} / {asked.question(hops)}"


def test_words_are_compared_by_their_beginnings() -> None:
    assert stems("The fisherman was fishing.") == {"fishe", "fishi"}
    assert stems("She photographs; a photographer.") == {"photo"}


def test_direct_questions_repeat_the_needle() -> None:
    for asked in ASSOCIATIONS:
        assert stems(asked.needle("Greta")) - {"greta"} >= stems(asked.question("direct"))


def test_chains_of_a_topic_lead_to_different_places() -> None:
    for link in LINKS.values():
        ends = [(id(a.topic), a.chain[link]) for a in ASSOCIATIONS]
        assert len(set(ends)) == len(ends)


@pytest.mark.parametrize("hops", Nolima.subsets)
def test_one_needle_answers_the_question(tokenizer, texts: DataSource, hops: str) -> None:
    made = Nolima(hops, NolimaSettings(), texts)
    for instance in not_empty(made.instances(tokenizer, 3000, 30, 0)):
        prompt = text(tokenizer, instance)
        meta = instance.meta
        names = [instance.reference, *meta["others"]]
        assert len(set(names)) == 4
        assert [prompt.count(name) for name in names] == [1, 1, 1, 1]
        assert "Amara" not in names  # she is in the text
        assert prompt.count(meta["needle"]) == 1
        assert prompt.count(meta["question"]) == 1
        telling = [a for a in ASSOCIATIONS if a.question(hops) == meta["question"]]
        assert [a.needle(instance.reference) for a in telling] == [meta["needle"]]
        if hops == "onehop":
            assert not re.search(r"in Paris\?|a doctor by", meta["question"])
        assert len(instance.prompt) + instance.max_new_tokens == 3000
        assert instance.prompt.audit.needle_survived
        at = tokenizer.decode(instance.prompt.context).index(meta["needle"]) - 1
        assert meta["depth_percent"] == pytest.approx(100 * at / len(instance.prompt.context), abs=0.01)


def test_every_name_and_association_may_be_drawn_where_the_text_has_all_of_them() -> None:
    import random

    words = {word for a in ASSOCIATIONS for link in a.chain for word in link.lower().split()} | {
        name.lower() for name in NAMES
    }
    association, name, others = draw(random.Random(0), "onehop", 2, words)
    assert association in ASSOCIATIONS
    assert len({name, *(whose for _, whose in others)} & set(NAMES)) == 3


def test_instances_depend_on_the_arguments_alone(tokenizer, texts: DataSource) -> None:
    def made(limit: int, seed: int) -> list[Instance]:
        return list(Nolima("onehop", NolimaSettings(), texts).instances(tokenizer, 2048, limit, seed))

    assert made(2, 0) == made(5, 0)[:2]
    assert len({instance.meta["needle"] for instance in made(5, 0)}) > 1
    assert made(1, 1)[0].prompt != made(1, 0)[0].prompt


def test_difficulty_is_set_by_the_others_and_where_needles_begin(tokenizer, texts: DataSource) -> None:
    made = Nolima("direct", NolimaSettings(others=0, start=80), texts)
    for instance in not_empty(made.instances(tokenizer, 3000, 5, 0)):
        assert instance.meta["depth_percent"] >= 79
        assert made.evaluate(instance, Output(text=instance.reference)) == {"score": 1, "alone": 1, "chance": 0}
    assert next(Nolima("direct", NolimaSettings(others=7), texts).instances(tokenizer, 3000, 1, 0)).meta["others"][6]


def test_an_answer_scores_if_it_contains_the_name(tokenizer, texts: DataSource) -> None:
    made = Nolima("onehop", NolimaSettings(), texts)
    instance = next(made.instances(tokenizer, 2048, 1, 0))
    name, other = instance.reference, instance.meta["others"][0]
    for answer, score, alone in (
        (f" {name}.", 1, 1),
        (f"I think that it is {name}", 1, 1),
        (f"{other} or {name}", 1, 0),
        (other, 0, 0),
        (name.lower(), 0, 0),
        ("", 0, 0),
    ):
        assert made.evaluate(instance, Output(text=answer)) == {"score": score, "alone": alone, "chance": 0.25}


def test_controls_and_lengths(tokenizer, texts: DataSource) -> None:
    task = Nolima("onehop", NolimaSettings(context=("own", "other", "none")), texts)
    found = controlled(task, list(task.instances(tokenizer, 2048, 2, 0)))
    assert [instance.control for instance in found] == ["own", "other", "none"] * 2
    with pytest.raises(UserError, match="cannot hold NoLiMa: choose a larger --length"):
        list(task.instances(tokenizer, 300, 1, 0))


ENTRY = {
    "id": "0907",
    "reasoning_type": "invented",
    "system_prompt": "",
    "task_template": "A book:\n\n{haystack}\n\nQuestion: {question}\n\n Only the name.",
    "needle": "By the way, {CHAR} polishes {1}.",
    "questions": {"onehop": "Which character owns {2}?", "twohop": "Which character sails to {3}?"},
    "character_set": ["Ann", "Bob"],
    "tests": {"T1": {"input_args": ["a mast", "a ship", "sea"]}, "T2": {"input_args": ["a saddle", "a horse", "war"]}},
}


def copied(folder: Path, entries: object, name: str = "needle_set") -> DataSource:
    """The official layout, with invented needles and books."""
    (folder / "needlesets").mkdir()
    (folder / "needlesets" / f"{name}.json").write_text(json.dumps(entries))
    (folder / "haystack" / "rand_shuffle").mkdir(parents=True)
    for number in (1, 2):
        lines = "".join(f"Line {i} of book {number}.\n" for i in range(600))
        (folder / "haystack" / "rand_shuffle" / f"rand_book_{number}.txt").write_text(lines)
    return DataSource(folder, offline=True)


@pytest.mark.parametrize("hops", ["onehop", "twohop"])
def test_published_needles_are_asked_in_published_prompts_and_books(tokenizer, tmp_path: Path, hops: str) -> None:
    made = Nolima(hops, NolimaSettings(source="official"), copied(tmp_path, [ENTRY]))
    made.check()
    assert len(made.files()) == 3
    instances = list(made.instances(tokenizer, 4096, None, 0))
    assert len({instance.id for instance in instances}) == 2 * 2 * 26
    assert list(made.instances(tokenizer, 4096, 7, 0)) == instances[:7]
    for instance in instances:
        prompt, meta = text(tokenizer, instance), instance.meta
        assert prompt.startswith("A book:\n\n")
        assert prompt.endswith(f"\n\nQuestion: {meta['question']}\n\n Only the name.")
        thing = {"owns a ship": "mast", "owns a horse": "saddle", "sails to sea": "mast", "sails to war": "saddle"}
        wanted = next(thing[key] for key in thing if key in meta["question"])
        assert meta["needle"] == f"By the way, {instance.reference} polishes a {wanted}."
        found = re.search(re.escape(f" {meta['needle']}\n"), prompt)
        share = (found.start() - 9) / (len(instance.prompt.context) - len(found.group()))
        assert share == pytest.approx(meta["depth_percent"] / 100, abs=0.02)
        assert 4000 < len(instance.prompt) + instance.max_new_tokens <= 4096
        assert instance.prompt.audit.needle_survived
        assert made.evaluate(instance, Output(text=f"It is {instance.reference}.")) == {"score": 1}


def test_direct_questions_have_a_set_of_their_own(tokenizer, tmp_path: Path) -> None:
    entry = {**ENTRY, "questions": {"direct": "Which character polishes {1}?"}}
    data = copied(tmp_path, [entry], "needle_set_ONLYDirect")
    instance = next(Nolima("direct", NolimaSettings(source="official"), data).instances(tokenizer, 4096, 1, 0))
    assert instance.meta["question"].startswith("Which character polishes a ")
    with pytest.raises(UserError, match=r"needle set needle_set of NoLiMa is not in .*put needlesets/needle_set.json"):
        Nolima("onehop", NolimaSettings(source="official"), data).check()


def test_a_book_that_is_too_short_and_missing_books_are_one_sentence(tokenizer, tmp_path: Path) -> None:
    data = copied(tmp_path, [ENTRY])
    made = Nolima("onehop", NolimaSettings(source="official"), data)
    with pytest.raises(UserError, match=r"rand_book_\d.txt has \d+ tokens, too few .*choose a smaller --length"):
        list(made.instances(tokenizer, 32768, 1, 0))
    with pytest.raises(UserError, match="cannot hold NoLiMa"):
        list(made.instances(tokenizer, 256, 1, 0))
    for book in (tmp_path / "haystack" / "rand_shuffle").iterdir():
        book.unlink()
    with pytest.raises(UserError, match=r"books of NoLiMa are not in .*put haystack/rand_shuffle/\*\.txt"):
        made.check()


def test_a_book_without_line_breaks_is_not_called_short(tokenizer, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("One sentence after another. " * 100, encoding="utf-8")
    with pytest.raises(UserError, match="has no line break where a needle could stand"):
        opened(RowFile(book), PromptBuilder.of(tokenizer)).around(500, 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"needle": "Ann polishes a mast."}, "needle.*no {CHAR}"),
        ({"task_template": "{question}"}, "task_template"),
        ({"task_template": "{haystack}"}, "task_template.*no {question}"),
        ({"task_template": "{haystack} {question} {answer}"}, "task_template.*unknown slot"),
        ({"character_set": []}, "character_set"),
        ({"tests": {"T1": {"input_args": [1]}}}, "tests"),
        ({"questions": {"threehop": "Who?"}}, "asks no question of the kind onehop"),
    ],
)
def test_wrong_needle_sets_are_one_sentence(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    made = Nolima("onehop", NolimaSettings(source="official"), copied(tmp_path, [{**ENTRY, **fields}]))
    with pytest.raises(UserError, match=f"needle_set.json.*{message}"):
        made.check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "official", "others": 2}, "others and start are settings of source=generated"),
        ({"set": "needle_set_hard"}, "add source=official"),
        ({"others": 9}, "others"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(NolimaSettings, settings, "nolima")
