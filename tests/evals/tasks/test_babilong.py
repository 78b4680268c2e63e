"""BABILong: answers follow from the facts, prompts and score are the published ones, official rows are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from not_empty import not_empty
from prompt_text import text
from pydantic import ValidationError

from evals.errors import UserError
from evals.tasks.babilong import scores
from evals.tasks.babilong.prompts import template
from evals.tasks.babilong.rows import fitting
from evals.tasks.babilong.settings import BabilongSettings
from evals.tasks.babilong.stories import KINDS, OPPOSITE
from evals.tasks.babilong.task import Babilong
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.settings.controls import controlled
from sharedllm.validation import validate

MOVED = re.compile(r"(\w+) (?:went|moved|walked) to the (\w+)\.")
TOOK = re.compile(r"(\w+) (?:took|picked up|grabbed) the (\w+) there\.")
DROPPED = re.compile(r"(\w+) (?:dropped|put down|left) the (\w+) there\.")
GAVE = re.compile(r"(\w+) (?:gave|handed|passed) the (\w+) to (\w+)\.")
LIES = re.compile(r"The (\w+) is (\w+) of the (\w+)\.")
FACT = re.compile("|".join(form.pattern for form in (MOVED, TOOK, DROPPED, GAVE, LIES)))


def told(tokenizer, instance: Instance) -> list[str]:
    """The facts of a context, in order."""
    return [found.group() for found in FACT.finditer(tokenizer.decode(instance.prompt.context))]


def replayed(facts: list[str]) -> tuple[dict[str, str], dict[str, list[str]], list[tuple[str, str, str]]]:
    """Where persons are, the places of items, and who gave what to whom, from the sentences alone."""
    at: dict[str, str] = {}
    holds: dict[str, str] = {}
    path: dict[str, list[str]] = {}
    gifts = []
    for fact in facts:
        if found := MOVED.fullmatch(fact):
            at[found[1]] = found[2]
        elif found := TOOK.fullmatch(fact):
            holds[found[2]] = found[1]
        elif found := DROPPED.fullmatch(fact):
            assert holds.pop(found[2]) == found[1]
        elif found := GAVE.fullmatch(fact):
            assert holds[found[2]] == found[1]
            holds[found[2]] = found[3]
            gifts.append((found[1], found[2], found[3]))
        for item, who in holds.items():
            if who in at and path.setdefault(item, [at[who]])[-1] != at[who]:
                path[item].append(at[who])
    return at, path, gifts


def solved(task: str, facts: list[str], question: str) -> str:
    """The answer, from facts and question alone."""
    at, path, gifts = replayed(facts)
    if task == "qa1":
        return at[re.fullmatch(r"Where is (\w+)\?", question)[1]]
    if task == "qa2":
        return path[re.fullmatch(r"Where is the (\w+)\?", question)[1]][-1]
    if task == "qa3":
        item, place = re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question).groups()
        assert path[item].count(place) == 1
        return path[item][path[item].index(place) - 1]
    if task == "qa4":
        lies = {(way, there): here for here, way, there in (LIES.fullmatch(fact).groups() for fact in facts)}
        lies |= {(OPPOSITE[way], here): there for (way, there), here in lies.items()}
        if found := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
            return lies[found[1], found[2]]
        place, way = re.fullmatch(r"What is the (\w+) (\w+) of\?", question).groups()
        return lies[OPPOSITE[way], place]
    who, item, to = gifts[-1]
    if question.startswith("What"):
        return item
    return to if question.startswith(("Who did", "Who received")) else who


@pytest.mark.parametrize("task", KINDS)
def test_the_answer_follows_from_the_facts_in_the_prompt(tokenizer, plain_texts: DataSource, task: str) -> None:
    made = Babilong(task, BabilongSettings(), plain_texts)
    for instance in not_empty(made.instances(tokenizer, 4096, 40, 0)):
        facts = told(tokenizer, instance)
        assert len(facts) == instance.meta["facts"]
        assert KINDS[task].facts[0] <= len(facts) <= KINDS[task].facts[1]
        question = instance.meta["question"]
        assert solved(task, facts, question) == instance.reference
        assert text(tokenizer, instance).endswith(f"\n</context>\n\nQuestion: {question}")
        assert len(instance.prompt) + instance.max_new_tokens == 4096
        assert instance.prompt.audit.template_sha256 is not None
        assert made.evaluate(instance, Output(text=f"It is {instance.reference}."))["score"] == 1
        assert instance.meta["source"] == "generated"


def test_instances_depend_on_the_arguments_alone(tokenizer, plain_texts: DataSource) -> None:
    def made(limit: int, seed: int) -> list[Instance]:
        return list(Babilong("qa2", BabilongSettings(), plain_texts).instances(tokenizer, 2048, limit, seed))

    assert made(2, 0) == made(5, 0)[:2]
    assert len({text(tokenizer, instance) for instance in made(5, 0)}) == 5
    assert made(1, 1)[0].prompt != made(1, 0)[0].prompt


def test_difficulty_is_set_by_the_number_of_facts_and_where_they_begin(tokenizer, plain_texts: DataSource) -> None:
    for task, facts in (("qa1", 1), ("qa1", 40), ("qa2", 2), ("qa3", 3), ("qa5", 2)):
        made = Babilong(task, BabilongSettings(facts=facts, start=90), plain_texts)
        for instance in not_empty(made.instances(tokenizer, 8192, 3, 0)):
            assert instance.meta["facts"] == facts
            assert solved(task, told(tokenizer, instance), instance.meta["question"]) == instance.reference
            context = tokenizer.decode(instance.prompt.context)
            share = FACT.search(context).start() / (len(context) - len("".join(told(tokenizer, instance))))
            assert 0.89 < share <= 1


def test_a_bare_prompt_has_no_instruction_and_the_answer_may_be_begun(tokenizer, plain_texts: DataSource) -> None:
    bare = Babilong("qa1", BabilongSettings(prompt="bare", begin=True), plain_texts)
    instance = next(bare.instances(tokenizer, 2048, 1, 0))
    assert text(tokenizer, instance).startswith("<context>\n")
    assert text(tokenizer, instance).endswith(f"Question: {instance.meta['question']}\nAnswer:")


def test_a_cloze_begins_with_the_fact_and_leaves_its_end_to_the_model(tokenizer, plain_texts: DataSource) -> None:
    task = Babilong("qa1", BabilongSettings(cloze=True, facts=6), plain_texts)
    for instance in not_empty(task.instances(tokenizer, 2048, 20, 0)):
        begun = text(tokenizer, instance).rpartition("\nAnswer: ")[2]
        last = [fact for fact in told(tokenizer, instance) if fact.split()[0] == begun.split()[0]][-1]
        assert last == f"{begun} {instance.reference}."
        assert task.evaluate(instance, Output(text=f" {instance.reference}."))["score"] == 1


def test_a_cloze_is_for_generated_qa1(plain_texts: DataSource) -> None:
    with pytest.raises(UserError, match="cloze is for babilong:qa1"):
        Babilong("qa2", BabilongSettings(cloze=True), plain_texts).check()
    for wrong in ({"begin": True}, {"chat": True}, {"source": "official"}):
        with pytest.raises(ValidationError, match="cloze"):
            BabilongSettings(cloze=True, **wrong)


def test_a_length_without_room_is_one_sentence(tokenizer, plain_texts: DataSource) -> None:
    with pytest.raises(UserError, match="cannot hold BABILong qa1: choose a larger --length"):
        list(Babilong("qa1", BabilongSettings(), plain_texts).instances(tokenizer, 500, 1, 0))


def test_controls_have_contexts_of_the_same_length(tokenizer, plain_texts: DataSource) -> None:
    task = Babilong("qa1", BabilongSettings(context=("own", "other", "none")), plain_texts)
    found = controlled(task, list(task.instances(tokenizer, 2048, 2, 0)))
    assert [instance.control for instance in found] == ["own", "other", "none"] * 2
    assert len(found[0].prompt) == len(found[1].prompt)
    assert found[1].prompt.context == found[3].prompt.context[-len(found[0].prompt.context) :]


# Right or wrong by compare_answers of babilong/metrics.py, github.com/booydar/babilong at 7a6efee.
JUDGED = [
    ("qa1", "The most recent location of Mary is kitchen.", "kitchen", "Where is Mary? ", 1),
    ("qa1", "KITCHEN", "kitchen", "Where is Mary?", 1),
    ("qa1", "Kitchen. Then the garden.", "kitchen", "Where is Mary?", 1),
    ("qa1", "the garden, then the kitchen.", "kitchen", "Where is Mary?", 0),
    ("qa1", "Not said. She is in the kitchen.", "kitchen", "Where is Mary?", 0),
    ("qa1", "kitchenette", "kitchen", "Where is Mary?", 1),
    ("qa1", "kitchen<example> garden", "kitchen", "Where is Mary?", 1),
    ("qa1", "kitchen<CONTEXT> garden", "kitchen", "Where is Mary?", 1),
    ("qa1", "kitchen Question: Where is the garden", "kitchen", "Where is Mary?", 0),
    ("qa1", "kitchen\nQuestion: Where is John", "kitchen", "Where is Mary?", 1),
    ("qa1", "", "kitchen", "Where is Mary?", 0),
    ("qa1", "I do not know", "kitchen", "Where is Mary?", 0),
    ("qa3", "Before the kitchen the apple was in the garden.", "garden", "Where was the apple before the kitchen?", 1),
    ("qa3", "Before the office the apple was in the garden.", "garden", "Where was the apple before the kitchen?", 0),
    ("qa3", "kitchen", "garden", "Where was the apple before the kitchen?", 0),
    ("qa4", "the bedroom is north of the office", "bedroom", "What is north of the office?", 1),
    ("qa5", "Fred gave the apple to Bill", "Fred", "Who gave the apple to Bill?", 1),
    ("qa5", "fred", "Fred", "Who gave the apple to Bill?", 1),
    ("qa5", "Fred and Jeff", "Fred", "Who gave the apple to Bill?", 0),
    ("qa5", "Fred, the milk", "Fred", "Who gave the apple to Bill?", 0),
    ("qa5", "apple", "apple", "What did Fred give to Bill?", 1),
    ("qa5", "Pineapple", "apple", "What did Fred give to Bill?", 1),
    ("qa5", "Bill", "Bill", "Who did Bill give the milk to?", 0),
]


@pytest.mark.parametrize(("task", "prediction", "target", "question", "right"), JUDGED)
def test_answers_are_scored_as_published(task: str, prediction: str, target: str, question: str, right: int) -> None:
    assert scores.score(prediction, target, question, scores.LABELS[task]) == right


@pytest.mark.parametrize(
    ("task", "target", "question", "chance"),
    [
        ("qa1", "office", "Where is Mary?", 1 / 6),
        ("qa3", "office", "Where was the apple before the kitchen?", 1 / 5),
        ("qa5", "Fred", "Who gave the apple to Bill?", 1 / 3),
        ("qa5", "milk", "What did Fred give to Bill?", 1 / 3),
    ],
)
def test_chance_is_that_of_a_label_of_the_right_kind(task: str, target: str, question: str, chance: float) -> None:
    assert scores.chance(target, question, scores.LABELS[task]) == pytest.approx(chance)


def test_the_prompts_are_the_official_ones() -> None:
    for task in KINDS:  # `template` compares hashes
        assert template(task).endswith("\n\n<context>\n{context}\n</context>\n\nQuestion: {question}")


ROW = {"input": "It rained. Mary went to the office. It was late.", "question": "Where is Mary? ", "target": "office"}


def official(folder: Path, rows: object, name: str = "1k", **settings) -> Babilong:
    path = folder / "data" / "qa1" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return Babilong("qa1", BabilongSettings(source="official", **settings), DataSource(folder, offline=True))


def test_official_rows_are_asked_whole_in_file_order(tokenizer, tmp_path: Path) -> None:
    long = {**ROW, "input": "It rained. " * 100}
    made = official(tmp_path, [ROW, long, {**ROW, "target": "garden"}])
    assert made.files() == [tmp_path / "data/qa1/1k.json"]
    first, refused, last = made.instances(tokenizer, 1300, None, 0)
    assert text(tokenizer, first) == template("qa1").format(context=ROW["input"], question="Where is Mary?")
    assert tokenizer.decode(first.prompt.context) == ROW["input"]
    assert first.meta["source"] == "official"
    assert first.meta["set"] == "1k"
    assert made.evaluate(first, Output(text="office"))["score"] == 1
    assert re.fullmatch(r"Prompt and answer take \d+ tokens, more than the length 1300\.", refused.refused)
    assert (last.id, last.reference) == ("0003", "garden")


@pytest.mark.parametrize(("length", "name"), [(512, "0k"), (1300, "1k"), (4096, "4k"), (5120, "4k"), (131072, "128k")])
def test_the_longest_set_that_fits_is_taken(length: int, name: str) -> None:
    assert fitting(length) == name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "1k.json does not hold a list"),
        ([], "1k.json has no rows"),
        ([ROW, {**ROW, "target": "cellar"}], "1k.json, row 2: target is none of bathroom"),
        ([{**ROW, "input": " "}], "1k.json, row 1: input"),
    ],
)
def test_wrong_rows_are_one_sentence(tokenizer, rows: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(official(tmp_path, rows, set="1k").instances(tokenizer, 4096, None, 0))


def test_missing_rows_are_reported_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"put data/qa1/8k\.json of https"):
        official(tmp_path, [ROW], set="8k").check_length(4096)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "official", "facts": 3}, "facts, start and cloze are settings of source=generated"),
        ({"set": "4k"}, "add source=official"),
        ({"source": "official", "set": "5k"}, "set is one of 0k"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(BabilongSettings, settings, "babilong")
