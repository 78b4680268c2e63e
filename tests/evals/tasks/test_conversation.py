"""Conversations in a chat template: what it does with each message is checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.common import conversation, rendering
from evals.tasks.common.conversation import written

TURNS = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[reply]{% endif %}"
)
PARTS = TURNS.replace("{{ m['content'] }}", "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}")
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which city?"}]


@pytest.fixture
def tokenizer() -> Iterator[PreTrainedTokenizerBase]:
    conversation._KNOWN.clear()
    yield byte_tokenizer(300)
    conversation._KNOWN.clear()


@pytest.mark.parametrize("template", [TURNS, PARTS])
def test_a_conversation_is_written_as_the_template_has_it(tokenizer, template) -> None:
    tokenizer.chat_template = template
    assert written(tokenizer, CHAT) == "[system]Be brief.[user]Which city?[reply]"
    started = [*CHAT, {"role": "assistant", "content": "It is"}]
    assert written(tokenizer, started, answer_next=False).endswith("[assistant]It is")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (STRICT, r"refuses the conversation \(System role not supported; leave out the system instruction\)"),
        ("{{ messages[-1]['content'] }}", "drops or alters the message of the role system"),
        ("{{ messages[0]['content'] }}", "drops or alters the message of the role user"),
        (TURNS.replace("m['content']", "m['content'] | lower"), "drops or alters the message of the role system"),
    ],
)
def test_a_template_that_does_something_else_is_one_sentence(tokenizer, template, message) -> None:
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        written(tokenizer, CHAT)


def test_thinking_may_be_cut_out_of_earlier_replies(tokenizer) -> None:
    tokenizer.chat_template = TURNS.replace("m['content']", "m['content'].split('</think>')[-1]")
    history = [CHAT[1], {"role": "assistant", "content": "<think>hm</think>Paris"}, CHAT[1]]
    assert written(tokenizer, history) == "[user]Which city?[assistant]Paris[user]Which city?[reply]"


def test_each_shape_of_conversation_is_rendered_within_limits_once(tokenizer, monkeypatch) -> None:
    tokenizer.chat_template = TURNS
    rendered = []
    monkeypatch.setattr(conversation, "render", lambda *a: rendered.append(a) or rendering.render(*a))
    for question in ("Which city?", "Which river?"):
        assert question in written(tokenizer, [{"role": "user", "content": question}])
    assert len(rendered) == 1
    written(tokenizer, CHAT)
    assert len(rendered) == 2


def test_no_template_is_one_sentence(tokenizer) -> None:
    with pytest.raises(UserError, match="no chat template: leave out --apply_chat_template"):
        written(tokenizer, CHAT, option="--apply_chat_template")
