"""Long answers: they follow from the prompt, fit their budget, and are scored by the rows before the first error."""

from __future__ import annotations

import re

import pytest
from not_empty import not_empty
from prompt_text import text

from evals.errors import UserError
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.longproc.routes import TOWNS
from evals.tasks.longproc.scores import right_rows, route, states
from evals.tasks.longproc.task import LongProc, LongProcSettings, lines
from evals.tasks.settings.controls import controlled


def walked(prompt: str) -> list[str]:
    """The route, found by following connections."""
    found = {start: (way, end) for way, start, end in re.findall(r"^A (\w+) leaves (.+) for (.+)\.$", prompt, re.M)}
    here, last = re.search(r"Which route leads from (.+) to (.+)\?", prompt).groups()
    rows = []
    while here != last:
        way, end = found[here]
        rows.append(f"From {here} by {way} to {end}.")
        here = end
    return rows


def replayed(prompt: str) -> list[str]:
    """The states after each step, from the sentences of the story alone."""
    who, thing = re.search(r"Where is (\w+), where is the (\w+), and where does", prompt).groups()
    at: dict[str, str] = {}
    lies: dict[str, str] = {}
    believed, rows = "unknown", []
    for number, step in re.findall(r"Step (\d+): ([A-Z].*?\.)(?= |$)", prompt.partition("\n\nWhere is")[0]):
        for person, room in re.findall(r"(\w+) (?:is in|goes to) the (\w+)", step):
            at[person] = room
        for person in re.findall(r"(\w+) leaves the house", step):
            at[person] = "nowhere"
        for item, place in re.findall(r"the (\w+) (?:is )?on the (\w+ \w+)", step):
            lies[item] = place
        if lies[thing].split()[0] == at[who]:
            believed = lies[thing]
        rows.append(f"- Step {number}: {who} {at[who]}; {thing} {lies[thing]}; belief {believed}")
    return rows


@pytest.mark.parametrize("length", [2500, 8192])
@pytest.mark.parametrize("task", LongProc.subsets)
def test_the_answer_follows_from_the_prompt_and_fits(
    tokenizer, plain_texts: DataSource, task: str, length: int
) -> None:
    made = LongProc(task, LongProcSettings(), plain_texts)
    for instance in not_empty(made.instances(tokenizer, length, 8, 0)):
        prompt = text(tokenizer, instance)
        assert (walked if task == "path_traversal" else replayed)(prompt) == instance.reference
        answer = "\n".join(instance.reference) + "\n</Route>"
        assert 512 * 0.8 < len(answer) <= instance.max_new_tokens == 512
        used = len(instance.prompt) + instance.max_new_tokens
        assert length - 60 < used <= length
        assert instance.meta["steps"] == len(instance.reference)
        right = made.evaluate(instance, Output(text=answer))
        assert (right["score"], right["accuracy"], right["rows"]) == (1, 1, 1)
        assert 0 < right["chance"] < 0.01


def test_all_connections_leave_different_towns(tokenizer, plain_texts: DataSource) -> None:
    for instance in not_empty(
        LongProc("path_traversal", LongProcSettings(), plain_texts).instances(tokenizer, 20000, 2, 0)
    ):
        starts = re.findall(r"^A \w+ leaves (.+) for ", text(tokenizer, instance), re.M)
        assert len(starts) == len(set(starts)) > 200
    assert len(set(TOWNS)) == len(TOWNS)


@pytest.mark.parametrize("task", LongProc.subsets)
def test_steps_and_output_set_the_length_of_the_answer(tokenizer, plain_texts: DataSource, task: str) -> None:
    def rows(**settings) -> int:
        made = LongProc(task, LongProcSettings(**settings), plain_texts)
        return next(made.instances(tokenizer, 8192, 1, 0)).meta["steps"]

    assert rows(steps=3) == 3
    assert rows(steps=1) == 1
    assert 3 < rows(output=512) < rows(output=2048)


def test_more_rooms_are_told_of(tokenizer, plain_texts: DataSource) -> None:
    made = LongProc("state_tracking", LongProcSettings(rooms=8, output=4096), plain_texts)
    instance = next(made.instances(tokenizer, 16384, 1, 0))
    rooms = {word for row in instance.reference for word in re.findall(r"(?:\w+) (\w+); ", row)}
    assert len(rooms) > 5
    assert replayed(text(tokenizer, instance)) == instance.reference


