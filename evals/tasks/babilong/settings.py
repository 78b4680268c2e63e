"""Settings of BABILong."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from evals.tasks.babilong import rows
from evals.tasks.babilong.prompts import BARE, template
from evals.tasks.settings.source import SourceSettings

MOST_FACTS = 200


class BabilongSettings(SourceSettings):
    """Facts are hidden in your own text (--data-dir, else Python's own help)."""

    set: str | None = Field(None, description="which official rows, 0k to 1M; null: the longest that --length can hold")
    facts: int | None = Field(
        None, ge=1, le=MOST_FACTS, description="how many are generated (qa4 has 2); null: drawn as in the originals"
    )
    start: float = Field(
        0,
        ge=0,
        le=100,
        description="percent of the text before the first fact; the higher, the easier for methods with a window",
    )
    prompt: Literal["official", "bare"] = Field("official", description="bare: without instruction and examples")
    begin: bool = Field(False, description="begin the answer with 'Answer:' as the examples do, for base models")
    cloze: bool = Field(
        False,
        description="begin the answer with the deciding fact itself, up to the place that is asked for: a model need "
        "only find the sentence and copy its end (generated qa1)",
    )
    max_new_tokens: int = Field(20, ge=1, description="answer budget, officially 20")
    chat: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")

    added_later: ClassVar[tuple[str, ...]] = (*SourceSettings.added_later, "cloze")

    @model_validator(mode="after")
    def _consistent(self) -> BabilongSettings:
        if self.source == "official" and (self.facts is not None or self.start or self.cloze):
            raise ValueError("facts, start and cloze are settings of source=generated: the official rows have theirs")
        if self.cloze and (self.begin or self.chat):
            raise ValueError("cloze begins the answer itself, in plain text: leave out begin and chat")
        if self.set is not None and self.source != "official":
            raise ValueError("set names official rows: add source=official")
        if self.set is not None and self.set not in rows.SETS:
            raise ValueError(f"set is one of {', '.join(rows.SETS)}")
        return self

    def template(self, task: str) -> str:
        """The prompt of a task, with the slots {context} and {question}. Raises UserError as `prompts.template`."""
        return template(task) if self.prompt == "official" else BARE

    @property
    def begun(self) -> str:
        """What the answer is begun with."""
        if not self.begin:
            return ""
        return "Answer:" if self.chat else "\nAnswer:"
