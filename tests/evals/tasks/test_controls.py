"""The same questions with another sample's context and with none: what changes between the three, and what must not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from not_empty import not_empty
from standins import Sum, SumSettings

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import DataSource, Instance, Task
from evals.tasks.common.prompt import Audit, Prompt
from evals.tasks.common.spread import order
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.graphwalks.task import GraphWalks
from evals.tasks.infinitebench.task import InfiniteBench, InfiniteBenchSettings
from evals.tasks.longbench.task import LongBench
from evals.tasks.needle.task import Needle, NeedleSettings
from evals.tasks.perplexity.settings import PerplexitySettings
from evals.tasks.settings.controls import ContextSettings, controlled, readings
from evals.tasks.settings.official import OfficialSettings
from sharedllm.validation import validate

ALL = ("own", "other", "none")


class AskedSettings(ContextSettings):
    """A task of another package that takes the setting."""


class Asked(Sum):
    settings_model = AskedSettings


def task_with(*controls: str) -> Task:
    return Asked(None, AskedSettings(context=controls or ALL), DataSource())


def instance(name: str, context: list[int], **fields) -> Instance:
    audit = Audit(tokens=len(context) + 2, cut_tokens=5, cut_at=1, bos=1, needle_survived=True)
    return Instance(name, Prompt([256], context, [7], (0, 1), audit), max_new_tokens=4, **fields)


def contexts(found, control: str) -> dict[str, list[int]]:
    return {i.id.removesuffix(f"-{control}"): i.prompt.context for i in found if i.control == control}


def test_own_alone_leaves_the_instances_as_they_are() -> None:
    made = [instance("a", [1, 2, 3]), instance("b", [4, 5])]
    assert controlled(task_with("own"), made) is made
    assert controlled(Sum(None, SumSettings(), DataSource()), made) is made


def test_each_question_is_asked_with_its_own_context_with_another_and_with_none() -> None:
    made = [instance("a", [1, 2, 3]), instance("b", [4, 5]), instance("c", [6, 7, 8, 9], meta={"depth": 3})]
    found = controlled(task_with(), made)
    assert [i.id for i in found] == ["a", "a-other", "a-none", "b", "b-other", "b-none", "c", "c-other", "c-none"]
    assert [i for i in found if i.control == "own"] == made
    assert contexts(found, "none") == {"a": [], "b": [], "c": []}
    # the one before, the first the one after; the last tokens, repeated where there are fewer
    assert contexts(found, "other") == {"a": [5, 4, 5], "b": [2, 3], "c": [4, 5, 4, 5]}
    for one in found:
        own = next(i for i in made if i.id == one.id.partition("-")[0])
        assert (one.prompt.prefix, one.prompt.query, one.prompt.question) == ([256], [7], (0, 1))
        assert (one.meta, one.max_new_tokens) == (own.meta, own.max_new_tokens)
        assert one.prompt.audit.tokens == (len(one.prompt) if one.control != "own" else own.prompt.audit.tokens)
        assert one.control == "own" or (one.prompt.audit.bos == 1 and one.prompt.audit.needle_survived is None)


def test_no_question_gets_a_context_that_holds_what_its_own_does() -> None:
    book, other = frozenset(["book"]), frozenset(["another book"])
    made = [
        instance("a", [1], holds=book),
        instance("b", [2], holds=book),  # the same book, cut elsewhere
        instance("c", [3], holds=other),
        instance("d", [4], holds=other | book),
    ]
    found = contexts(controlled(task_with(), made), "other")
    assert found == {"a": [3], "b": [3], "c": [2]}  # d has none: everything shares something with it
    assert set(contexts(controlled(task_with(), made), "none")) == {"a", "b", "c", "d"}


def test_an_empty_context_lends_nothing_and_is_replaced_by_none() -> None:
    made = [instance("a", [1, 1]), instance("b", []), instance("c", [2, 2])]
    found = controlled(task_with(), made)
    assert contexts(found, "other") == {"a": [2, 2], "c": [1, 1]}
    assert contexts(found, "none") == {"a": [], "b": [], "c": []}
    with pytest.raises(UserError, match="raise --limit"):
        controlled(task_with(), made[:2])


def test_questions_on_one_context_do_not_lend_it_to_each_other() -> None:
    made = [instance("a", [1, 1]), instance("b", [1, 1]), instance("c", [2, 2])]
    assert contexts(controlled(task_with(), made), "other") == {"a": [2, 2], "b": [2, 2], "c": [1, 1]}
    assert {i.group for i in controlled(task_with(), made) if i.id.startswith("a-")} == {made[0].prompt.context_key}


def test_a_larger_limit_keeps_the_controls_of_a_smaller_one() -> None:
    keys = {str(i): order(i) for i in range(9)}
    ranked = sorted(keys, key=keys.__getitem__)

    def of(limit: int) -> dict[str, list[int]]:
        taken = sorted(ranked[:limit])  # in the order of a file, as a sweep over depths takes them
        made = [instance(name, [int(name)] * 3, order=keys[name]) for name in taken]
        return contexts(controlled(task_with(), made), "other")

    found = [of(limit) for limit in range(2, 10)]
    for smaller, larger in pairwise(found):
        assert smaller
        assert smaller == {name: larger[name] for name in smaller}


def test_a_context_that_the_task_made_for_the_purpose_comes_first() -> None:
    made = [instance("a", [1, 2], other=lambda: [9, 8, 7])]
    assert contexts(controlled(task_with(), made), "other") == {"a": [8, 7]}


def test_where_there_is_no_other_context_a_sentence_says_so() -> None:
    with pytest.raises(UserError, match=r"raise --limit .*, or leave `other` out"):
        controlled(task_with(), [instance("a", [1])])
    with pytest.raises(UserError, match="raise --limit"):
        controlled(task_with(), [instance("a", [1]), instance("b", [1])])
    assert [i.id for i in controlled(task_with("own", "none"), [instance("a", [1])])] == ["a", "a-none"]


def test_refused_questions_have_no_controls_and_lend_nothing() -> None:
    made = [instance("a", [1]), Instance("b", Prompt([], [], []), refused="Too long."), instance("c", [3])]
    found = controlled(task_with(), made)
    assert [i.id for i in found] == ["a", "a-other", "a-none", "b", "c", "c-other", "c-none"]
    assert contexts(found, "other") == {"a": [3], "c": [1]}


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Needle(None, NeedleSettings(template="classic", context=ALL), DataSource()), "the same in every context"),
        (LongBench("lcc", OfficialSettings(context=ALL), DataSource()), "the context is the code to go on with"),
        (InfiniteBench("math_calc", InfiniteBenchSettings(context=ALL), DataSource()), "the question stands in"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_context_that_cannot_be_separated_is_told_in_a_sentence(task, reason) -> None:
    with pytest.raises(UserError, match=f"{reason}.*without --context"):
        controlled(task, [instance("a", [1]), instance("b", [2])])


def test_needles_and_graphs_get_contexts_of_the_same_length_without_the_answer() -> None:
    tokenizer = byte_tokenizer(300)
    for task in (
        Needle(None, NeedleSettings(depths=(0, 50), needles=2, questions=2, context=ALL), DataSource()),
        GraphWalks("parents", GraphWalksSettings(context=ALL, max_new_tokens=40), DataSource()),
    ):
        made = not_empty(task.instances(tokenizer, 2048, 4, 0))
        found = controlled(task, made)
        own, other = ({i.id.partition("-other")[0]: i for i in found if i.control == c} for c in ("own", "other"))
        assert own.keys() == other.keys() == {i.id for i in made}
        for name, one in other.items():
            answers = own[name].reference if isinstance(own[name].reference, list) else [own[name].reference]
            assert len(one.prompt) == len(own[name].prompt)
            assert not any(answer in tokenizer.decode(one.prompt.context) for answer in answers)
            assert any(answer in tokenizer.decode(own[name].prompt.context) for answer in answers)


def test_the_default_is_no_part_of_a_cells_identity_and_the_controls_are() -> None:
    assert "context" not in NeedleSettings().model_dump(mode="json")
    assert NeedleSettings(context=("none", "own")).model_dump(mode="json")["context"] == ["own", "none"]
    assert "context" in PerplexitySettings().model_dump()  # it always was


def test_settings_are_checked() -> None:
    assert validate(NeedleSettings, {"context": "none,own"}, "needle").context == ("own", "none")
    for wrong in ("other,none", "own,elsewhere"):
        with pytest.raises(UserError, match="context"):
            validate(NeedleSettings, {"context": wrong}, "needle")
    assert readings(NeedleSettings(context=ALL)) == 2
    assert readings(PerplexitySettings()) == 1  # its plan counts its own
