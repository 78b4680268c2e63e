"""Sliding window with re-computation: for every query the base reads the last `window` tokens anew.

The strong but slow rival in the StreamingLLM paper (Xiao et al., ICLR 2024, figure 1): nothing of what left the
window is in the keys and values, since they are computed again from the tokens that remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel

from evals.methods.base import Cost, LongContextModel, Runtime
from evals.methods.decoding.session import CachedSession
from evals.methods.presets import Preset
from evals.methods.weights import load_base
from evals.settings import validate


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(2048, ge=1)


class WindowSession(CachedSession):
    """Holds tokens, not keys: `_forward` runs the base over each new token's own window."""

    def __init__(self, model: PreTrainedModel, window: int, ids: Sequence[int]) -> None:
        self.device = model.device
        self._model = model
        self._window = window
        self._context = torch.tensor(ids[-window:], dtype=torch.long, device=model.device)
        self._tokens = self._context
        if len(ids):
            self.context_hidden = self._last_hidden(self._context)

    def _last_hidden(self, ids: torch.Tensor) -> torch.Tensor:
        return self._model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1:]

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = []
        for token in ids[0]:
            self._tokens = torch.cat([self._tokens, token[None]])[-self._window :]
            hidden.append(self._last_hidden(self._tokens))
        return torch.cat(hidden)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._model.lm_head(hidden)

    def _rewind(self) -> None:
        self._tokens = self._context

    @property
    def state_bytes(self) -> int:
        return self._context.nbytes


@dataclass(kw_only=True)
class RecomputeWindow(LongContextModel):
    """Any causal base of transformers."""

    settings_model: ClassVar[type[BaseModel]] = Settings

    model: PreTrainedModel
    window: int

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> RecomputeWindow:
        settings = validate(Settings, preset.settings, preset.name)
        model, tokenizer = load_base(preset.weights, runtime, preset.shape)
        return cls(
            name=preset.name,
            tokenizer=tokenizer,
            device=model.device,
            dtype=model.dtype,
            max_context=preset.max_context,
            fairness={"window": settings.window, "kernel": runtime.attn, "dtype": runtime.dtype, "trained": False},
            model=model,
            window=settings.window,
        )

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> WindowSession:
        return WindowSession(self.model, self.window, [*prefix_ids, *context_ids])

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Every token after the context costs one read of its window. Attention itself is left out here."""
        weights = sum(p.nbytes for p in self.model.parameters())
        parameters = sum(p.numel() for p in self.model.parameters())
        window = 2 * parameters * min(context_tokens + query_tokens, self.window)
        return Cost(
            prefill_flops=float(window * (1 + query_tokens)),
            decode_flops=float(window),
            weight_bytes=weights,
            state_bytes=8 * min(context_tokens, self.window),
            decode_bytes=weights,
        )
