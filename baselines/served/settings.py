"""Settings of a served model: where it is, how it is asked, and where its key comes from."""

from __future__ import annotations

from pydantic import Field

from evals.methods.base import MethodSettings
from evals.settings import PlainUrl, RequestFields, VariableName, api_key


class ServedSettings(MethodSettings):
    """How the model is reached.

    Only `extra` is part of a cell's id: the others say how the model is reached, and the server says which it is.
    """

    url: PlainUrl = Field("http://127.0.0.1:8000/v1", exclude=True, description="of the API, up to /v1")
    model: str | None = Field(
        None, min_length=1, exclude=True, description="its name on the server; null: the server has one only"
    )
    key_variable: VariableName | None = Field(
        None, exclude=True, description="the environment variable with the API key; null: none is sent"
    )
    timeout: float = Field(600, gt=0, exclude=True, description="seconds without a word from the server")
    retries: int = Field(5, ge=0, le=20, exclude=True, description="further attempts, each after a longer wait")
    extra: RequestFields = Field(
        default_factory=dict, description="fields added to each request, for what one server offers beyond the others"
    )

    def key(self) -> str | None:
        """The API key. Raises UserError where its variable is not set."""
        return api_key(self.key_variable, "key_variable")
