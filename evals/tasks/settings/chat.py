"""Settings of every task that may use a chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from evals.tasks.base import TaskSettings
from evals.tasks.common.chat import SWITCHES
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.thinking import Thinking
from evals.tasks.settings.controls import ContextSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SWITCH = {"on": True, "off": False}


RESERVED = frozenset(
    [
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)
"""What the call that renders a template takes for itself."""


class ChatSettings(ContextSettings):
    """Chat templates, and samples of several seeds."""

    chat_template_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict, description="variables for the chat template, as '{reasoning_effort: low}'"
    )
    thinking: Literal["off", "on", "strip"] | None = Field(
        None,
        description="off and on tell the chat template, where one is used, whether the model shall think; strip cuts "
        "blocks of thinking out of the answers before they are scored (their tokens count); null: as the template has "
        "it",
    )
    seeds: int = Field(
        1, ge=1, le=1000, description="how many seeds the samples are drawn with, from --seed on, where they are drawn"
    )

    added_later: ClassVar[tuple[str, ...]] = ("context", "chat_template_kwargs", "thinking", "seeds")

    @field_validator("chat_template_kwargs")
    @classmethod
    def _for_the_template(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(RESERVED & set(value)):
            raise ValueError(f"{taken[0]} is not a variable of the template: leave it out")
        return value

    @field_validator("thinking", mode="before")
    @classmethod
    def _yaml(cls, value: object) -> object:
        """`--set thinking=off` arrives as false: YAML has it so."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    def builder(self, tokenizer: PreTrainedTokenizerBase) -> PromptBuilder:
        """The builder whose chat prompts follow these settings."""
        return PromptBuilder.of(tokenizer, self.chat_template_kwargs, self._thinks)

    @property
    def _thinks(self) -> bool | None:
        """What the chat template is told; None: nothing."""
        return SWITCH.get(self.thinking or "")

    @property
    def template_variables(self) -> dict[str, object]:
        """What a chat template is given for whole conversations, its switch for thinking by all its names."""
        switches = {} if self._thinks is None else dict.fromkeys(SWITCHES, self._thinks)
        return {**self.chat_template_kwargs, **switches}

    def reading(self, builder: PromptBuilder, chat: bool) -> Thinking:
        """How answers are read. chat: whether the prompt is in the chat template."""
        return Thinking(strip=self.thinking == "strip", opened=chat and builder.turn.opens_thinking)


def in_template(settings: TaskSettings) -> bool:
    """Whether every prompt is to be in the tokenizer's chat template: the setting `chat`, which each task declares."""
    return isinstance(settings, ChatSettings) and getattr(settings, "chat", False) in (True, "always")
