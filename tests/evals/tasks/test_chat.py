"""Chat templates: what they do with a message is found by rendering, within limits, and said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.common import rendering
from evals.tasks.common.chat import Turn, end_of_turn, turn
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.stopping import stop_ids
from evals.tasks.settings.chat import ChatSettings
from sharedllm.validation import validate

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n%s{% endif %}"
)
CHAT = TURNS.replace("%s", "")
THINK = TURNS.replace("%s", "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}")
ALWAYS = TURNS.replace("%s", "<think>\n")
PARTS = CHAT.replace("{{ m['content'] }}", "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}")
OPENING = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def tokenizer() -> Iterator[PreTrainedTokenizerBase]:
    made = byte_tokenizer(300)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<end_of_turn>"]})
    yield made
    PromptBuilder._of.cache_clear()


def of(tokenizer: PreTrainedTokenizerBase, template: str, **options) -> Turn:
    tokenizer.chat_template = template
    return turn(tokenizer, **options)


@pytest.mark.parametrize("template", [CHAT, PARTS])
def test_a_turn_is_what_stands_around_a_message(tokenizer, template) -> None:
    assert of(tokenizer, template) == Turn("<|im_start|>user\n", OPENING, strips=False)
    assert of(tokenizer, template).wrap(" a", "b ") == ("<|im_start|>user\n a", f"b {OPENING}")


def test_a_template_that_strips_messages_strips_ours(tokenizer) -> None:
    found = of(tokenizer, "[{{ messages[0]['content'] | trim }}]")
    assert found == Turn("[", "]", strips=True)
    assert found.wrap("\n a ", " b\n") == ("[a ", " b]")


def test_variables_reach_the_template(tokenizer) -> None:
    template = "{{ effort | default('high') }}:{{ messages[0]['content'] }}"
    assert of(tokenizer, template).before == "high:"
    assert of(tokenizer, template, variables={"effort": "low"}).before == "low:"
    with pytest.raises(UserError, match="knows no variable `efort`"):
        of(tokenizer, template, variables={"efort": "low"})


def test_a_template_that_prints_today_s_date_prints_the_same_every_day(tokenizer) -> None:
    template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"
    assert of(tokenizer, template).before == "26 Jul 2024: "


def test_thinking_is_switched_where_the_template_knows_it(tokenizer) -> None:
    assert of(tokenizer, THINK).after == OPENING
    assert of(tokenizer, THINK, thinking=True).after == OPENING
    assert of(tokenizer, THINK, thinking=False).after == f"{OPENING}<think>\n\n</think>"
    assert of(tokenizer, CHAT, thinking=False).after == OPENING  # nothing to switch off
    with pytest.raises(UserError, match="no switch for thinking: leave out thinking=on"):
        of(tokenizer, CHAT, thinking=True)
    assert of(tokenizer, ALWAYS, thinking=True).opens_thinking
    with pytest.raises(UserError, match="always thinks: use thinking=strip"):
        of(tokenizer, ALWAYS, thinking=False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "drops the user's message"),
        ("{{ messages[0]['content'] | upper }}", "alters the user's message"),
        ("{{ messages[0]['content'][4:] }}", "alters the user's message"),
        ("{{ messages[0]['content'] | replace('\n', ' ') }}", "alters the user's message"),
        ("{{ messages[0]['content'] * 2 }}", "repeats the user's message"),
        ("{{ raise_exception('only tools') }}", r"refuses a user message \(only tools\)"),
        ("{% for %}", "refuses a user message"),
        ("{{ messages[7]['content'] }}", "refuses a user message"),
        ("{{ ''.__class__.__mro__ }}{{ messages[0]['content'] }}", "refuses a user message"),
        ("{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}", "refuses a user message"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "refuses a user message"),
        ("{% for i in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "characters around one message"),
        ("{{ 'a' * 10 ** 10 }}", "takes more than 1024 MiB"),
        (
            "{% set n = namespace(x='a' * 99) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "takes more than 1024 MiB",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_one_sentence(tokenizer, template, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        of(tokenizer, template)
    assert str(error.value).count(". ") == 0
    assert len(str(error.value)) < 400


def test_a_template_without_end_is_stopped(tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.3)
    loops = "".join("{% for a in range(99999) %}" for _ in range(4)) + "{% endfor %}" * 4
    with pytest.raises(UserError, match=r"runs for more than 0\.3 seconds"):
        of(tokenizer, loops)
    assert end_of_turn(tokenizer) is None  # a run without chat needs no template


def test_without_a_child_a_thread_renders_within_the_time(tokenizer, monkeypatch) -> None:
    monkeypatch.delattr("os.fork")
    assert of(tokenizer, CHAT + "{# thread #}") == Turn("<|im_start|>user\n", OPENING, strips=False)
    date = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}{# thread #}"
    assert of(tokenizer, date).before == "26 Jul 2024: "
    monkeypatch.setattr(rendering, "SECONDS", 0.05)
    slow = "{% for a in range(3000) %}{% for b in range(300) %}{% endfor %}{% endfor %}{{ messages[0]['content'] }}"
    with pytest.raises(UserError, match="runs for more than"):
        of(tokenizer, slow)


def test_no_template_is_one_sentence(tokenizer) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template: leave chat off"):
        turn(tokenizer)
    assert end_of_turn(tokenizer) is None


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHAT, "<|im_end|>"),
        (PARTS, "<|im_end|>"),
        ("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <end_of_turn>{% endfor %}", "<end_of_turn>"),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", None),
        # the next turn's opening is not the end of this one
        ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}", None),
    ],
)
def test_the_end_of_a_turn_is_found_in_the_template(tokenizer, template, end) -> None:
    tokenizer.chat_template = template
    assert end_of_turn(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


def test_stop_ids_come_from_tokenizer_checkpoint_and_template(tokenizer) -> None:
    tokenizer.chat_template = None
    assert stop_ids(tokenizer) == {tokenizer.eos_token_id}
    tokenizer.generation_stop_ids = frozenset([11, 12])
    assert stop_ids(tokenizer) == {tokenizer.eos_token_id, 11, 12}
    tokenizer.chat_template = CHAT
    assert stop_ids(tokenizer) == {tokenizer.eos_token_id, 11, 12, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    tokenizer.eos_token = None
    tokenizer.chat_template = None
    tokenizer.generation_stop_ids = ()
    assert stop_ids(tokenizer) == frozenset()


def test_settings_reach_the_prompt(tokenizer) -> None:
    tokenizer.chat_template = THINK
    prompt = ChatSettings(thinking="off").builder(tokenizer).build("", "context", " question", chat=True)
    assert tokenizer.decode(prompt.query).endswith("</think>")
    given = ChatSettings(chat_template_kwargs={"enable_thinking": False})
    assert given.builder(tokenizer).build("", "context", " question", chat=True).query == prompt.query
    tokenizer.chat_template = ALWAYS
    builder = ChatSettings().builder(tokenizer)
    assert ChatSettings().reading(builder, chat=True).opened
    assert not ChatSettings().reading(builder, chat=False).opened


def test_settings_that_are_not_given_leave_the_identity_of_old_cells_alone() -> None:
    assert ChatSettings().model_dump(mode="json") == {}
    assert ChatSettings(thinking="off").model_dump(mode="json") == {"thinking": "off"}


@pytest.mark.parametrize(("written", "meant"), [("off", "off"), (False, "off"), (True, "on"), ("strip", "strip")])
def test_yaml_s_words_for_true_and_false_are_settings(written, meant) -> None:
    assert ChatSettings(thinking=written).thinking == meant


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages"])
def test_names_of_the_call_are_no_variables_of_a_template(name) -> None:
    with pytest.raises(UserError, match=f"{name} is not a variable of the template"):
        validate(ChatSettings, {"chat_template_kwargs": {name: 1}}, "needle")
