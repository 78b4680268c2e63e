"""Settings of a served model: where it is, how it is asked, and where its key comes from."""

from __future__ import annotations

from pydantic import Field

from evals.methods.base import MethodSettings
from evals.settings import PlainUrl, RequestFields, VariableName, api_key


class ServedSettings(MethodSettings):
    """url: of the API, up to /v1. model: its name on the server; None where the server has one only. key_variable:
    the environment variable with the API key; None sends none. timeout: seconds without a word from the server.
    retries: further attempts, each after a longer wait. extra: fields added to each request, for what one server
    offers beyond the others.

    Only `extra` is part of a cell's id: the others say how the model is reached, and the server says which it is.
    """

    url: PlainUrl = Field("http://127.0.0.1:8000/v1", exclude=True)
    model: str | None = Field(None, min_length=1, exclude=True)
    key_variable: VariableName | None = Field(None, exclude=True)
    timeout: float = Field(600, gt=0, exclude=True)
    retries: int = Field(5, ge=0, le=20, exclude=True)
    extra: RequestFields = Field(default_factory=dict)

    def key(self) -> str | None:
        """The API key. Raises UserError where its variable is not set."""
        return api_key(self.key_variable, "key_variable")
