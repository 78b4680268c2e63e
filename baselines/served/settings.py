"""Settings of a served model: where it is, how it is asked, and where its key comes from."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from evals.errors import UserError
from evals.methods.base import MethodSettings


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write it as http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query or parts.fragment:  # settings are recorded
        raise ValueError("it holds more than host, port and path: a key belongs in an environment variable")
    return url


class ServedSettings(MethodSettings):
    """url: of the API, up to /v1. model: its name on the server; None where the server has one only. key_variable:
    the environment variable with the API key; None sends none. timeout: seconds without a word from the server.
    retries: further attempts, each after a longer wait. extra: fields added to each request, for what one server
    offers beyond the others.

    Only `extra` is part of a cell's id: the others say how the model is reached, and the server says which it is.
    """

    url: Annotated[str, AfterValidator(_plain_url)] = Field("http://127.0.0.1:8000/v1", exclude=True)
    model: str | None = Field(None, min_length=1, exclude=True)
    key_variable: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", exclude=True)
    timeout: float = Field(600, gt=0, exclude=True)
    retries: int = Field(5, ge=0, le=20, exclude=True)
    extra: dict[str, object] = Field(default_factory=dict)

    def key(self) -> str | None:
        """The API key. Raises UserError where its variable is not set."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable)
        if not key:
            raise UserError("The environment variable that key_variable names is not set: export it with the API key.")
        return key
