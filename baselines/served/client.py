"""An OpenAI-compatible server as seen from here: what it serves, completions as a stream, and replies in a chat.

The API key is in the requests and nowhere else: what the server says is shown without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, cast

from baselines.served.completion import BROKEN, NEXT, StrangeError, piece
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
NEUTRAL = {"repetition_penalty": 1.0, "repeat_penalty": 1.0}
"""Fields, by their names in vLLM and in llama.cpp, that keep an answer greedy where a server would punish repetition:
vLLM and SGLang as the model's generation_config.json says, llama-cpp-python with 1.1. Some servers refuse them."""
NOBODY = "no-model-has-this-name"
LOADING = 503
SHOWN = 5
"""How many names a sentence lists."""


class _BrokenError(Exception):
    """An answer ended before its end."""


class _RefusedError(UserError):
    """The server takes no request of this form."""


@dataclass(frozen=True)
class Entry:
    """A model as its server describes it. window: tokens that it takes, where the server says."""

    name: str
    about: dict[str, object] = field(default_factory=dict)
    window: int | None = None


@dataclass(frozen=True)
class Reply:
    """A completion. prompt_tokens: what the server says that it read; None where `enough` ended it before that
    (`enough`), and in a timed stream of a server that counts in whole replies only. cut: whether `max_tokens` ended it.
    """

    text: str
    prompt_tokens: int | None
    cut: bool = False
    enough: bool = False


