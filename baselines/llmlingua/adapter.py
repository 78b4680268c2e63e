"""Prompt compression: a context that is too long is rewritten as a shorter text, which the base reads in its place.

Prefix and query stay as they are. What is compressed does not depend on the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from baselines.budget import Budgeted, BudgetSettings, text_of
from baselines.companion import companion_files
from baselines.dense import DenseSession, DenseSettings, dense_cost
from baselines.llmlingua.compressor import Compressor, load_compressor
from evals.methods.base import Cost, Query, Runtime, Session
from evals.methods.decoding.deferred import DeferredSession
from evals.methods.presets import Preset
from evals.methods.truncation import kept_ends


class LLMLinguaSettings(BudgetSettings):
    """How the context is compressed. Where more stays than there is room for, it is cut as `side` says."""

    compressor: str = Field(
        "hub:microsoft/llmlingua-2-xlm-roberta-large-meetingbank",
        description="a token classifier (LLMLingua-2) or a causal LM (LLMLingua)",
    )
    rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the context's tokens that stays; null: what the budget, or else the window, has room for",
    )
    force_tokens: list[str] | None = Field(None, description="words that LLMLingua-2 keeps in any case")
    force_reserve_digit: bool = Field(False, description="LLMLingua-2 keeps words with digits in any case")

    @property
    def forced(self) -> dict[str, object]:
        """What is kept in any case, as options of the package; none where nothing is."""
        options = {"force_tokens": self.force_tokens, "force_reserve_digit": self.force_reserve_digit}
        return {name: value for name, value in options.items() if value}


class LLMLinguaSession(DeferredSession[int]):
    """A context that is compressed at its first query: `plan` is the number of tokens that there is room for."""

    def __init__(self, method: LLMLingua, prefix: Sequence[int], context: Sequence[int]) -> None:
        self._method = method
        self._prefix, self._context = list(prefix), list(context)
        self._rate: float | None = None
        self._compressed = self._context
        self._kept = len(self._context)

    def trace(self) -> dict[str, int | float | None]:
        return {"rate": self._rate, "compressed_tokens": len(self._compressed), "kept_tokens": self._kept}

    def _plan(self, query: Query, generated: int, scored: int) -> int:
        return self._method.room(len(self._prefix), len(query.ids) + generated + scored)

    def _read(self, plan: int) -> Session:
        rate = self._method.rate(len(self._context), plan)
        if rate != self._rate:
            self._rate, self._compressed = rate, self._method.compressed(self._context, rate)
        settings, compressed = self._method.settings, self._compressed
        head, end = kept_ends(len(compressed), plan, settings.side)
        self._kept = head + end
        kept = [*compressed[:head], *compressed[len(compressed) - end :]]
        return DenseSession(self._method.model, [*self._prefix, *kept], settings.block)


@dataclass(kw_only=True)
class LLMLingua(Budgeted):
    """Dense attention over a compressed text. Any length is accepted."""

    settings_model: ClassVar[type[DenseSettings]] = LLMLinguaSettings

    settings: LLMLinguaSettings
    compressor: Compressor = field(init=False)

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Self:
        settings = LLMLinguaSettings.of(preset)
        # first, so that what is missing is said before a base is loaded
        compressor = load_compressor(settings.compressor, runtime, settings.forced)
        method = super().load(preset, runtime)
        method.compressor = compressor
        method.fairness["algorithm"] = compressor.algorithm
        return method

    @classmethod
    def files(cls, preset: Preset) -> Sequence[Path]:
        return companion_files(LLMLinguaSettings.of(preset).compressor)

    def rate(self, tokens: int, room: int) -> float | None:
        """The share of a context of `tokens` that is to stay; None where it is not compressed."""
        return self.settings.rate or (room / tokens if tokens > room else None)

    def compressed(self, context: Sequence[int], rate: float | None) -> list[int]:
        """Token ids of the base for the compressed text of a context."""
        if rate is None or not context:
            return list(context)
        text = self.compressor.compress(text_of(self.tokenizer, context), rate)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        return LLMLinguaSession(self, prefix_ids, context_ids)

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Of dense attention over what should stay, and of the compressor, as if its tokens were those of the base. How
        many tokens really stay depends on the text."""
        room = self.room(0, query_tokens)
        rate = self.rate(context_tokens, room)
        kept = min(ceil(context_tokens * rate) if rate else context_tokens, room)
        cost = dense_cost(self.model, kept, query_tokens)
        read = self.compressor.flops(context_tokens) if rate else 0
        return replace(
            cost,
            prefill_flops=cost.prefill_flops + read,
            weight_bytes=cost.weight_bytes + self.compressor.weight_bytes,
        )
