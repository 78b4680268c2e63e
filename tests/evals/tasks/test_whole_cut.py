"""Truncation of whole prompts is that of each benchmark's own script, for every budget."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.whole_cut import Rule, cut_middle


def longbench(ids: list[int], n: int) -> list[int]:
    """pred.py of LongBench: half = int(max_length / 2)."""
    half = int(n / 2)
    return ids[:half] + ids[-half:] if len(ids) > n else ids


def infinitebench(ids: list[int], n: int) -> list[int]:
    """truncate_input of InfiniteBench's eval_utils.py; query_llm of LongBench v2's pred.py."""
    return ids[0 : n // 2] + ids[-n // 2 :] if len(ids) > n else ids


def yarn_mistral(ids: list[int], n: int) -> list[int]:
    """truncate_input of InfiniteBench's eval_yarn_mistral.py."""
    split = n // 2
    return ids[0:split] + ids[-split:] if len(ids) > n else ids


OFFICIAL = {"even": [longbench, yarn_mistral], "uneven": [infinitebench]}


@given(
    prefix=st.integers(1, 30),
    context=st.integers(1, 60),
    query=st.integers(0, 60),
    budget=st.integers(3, 150),
    rule=st.sampled_from(["even", "uneven"]),
)
def test_the_ids_are_those_of_the_official_script(
    prefix: int, context: int, query: int, budget: int, rule: Rule
) -> None:
    ids = list(range(prefix + context + query))
    if len(ids) <= budget:
        return
    parts = ids[:prefix], ids[prefix : prefix + context], ids[prefix + context :]
    kept = cut_middle(*parts, budget, rule, question=(0, query) if query else None)
    for script in OFFICIAL[rule]:
        assert kept.prefix + kept.context + kept.query == script(ids, budget)
    assert kept.context
    assert kept.query == [i for i in kept.query if i >= prefix + context]
    removed = kept.cut_prefix + kept.cut_context + kept.cut_query
    assert removed == len(ids) - len(script(ids, budget))
    left = {*kept.prefix, *kept.context, *kept.query}
    assert [i for i in parts[1] if i not in left] == parts[1][kept.cut_at : kept.cut_at + kept.cut_context]
    assert kept.question == ((0, len(kept.query)) if kept.query else None)


@settings(deadline=None)  # a template is rendered in a process of its own
@given(budget=st.integers(20, 200), chat=st.booleans(), rule=st.sampled_from(["even", "uneven"]))
def test_a_chat_template_counts_and_is_not_cut(budget: int, chat: bool, rule: Rule) -> None:
    tokenizer = byte_tokenizer(258)
    tokenizer.chat_template = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}<a>"
    builder = PromptBuilder(tokenizer)
    texts = "Read this: ", "0123456789" * 20, "\nWhat is it? " + "?" * 40
    prompt = builder.build(*texts, budget=budget, rule=rule, chat=chat)
    inner = builder.encode("".join(texts))
    if chat:
        opened, closed = builder.encode("<u>"), builder.encode("</u><a>")
        room = budget - 1 - len(opened) - len(closed)
        wanted = [1, *opened, *OFFICIAL[rule][0](inner, room), *closed]
    else:
        wanted = OFFICIAL[rule][0]([1, *inner], budget)
    assert ids(prompt)[1:] == wanted[1:]
    assert len(prompt) == prompt.audit.tokens <= budget


def test_a_long_question_loses_its_beginning_and_the_audit_counts_it() -> None:
    builder = PromptBuilder(byte_tokenizer(258))
    question = "q" * 300 + "end?"
    prompt = builder.build("Read: ", "c" * 500, question, question=question, budget=200, rule="even")
    text = builder.tokenizer.decode(prompt.query)
    assert text == "q" * 96 + "end?"
    assert prompt.question == (0, 100)
    assert (prompt.audit.cut_prefix, prompt.audit.cut_query, prompt.audit.cut_tokens) == (0, 204, 407)
    assert len(prompt) == 200


def test_where_nothing_of_the_context_is_left_the_instruction_is_read_in_its_place() -> None:
    builder = PromptBuilder(byte_tokenizer(258))
    prompt = builder.build("i" * 50, "context", "q" * 50, budget=40, rule="even")
    assert builder.tokenizer.decode(prompt.context) == "i" * 19
    assert builder.tokenizer.decode(prompt.query) == "q" * 20
    assert prompt.audit.cut_tokens == 7
    assert prompt.audit.cut_prefix == 31


def test_a_budget_that_leaves_nothing_is_refused() -> None:
    builder = PromptBuilder(byte_tokenizer(258))
    for budget in (1, 2):
        with pytest.raises(UserError, match="leaves nothing of the prompt to read"):
            builder.build("i", "context", "q" * 50, budget=budget, rule="even")


def test_a_question_whose_ends_the_chat_template_strips_is_still_found() -> None:
    tokenizer = byte_tokenizer(258)
    tokenizer.chat_template = "{% for m in messages %}<u>{{ m['content'] | trim }}</u>{% endfor %}<a>"
    builder = PromptBuilder(tokenizer)
    prompt = builder.build("", "context", "\nThe value is: ", question="The value is: ", chat=True)
    begin, end = prompt.question or (0, 0)
    assert tokenizer.decode(prompt.query[begin:end]) == "The value is:"


def ids(prompt: Prompt) -> list[int]:
    return [*prompt.prefix, *prompt.context, *prompt.query]
