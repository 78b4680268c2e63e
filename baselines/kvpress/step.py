"""The static step over a compressed cache: layers of their own lengths, and heads that do not see all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.static_attention import Reach, Tail
from evals.methods.decoding.static_decoder import DecoderStep
from sharedllm.nn.layers import Decoder, KeysValues, decoder_of, output_head


class PressedStep(DecoderStep[Decoder]):
    """position: of the first new token. kept: as in `Reading`. windows: `sliding_window` of each layer."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache: BufferCache,
        position: int,
        kept: Sequence[torch.Tensor | None],
        windows: Sequence[int | None],
        tokens: int,
    ) -> None:
        held = cache.keys_values()
        sights = [(keys.shape[2], window) for (keys, _), window in zip(held, windows, strict=True)]
        shared = {sight: Reach(sight[0], tokens, sight[1], model.device) for sight in set(sights)}
        reaches = [shared[sight] for sight in sights]
        tails = [
            Tail(reach, pair) if seen is None else MaskedTail(reach, pair, seen)
            for reach, pair, seen in zip(reaches, held, kept, strict=True)
        ]
        super().__init__(decoder_of(model), output_head(model), position, reaches, tails)
        self._cache = cache

    def finish(self) -> None:
        for layer, tail in zip(self._cache.layers, self.tails, strict=True):
            layer.update(*tail.new(self.count))


class MaskedTail(Tail):
    """A tail whose core has entries that are not seen. kept: which are, (kv heads, tokens); later ones all are."""

    def __init__(self, reach: Reach, held: KeysValues, kept: torch.Tensor) -> None:
        super().__init__(reach, held)
        kept = F.pad(kept, (0, self.core[0].shape[2] - kept.shape[1]), value=True)
        least = torch.finfo(torch.float32).min  # finite, so that a head that sees nothing weighs nothing, not NaN
        self._bias = torch.zeros(kept.shape, device=kept.device).masked_fill(~kept, least)[:, None]

    def attend_core(self, query: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.core
        scores = (query @ keys.mT).float() * scale + self._bias
        return scores.softmax(-1).to(query.dtype) @ values, scores.logsumexp(-1)
