"""A model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp's server, `transformers serve`, ...

What is loaded here is its tokenizer. Prompts go out as token ids where the server takes them, else as text of which the
tokenizer makes the same ids; either way the server's own count must agree. Answers come back as a stream of text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self

import torch

from baselines.served.client import Client, Entry, Reply
from baselines.served.settings import ServedSettings
from evals.errors import UserError
from evals.methods.base import LongContextModel, NewIds, Query, Request, Runtime, Session, Stop
from evals.methods.presets import Preset
from evals.methods.tokenizers import load_tokenizer
from evals.methods.weights import resolve_tokenizer

PROBE = "Plain words, 3.14 and 2026; naïve Ångström, 你好!\n\n    def f(x):\n        return [x**2]  # done\n"
"""A text in which the tokens are counted on both sides."""
ROTATIONS = 64
"""How many places a context is cut at in search of one where its text gives the same ids."""
UNKNOWN = dict.fromkeys(("kernel", "decode", "dtype", "trained"), "the server's")


class ServedSession(Session):
    """A prompt that goes out with its query: nothing is read before."""

    def __init__(self, model: Served, ids: Sequence[int]) -> None:
        self._model = model
        self._ids = list(ids)

    def generate(
        self,
        query: Query,
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        return self._model.answer([*self._ids, *query.ids], max_new_tokens, stop or Stop(), on_token)

    def score(self, query: Query, target_ids: Sequence[int]) -> torch.Tensor:
        raise UserError(
            f"{self._model.name} is served, and a server gives no log-probabilities of a given text: choose a task "
            "with answers, or load the weights here with the method full."
        )

    @property
    def state_bytes(self) -> int:
        return 0


@dataclass(kw_only=True)
class Served(LongContextModel):
    """Greedy answers of a server. Times are the client's, and memory is not known."""

    settings_model: ClassVar[type[ServedSettings]] = ServedSettings
    remote: ClassVar[bool] = True

    client: Client
    served: str
    """Name of the model on the server."""
    takes_ids: bool

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        client, entry = cls._connect(preset)
        tokenizer = load_tokenizer(resolve_tokenizer(preset.weights, runtime))
        counted = client.first(entry.name, PROBE).prompt_tokens
        ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        if counted not in (len(ids), len(tokenizer(PROBE)["input_ids"])):
            raise UserError(
                f"The server counts {counted} tokens where the tokenizer of {preset.name} counts {len(ids)}: name the "
                "weights that it serves."
            )
        takes_ids = _takes_ids(client, entry.name, ids)
        said = {key: value for key, value in entry.about.items() if key == "owned_by"}
        form = "token ids" if takes_ids else "text"
        return cls(
            name=preset.name,
            tokenizer=tokenizer,
            device=torch.device("cpu"),
            dtype=torch.float32,
            max_context=preset.max_context or entry.window,
            fairness={
                "window": entry.window,
                "model": entry.name,
                **said,
                "prompts": form,
                "times": "client's",
                **UNKNOWN,
            },
            client=client,
            served=entry.name,
            takes_ids=takes_ids,
        )

    @classmethod
    def described(cls, preset: Preset) -> dict[str, Any]:
        _, entry = cls._connect(preset)
        return {"model": entry.name, **entry.about}

    @classmethod
    def _connect(cls, preset: Preset) -> tuple[Client, Entry]:
        client = Client(cls.settings_model.of(preset))
        return client, client.entry()

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        return ServedSession(self, [*prefix_ids, *context_ids])

    def unread_context(
        self, context_ids: Sequence[int], prefix_ids: Sequence[int] = (), query_ids: Sequence[int] = ()
    ) -> Sequence[int]:
        """The context cut in two at a random place, and its parts exchanged: a server keeps what it computed for the
        beginnings of prompts, even for those of an earlier run."""
        for _ in range(ROTATIONS if len(context_ids) else 0):
            at = secrets.randbelow(len(context_ids))
            rotated = [*context_ids[at:], *context_ids[:at]]
            if self.takes_ids or self._text([*prefix_ids, *rotated, *query_ids]) is not None:
                return rotated
        return context_ids

    def generate_batch(self, requests: Sequence[Request]) -> list[list[int]]:
        """All requests at once; those that are answered wait for the others."""
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(lambda r: r.session.generate(r.query, r.max_new_tokens, r.stop), requests))

    def answer(
        self, ids: Sequence[int], max_new_tokens: int, stop: Stop, on_token: Callable[[int], None] | None
    ) -> NewIds:
        """New ids after a prompt: those of the tokenizer for the text that comes back. on_token: with it, the request
        is never repeated."""
        if not ids:
            raise ValueError("The prompt is empty.")
        if not max_new_tokens:
            return NewIds(cut=True)
        told = 0

        def enough(text: str) -> bool:
            nonlocal told
            new = self._ids(text)
            if on_token is not None:
                for token in new[told:]:
                    on_token(token)
                told = max(told, len(new))
            return _end(new, stop) < len(new) or (stop.when is not None and stop.when(new))

        prompt: str | Sequence[int] | None = ids if self.takes_ids else self._text(ids)
        if prompt is None:
            raise UserError(
                f"The server of {self.name} takes prompts as text only, and the text of this one has other token ids: "
                "use a server that takes ids, such as vLLM, SGLang or llama.cpp's."
            )
        reply = self.client.complete(self.served, prompt, max_new_tokens, enough, once=on_token is not None)
        self._check_count(reply, len(ids))
        new = self._ids(reply.text)
        end = _end(new, stop)
        return NewIds(new[:end], cut=reply.cut and end == len(new))

    def _check_count(self, reply: Reply, tokens: int) -> None:
        if reply.prompt_tokens not in (None, tokens):
            raise UserError(
                f"The server of {self.name} read {reply.prompt_tokens} tokens of a prompt of {tokens}: raise the limit "
                "at which it cuts prompts, or choose a shorter --length."
            )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, ids: Sequence[int]) -> str | None:
        """The text of which the server's tokenizer makes these ids; None where there is none."""
        start = 1 if self._adds_bos and ids[0] == self.tokenizer.bos_token_id else 0
        text = str(self.tokenizer.decode(list(ids[start:]), clean_up_tokenization_spaces=False))
        return text if self.tokenizer(text)["input_ids"] == list(ids) else None

    @property
    def _adds_bos(self) -> bool:
        bos = self.tokenizer.bos_token_id
        return bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]

    def cost(self, context_tokens: int, query_tokens: int) -> NoReturn:
        raise UserError(f"{self.name} is served: its memory and arithmetic are not known here.")


def _takes_ids(client: Client, model: str, ids: Sequence[int]) -> bool:
    """Whether the server takes token ids for a prompt, and reads as many as were sent."""
    try:
        return client.complete(model, ids, 1, once=True).prompt_tokens == len(ids)
    except UserError:
        return False


def _end(new: Sequence[int], stop: Stop) -> int:
    """How many of the new ids belong to the answer."""
    return next((i for i, token in enumerate(new) if token in stop.ids and i >= stop.min_new_tokens), len(new))