@pytest.mark.parametrize("task", LongProc.subsets)
def test_instances_depend_on_the_arguments_alone(tokenizer, plain_texts: DataSource, task: str) -> None:
    def made(limit: int, seed: int) -> list[Instance]:
        return list(LongProc(task, LongProcSettings(), plain_texts).instances(tokenizer, 3000, limit, seed))

    assert made(2, 0) == made(4, 0)[:2]
    assert len({text(tokenizer, instance) for instance in made(4, 0)}) == 4
    assert made(1, 1)[0].reference != made(1, 0)[0].reference


@pytest.mark.parametrize("task", LongProc.subsets)
def test_a_length_without_room_is_one_sentence(tokenizer, plain_texts: DataSource, task: str) -> None:
    with pytest.raises(UserError, match=r"cannot hold \d+ steps .* a smaller output\."):
        list(LongProc(task, LongProcSettings(), plain_texts).instances(tokenizer, 900, 1, 0))


@pytest.mark.parametrize("task", LongProc.subsets)
def test_controls_have_contexts_of_the_same_length(tokenizer, plain_texts: DataSource, task: str) -> None:
    made = LongProc(task, LongProcSettings(context=("own", "other", "none")), plain_texts)
    found = controlled(made, list(made.instances(tokenizer, 3000, 2, 0)))
    assert [instance.control for instance in found] == ["own", "other", "none"] * 2
    assert len(found[0].prompt) == len(found[1].prompt)


def test_a_chat_model_writes_the_marks_itself(tokenizer, plain_texts: DataSource) -> None:
    tokenizer.chat_template = "{% for m in messages %}[U]{{ m['content'] }}[M]{% endfor %}"
    made = LongProc("path_traversal", LongProcSettings(chat=True), plain_texts)
    instance = next(made.instances(tokenizer, 4096, 1, 0))
    assert text(tokenizer, instance).endswith("</Route>\n[M]")
    answer = "Here it is.\n<Route>\n" + "\n".join(instance.reference) + "\n</Route>\nThat was it."
    assert made.evaluate(instance, Output(text=answer))["accuracy"] == 1


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("<Route>\na\nb\n</Route>", ["a", "b"]),
        ("first <Route> a \n b</Route> and more", ["a", "b"]),
        ("a\nb\n</Route>\nc", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("<Route>\n</Route>", []),
        ("", []),
    ],
)
def test_the_rows_of_a_route_are_those_between_the_marks(text: str, rows: list[str]) -> None:
    assert route(text) == rows


def test_the_rows_of_states_begin_with_a_hyphen_and_differ_by_words_alone() -> None:
    assert states("I track:\n- Step 1: Ann is in the attic.\n  - step 2: Ann, attic!\nDone") == [
        "step 1 ann attic",
        "step 2 ann attic",
    ]


@pytest.mark.parametrize(
    ("given", "wanted", "rows"),
    [("abc", "abc", 3), ("abx", "abc", 2), ("xbc", "abc", 0), ("ab", "abc", 2), ("", "a", 0)],
)
def test_rows_count_up_to_the_first_error(given: str, wanted: str, rows: int) -> None:
    assert right_rows(list(given), list(wanted)) == rows


def test_rows_without_end_are_no_right_answer(tokenizer, plain_texts: DataSource) -> None:
    made = LongProc("state_tracking", LongProcSettings(steps=3), plain_texts)
    instance = next(made.instances(tokenizer, 3000, 1, 0))
    scored = made.evaluate(instance, Output(text="\n".join([*instance.reference, "- Step 3: more"])))
    assert (scored["score"], scored["accuracy"], scored["rows"]) == (1, 0, pytest.approx(4 / 3))


def test_lines_are_divided_where_they_end(tokenizer) -> None:
    told = ["A bus.\n", "A ferry.\n", "A plane.\n"]
    assert [tokenizer.decode(ids) for ids in lines(PromptBuilder.of(tokenizer), told)] == told
