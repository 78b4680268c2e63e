"""An OpenAI-compatible server as seen from here: what it serves, completions as a stream, and replies in a chat.

The API key is in the requests and nowhere else: what the server says is shown without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from baselines.served.settings import ServedSettings
from evals.errors import UserError
from sharedllm.errors import reason

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

CONNECT_SECONDS = 10
TELLING = ("owned_by", "root")
"""Fields of a model's entry that say what it is; the others are times, permissions and limits."""
TELLING_META = ("n_params", "n_vocab", "size")
"""The same of llama.cpp's `meta`."""
RESUME = "start it again, and the same command goes on after what was measured"


class _BrokenError(Exception):
    """A stream ended before its answer did."""


@dataclass(frozen=True)
class Entry:
    """A model as its server describes it. window: tokens that it takes, where the server says."""

    name: str
    about: dict[str, object] = field(default_factory=dict)
    window: int | None = None


@dataclass(frozen=True)
class Reply:
    """A completion. prompt_tokens: what the server says that it read; None where `enough` ended it before that."""

    text: str
    prompt_tokens: int | None


class Client:
    """Requests to one server; may be used by several threads. Everything that goes wrong is a UserError."""

    def __init__(self, settings: ServedSettings, key_setting: str = "key_variable") -> None:
        """key_setting: what the user calls the setting that names the variable of the key."""
        try:
            import openai
        except ModuleNotFoundError as error:
            raise UserError("Served models need the package openai: pip install 'sharedllm[served]'.") from error
        self._openai = openai
        self._settings = settings
        self._key, self._key_setting = settings.key(), key_setting
        self._lost = False
        self._api: OpenAI = openai.OpenAI(
            base_url=settings.url,
            api_key=self._key or "none",
            timeout=openai.Timeout(settings.timeout, connect=min(settings.timeout, CONNECT_SECONDS)),
            max_retries=settings.retries,
        )

    def entry(self) -> Entry:
        """The model that the settings name, with what the server says of it, else the only one of the server."""
        name, listed = self._settings.model, self._listed()
        if name is None:
            names = sorted(str(entry.get("id")) for entry in listed)
            if len(names) != 1:
                known = f"{len(names)} models ({', '.join(names[:5])})" if names else "no model"
                raise UserError(f"The server at {self._settings.url} lists {known}: name one with --set model=NAME.")
            name = names[0]
        return next((_entry(name, found) for found in listed if found.get("id") == name), Entry(name))

    def _listed(self) -> list[dict[str, object]]:
        """The server's models. Empty where it has no such list, or fails to make it, as some do."""
        try:
            return [entry.to_dict() for entry in self._api.with_options(max_retries=0).models.list().data]
        except self._openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise self._failure(error) from error
            return []
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._failure(error) from error

    def complete(
        self,
        model: str,
        prompt: str | Sequence[int],
        max_tokens: int,
        enough: Callable[[str], bool] = lambda text: False,
        *,
        once: bool = False,
    ) -> Reply:
        """The greedy continuation of a prompt. enough: called with the text so far at each piece; True ends it there.

        Requests are repeated after connections that fail, 408, 409, 429 and 5xx, and after streams that break. once:
        never, because the time is taken. After a server was lost, the next request is the test whether it is back.
        """
        retries = 0 if once or self._lost else self._settings.retries
        broken: Exception | None = None
        for _ in range(retries + 1):
            try:
                reply = self._stream(retries, model, prompt, max_tokens, enough)
            except _BrokenError as error:
                broken = error
                continue
            except UserError:
                raise
            except (self._openai.OpenAIError, ValueError) as error:
                self._lost = not once
                raise self._failure(error) from error
            self._lost = False
            return reply
        assert broken is not None
        self._lost = not once
        raise self._failure(broken) from broken

    def chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> str:
        """The reply to a conversation, greedy unless the settings' `extra` says otherwise; a field of it that is null
        is not sent. Repeated as `complete` is.
        """
        fields = {"temperature": 0, **self._settings.extra}
        turns = cast("list[ChatCompletionMessageParam]", [dict(message) for message in messages])
        retries = 0 if self._lost else self._settings.retries
        try:
            reply = self._api.with_options(max_retries=retries).chat.completions.create(
                model=model, messages=turns, extra_body={k: v for k, v in fields.items() if v is not None}
            )
        except (self._openai.OpenAIError, ValueError) as error:
            self._lost = True
            raise self._failure(error) from error
        try:
            text: object = reply.choices[0].message.content or ""
        except (LookupError, TypeError, AttributeError):  # openai takes whatever JSON there is, and text for a string
            text = None
        if not isinstance(text, str):
            self._lost = True
            raise UserError(
                f"The server at {self._settings.url} answers with something else than a chat completion: check the "
                "address, which ends with /v1 for most servers."
            )
        self._lost = False
        return self._without_key(text)

    def _stream(
        self, retries: int, model: str, prompt: str | Sequence[int], max_tokens: int, enough: Callable[[str], bool]
    ) -> Reply:
        stream = self._api.with_options(max_retries=retries).completions.create(
            model=model,
            prompt=prompt if isinstance(prompt, str) else list(prompt),
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=self._settings.extra or None,
        )
        text, prompt_tokens, finished, stopped = "", None, False, False
        with stream:
            try:
                for chunk in stream:
                    if chunk.usage is not None:
                        prompt_tokens = chunk.usage.prompt_tokens
                    for choice in chunk.choices:
                        text += choice.text or ""
                        finished |= choice.finish_reason is not None
                        stopped |= bool(choice.text) and enough(text)
                    if stopped:
                        break
            except (self._openai.OpenAIError, ValueError) as error:
                raise _BrokenError(f"its stream broke: {error}") from error
        if not finished and not stopped:
            raise _BrokenError("its stream ended before the answer did")
        if prompt_tokens is None and not stopped:
            raise UserError(
                f"The server at {self._settings.url} does not count the tokens of prompts (usage.prompt_tokens), so "
                "nobody can tell whether it reads them whole: use one that does."
            )
        return Reply(self._without_key(text), prompt_tokens)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _failure(self, error: Exception) -> UserError:
        """The sentence for a failed request, without the key."""
        why, url = str(error) or type(error).__name__, self._settings.url
        why = reason(Exception(self._without_key(why)))
        status = error.status_code if isinstance(error, self._openai.APIStatusError) else None
        if status in (401, 403):
            return UserError(
                f"The server at {url} wants another API key ({why}): export it, and name its variable with "
                f"--set {self._key_setting}=NAME."
            )
        if status is not None and status < 500 and status != 429:
            return UserError(f"The server at {url} refuses the request ({why}): change the model or the request.")
        return UserError(f"The server at {url} does not answer ({why}): {RESUME}.")


def _entry(name: str, listed: dict[str, object]) -> Entry:
    meta = listed.get("meta")
    about = {key: listed[key] for key in TELLING if listed.get(key) is not None}
    if isinstance(meta, dict):
        about |= {key: meta[key] for key in TELLING_META if key in meta}
    window = listed.get("max_model_len")
    return Entry(name, about, window if isinstance(window, int) else None)