class Client:
    """Requests to one server; may be used by several threads. Everything that goes wrong is a UserError."""

    def __init__(self, settings: ServedSettings, prefix: str = "") -> None:
        """prefix: what the names of the settings begin with where the user sets them."""
        try:
            import openai
        except ModuleNotFoundError as error:
            raise UserError("Served models need the package openai: pip install 'sharedllm[served]'.") from error
        self._openai = openai
        library = import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
        self._transport_error: type[Exception] = library.TransportError  # openai 2 lets it out of a stream
        self._settings = settings
        self._key, self._prefix = settings.key(), prefix
        self._lost = False
        self._neutral: Mapping[str, float] = NEUTRAL
        self._counts_in_streams: bool | None = None
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
            if len(listed) != 1:
                known = f"{len(listed)} models ({_names(listed)})" if listed else "no model"
                instead = "" if listed else f", or {NEXT}"
                raise UserError(
                    f"The server at {self._settings.url} lists {known}: name one with --set model=NAME{instead}."
                )
            name = str(listed[0].get("id"))
        self._check_name(name, listed)
        return next((_entry(name, found) for found in listed if name in _known_as(found)), Entry(name))

    def check_name(self, name: str) -> bool:
        """Raises UserError where the server answers for a model of this name without having it. False where the server
        does not say what it has."""
        try:
            listed = self._listed()
        except UserError:
            return False
        self._check_name(name, listed)
        return True

    def _check_name(self, name: str, listed: Sequence[Mapping[str, object]]) -> None:
        if not listed or any(name in _known_as(entry) for entry in listed):
            return
        try:
            self.complete(NOBODY, "a", 1, once=True)
        except UserError:
            return  # it looks at names, and will say what it thinks of this one
        raise UserError(
            f"The server at {self._settings.url} has no {name}, and answers all the same, with what it has: name that "
            f"with --set {self._prefix}model=NAME ({_names(listed)})."
        )

    def _listed(self, retries: int = 0) -> list[dict[str, object]]:
        """The server's models. Empty where it has no such list, or fails to make it, as some do."""
        try:
            page = self._api.with_options(max_retries=retries).models.list()
        except self._openai.APIStatusError as error:
            if error.status_code == LOADING and retries < self._settings.retries:
                return self._listed(self._settings.retries)
            if error.status_code in (401, 403, LOADING):
                raise self._failure(error) from error
            return []
        except (self._openai.OpenAIError, ValueError) as error:
            raise self._failure(error) from error
        listed: object = getattr(page, "data", None)  # openai takes whatever JSON there is, and text for a page
        entries = listed if isinstance(listed, list) else []
        return [entry.to_dict(warnings=False) for entry in entries if hasattr(entry, "to_dict")]

    def first(self, model: str, prompt: str) -> Reply:
        """The first completion, of one token: it shows which requests the server takes, and where it counts tokens."""
        try:
            return self.complete(model, prompt, 1)
        except _RefusedError:
            self._neutral = {}
        return self.complete(model, prompt, 1)

    def complete(
        self,
        model: str,
        prompt: str | Sequence[int],
        max_tokens: int,
        enough: Callable[[str], bool] | None = None,
        *,
        once: bool = False,
    ) -> Reply:
        """The greedy continuation of a prompt. enough: called with the text so far at each piece; True ends it there.
        A server that does not count the tokens of prompts in streams (llama-cpp-python) sends its answers whole, but
        for one that is asked for once, with `enough`.

        Requests are repeated after connections that fail, 408, 409, 429 and 5xx, and after streams that break. once:
        never, because the time is taken. After a server was lost, the next request is the test whether it is back.
        """
        retries = 0 if once or self._lost else self._settings.retries
        broken: Exception | None = None
        for _ in range(retries + 1):
            try:
                reply = self._ask(retries, model, prompt, max_tokens, enough, once)
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

    def _ask(
        self,
        retries: int,
        model: str,
        prompt: str | Sequence[int],
        max_tokens: int,
        enough: Callable[[str], bool] | None,
        once: bool,
    ) -> Reply:
        """One attempt, as a stream where the server counts in streams, and where the request is timed."""
        timed, counts = once and enough is not None, self._counts_in_streams
        if counts is not False or timed:
            reply = self._read(self._events(retries, model, prompt, max_tokens, True), max_tokens, enough)
            if reply.prompt_tokens is not None or reply.enough or counts is False:
                self._counts_in_streams = counts if reply.prompt_tokens is None else True
                return reply
        if timed or counts:
            raise self._uncounted()
        reply = self._read(self._events(retries, model, prompt, max_tokens, False), max_tokens, enough)
        if reply.prompt_tokens is None:
            raise self._uncounted()
        self._counts_in_streams = False
        return reply

    def _events(
        self, retries: int, model: str, prompt: str | Sequence[int], max_tokens: int, stream: bool
    ) -> Iterator[object]:
        """What the server sends: the events of a stream, or one reply."""
        completions = self._api.with_options(max_retries=retries).completions
        asked, fields = prompt if isinstance(prompt, str) else list(prompt), {**self._neutral, **self._settings.extra}
        greedy = {"temperature": 0, "presence_penalty": 0, "frequency_penalty": 0}
        if not stream:
            yield completions.create(model=model, prompt=asked, max_tokens=max_tokens, extra_body={**greedy, **fields})
            return
        with completions.create(
            model=model,
            prompt=asked,
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={**greedy, **fields},
        ) as events:
            try:
                yield from events
            except (self._openai.OpenAIError, self._transport_error, ValueError) as error:
                raise _BrokenError(f"its stream broke: {error}") from error

    def _read(self, events: Iterator[object], max_tokens: int, enough: Callable[[str], bool] | None) -> Reply:
        text, end, prompt_tokens, new_tokens, stopped = "", None, None, None, False
        with closing(events):  # type: ignore[type-var]  # it is a generator
            for event in events:
                try:
                    part = piece(event)
                except StrangeError as error:
                    raise UserError(f"The server at {self._settings.url} {error}.") from error
                text += part.text
                end = part.end or end
                prompt_tokens = prompt_tokens if part.prompt_tokens is None else part.prompt_tokens
                new_tokens = new_tokens if part.new_tokens is None else part.new_tokens
                stopped |= bool(part.text) and enough is not None and enough(text)
                if stopped:
                    break
        if not stopped:
            self._check_end(end, new_tokens, max_tokens)
        return Reply(self._without_key(text), prompt_tokens, cut=end == "length" and not stopped, enough=stopped)

    def _check_end(self, end: str | None, new_tokens: int | None, max_tokens: int) -> None:
        if end is None:
            raise _BrokenError("its stream ended before the answer did")
        if end in BROKEN:
            raise _BrokenError(f"it gave the answer up ({end})")
        if end == "length" and new_tokens is not None and new_tokens < max_tokens:
            raise UserError(
                f"The server at {self._settings.url} ended an answer after {new_tokens} of {max_tokens} tokens: its "
                "window is full, or it has a limit of its own; raise that, or choose a shorter --length."
            )

    def _uncounted(self) -> UserError:
        return UserError(
            f"The server at {self._settings.url} does not count the tokens of prompts (usage.prompt_tokens), so nobody "
            "can tell whether it reads them whole: use one that does."
        )

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
                f"--set {self._prefix}key_variable=NAME."
            )
        if status is not None and status < 500 and status != 429:
            return _RefusedError(f"The server at {url} refuses the request ({why}): change the model or the request.")
        if status == LOADING:
            return UserError(f"The server at {url} is not ready ({why}): wait, then give the same command again.")
        if _silent(error):
            return UserError(
                f"The server at {url} said nothing for {self._settings.timeout:g} s: give it more time with "
                f"--set {self._prefix}timeout=SECONDS."
            )
        return UserError(f"The server at {url} does not answer ({why}): {RESUME}.")


def _silent(error: BaseException | None) -> bool:
    """Whether a server that was reached let the time pass (openai's error; in streams of openai 2, httpx's)."""
    names = []
    while error is not None:
        names.append(type(error).__name__)
        error = error.__cause__
    return any("Timeout" in name for name in names) and not any("ConnectTimeout" in name for name in names)


def _known_as(listed: Mapping[str, object]) -> Sequence[object]:
    """The names of a listed model; llama.cpp gives it several."""
    aliases = listed.get("aliases")
    return [listed.get("id"), *(aliases if isinstance(aliases, list) else [])]


def _names(listed: Iterable[Mapping[str, object]]) -> str:
    return ", ".join(sorted(str(entry.get("id")) for entry in listed)[:SHOWN])


def _entry(name: str, listed: Mapping[str, object]) -> Entry:
    meta = listed.get("meta")
    known = meta if isinstance(meta, Mapping) else {}
    about = {key: listed[key] for key in TELLING if listed.get(key) is not None}
    about |= {key: known[key] for key in TELLING_META if key in known}
    window = listed.get("max_model_len", known.get("n_ctx"))
    return Entry(name, about, window if isinstance(window, int) else None)
