"""Dense attention within the base's window: the context is cut until prompt and answer fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field
from transformers import PreTrainedModel

from baselines.dense import DenseSession, DenseSettings, FullAttention, dense_cost
from evals.errors import UnfitError, UserError
from evals.methods.base import MOST, Cost, Query, Runtime, Session
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.presets import Preset
from evals.methods.truncation import Side, kept_ends


class TruncatedSettings(DenseSettings):
    """What is cut, and to how much (`kept_ends`)."""

    side: Side = Field("middle", description="which part of the context is cut: left, middle or right")
    window: int | None = Field(
        None,
        ge=2,
        le=MOST,
        description="tokens that context, query and answer share; null: what the base was trained for",
    )


class TruncatedSession(DeferredSession[int]):
    """A context of which as much is read as a query and its answer leave room for: `plan` is the number of tokens.
    It depends on their lengths alone, in coarse steps, so that similar queries share one read."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefix: Sequence[int],
        context: Sequence[int],
        window: int,
        settings: TruncatedSettings,
    ) -> None:
        self._model = model
        self._prefix, self._context = list(prefix), list(context)
        self._window = window
        self._settings = settings
        self._kept = len(self._context)

    def trace(self) -> dict[str, int]:
        return {"kept_tokens": self._kept, "cut_tokens": len(self._context) - self._kept}

    def _plan(self, query: Query, generated: int, scored: int) -> int:
        return context_room(self._window, len(self._prefix), len(query.ids) + generated + scored)

    def _read(self, plan: int) -> Session:
        head, end = kept_ends(len(self._context), plan, self._settings.side)
        self._kept = head + end
        kept = self._context[:head] + self._context[len(self._context) - end :]
        return DenseSession(self._model, [*self._prefix, *kept], self._settings.block)


@dataclass(kw_only=True)
class Truncated(FullAttention):
    """Dense attention within the base's window: the context is cut to fit. Any length is accepted."""

    settings_model: ClassVar[type[DenseSettings]] = TruncatedSettings

    settings: TruncatedSettings

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        method = super().load(preset, runtime)
        if method.fairness["window"] is None:
            raise UnfitError(f"The base of {preset.name} does not say what length it was made for: set window.")
        return method

    @staticmethod
    def longest(window: int | None) -> int | None:
        return None

    @property
    def window(self) -> int:
        """Tokens that context, query and answer share."""
        return int(self.fairness["window"])

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        return TruncatedSession(self.model, prefix_ids, context_ids, self.window, self.settings)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Of dense attention over what stays; the answer is left out of the account, since it is short."""
        room = context_room(self.window, 0, query_tokens)
        return dense_cost(self.model, min(context_tokens, room), query_tokens)


def context_room(window: int, prefix: int, tail: int) -> int:
    """Context tokens that a window holds beside a prefix and a `tail` (query and answer), which is rounded up to
    steps of 256 tokens (a sixteenth of a small window). Raises UserError where no token fits."""
    step = max(1, min(256, window // 16))
    room = window - prefix - tail
    if room < 1:
        raise UserError(
            f"Prefix, query and answer take {prefix + tail} of the {window} tokens of the window: "
            "nothing of the context fits; use a shorter query or a longer window."
        )
    return max(room - -tail % step, 1)
