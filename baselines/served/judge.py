"""A served model that judges the answers of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Self

from baselines.served.client import Client
from baselines.served.settings import ServedSettings
from evals.settings import api_key

PREFIX = "judge_"
"""What the settings of a judge begin with."""


class Judge:
    """Replies to requests; may be called by several threads. name: of the model on the server."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        self._checking, self._checked = Lock(), False

    @classmethod
    def of(cls, url: str, model: str, key_variable: str | None, request: Mapping[str, object], timeout: float) -> Self:
        """request: fields added to every request. timeout: seconds without a word from the server. Raises UserError
        where the key or the package openai is missing."""
        api_key(key_variable, f"{PREFIX}key_variable")
        fields = {"url": url, "model": model, "key_variable": key_variable, "extra": dict(request), "timeout": timeout}
        return cls(Client(ServedSettings.model_validate(fields), PREFIX), model)

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The reply to a conversation. Raises UserError where the server does not answer, or has no such model."""
        self.check()
        return self._client.chat(self.name, messages)

    def check(self) -> None:
        """Raises UserError where the server replies for a model of this name without having it. Asked until the server
        says what it has."""
        with self._checking:
            self._checked = self._checked or self._client.check_name(self.name)
