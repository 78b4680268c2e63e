"""Answers that a model has to judge: which model, what it is asked, and what its replies mean.

A judge is asked after a cell is answered (`evals.run.judging`), from the records alone. So it may be added to a run
later, on another machine, and an answer that it did not judge waits for the next time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import Field, model_validator

from evals.records.models import SampleRecord
from evals.settings import PlainUrl, RequestFields, VariableName
from evals.tasks.base import Task
from evals.tasks.settings.official import OfficialSettings

Messages = Sequence[Mapping[str, str]]
"""A conversation: `role` and `content` of each message."""


class Judge(Protocol):
    """Replies to requests, several at a time. name: of its model."""

    name: str

    def __call__(self, messages: Messages) -> str:
        """The reply to a conversation. Raises UserError where there is none."""

    def check(self) -> None:
        """Raises UserError where another model would reply in this one's name."""


class JudgeSettings(OfficialSettings):
    """The model that judges. None of this is part of a cell's id, since answers do not depend on it: the scores carry
    the judge's name.
    """

    judge: PlainUrl | None = Field(
        None,
        exclude=True,
        description="address of an OpenAI-compatible API (http://HOST:PORT/v1) whose model judges the answers",
    )
    judge_model: str | None = Field(None, min_length=1, exclude=True, description="name of that model there")
    judge_key_variable: VariableName | None = Field(
        None, exclude=True, description="the environment variable with the API key"
    )
    judge_request: RequestFields = Field(
        default_factory=dict,
        exclude=True,
        description="fields added to every request, as '{max_tokens: 512}'; null takes one out",
    )
    judge_timeout: float = Field(
        120, gt=0, exclude=True, description="seconds without a word from the server, until an attempt counts as failed"
    )

    @model_validator(mode="after")
    def _named(self) -> JudgeSettings:
        if (self.judge is None) != (self.judge_model is None):
            raise ValueError("judge (an address) and judge_model (a name) go together: give both")
        return self


class JudgedTask(Task):
    """A task whose answers a model may judge."""

    settings: JudgeSettings

    @abstractmethod
    def judge_requests(self, sample: SampleRecord) -> Sequence[Messages]:
        """What the judge is asked about an answer; none where this answer is not for a judge."""

    @abstractmethod
    def judged(self, replies: Sequence[str]) -> float | None:
        """The score, 0..1, that the replies to `judge_requests` give; None where they hold no verdict."""


def judge_metric(judge: str) -> str:
    """Name of the scores that a judge gives."""
    return f"judge_{judge}"


def unjudged_metric(judge: str) -> str:
    """Name of the share of answers that a judge was asked about without a verdict."""
    return f"unjudged_{judge}"
