"""Sliding window with re-computation (Xiao et al., ICLR 2024, figure 1): each token reads its last `window` anew."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from transformers import PreTrainedModel

import evals


class Settings(evals.MethodSettings):
    window: int = Field(2048, ge=1)


class WindowSession(evals.CachedSession[PreTrainedModel]):
    def __init__(self, model: PreTrainedModel, window: int, ids: list[int]) -> None:
        super().__init__(model)
        self._window, self._tokens = window, self._tensor(ids[:-1])
        self.context_hidden = self._forward(self._tensor(ids[-1:])) if ids else None
        self._context = self._tokens

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:  # token ids (1, q) -> hidden states (q, hidden)
        hidden = []
        for token in ids.split(1, dim=1):
            self._tokens = torch.cat([self._tokens, token], dim=1)[:, -self._window :]
            hidden.append(self._model.base_model(input_ids=self._tokens, use_cache=False).last_hidden_state[0, -1:])
        return torch.cat(hidden)

    def _rewind(self) -> None:  # back to the end of the context
        self._tokens = self._context

    @property
    def state_bytes(self) -> int:
        return self._context.nbytes


@dataclass(kw_only=True)
class RecomputeWindow(evals.LongContextModel):
    settings_model = Settings
    model: PreTrainedModel
    window: int

    @classmethod
    def load(cls, preset: evals.Preset, runtime: evals.Runtime) -> "RecomputeWindow":
        window = Settings.of(preset).window
        model, tokenizer = evals.load_base(preset.weights, runtime, preset.shape)
        fields = evals.common_fields(preset, runtime, model, tokenizer, fairness={"window": window}, trained=False)
        return cls(**fields, model=model, window=window)

    @torch.inference_mode()
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> WindowSession:
        return WindowSession(self.model, self.window, [*prefix_ids, *context_ids])

    def cost(self, context_tokens: int, query_tokens: int) -> evals.Cost:
        read, kept = (min(n, self.window) for n in (context_tokens + query_tokens, context_tokens))
        return evals.parameter_cost(self.model, read * (1 + query_tokens), read, state_bytes=8 * kept)
