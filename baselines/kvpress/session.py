"""Decoding and scoring on top of a compressed context."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from baselines.kvpress.bases import is_mixed
from baselines.kvpress.reading import Reading
from baselines.kvpress.step import PressedStep
from evals.methods.decoding.cuda_graph import LONGEST
from evals.methods.decoding.kv_cache import ROOM, BufferCache
from evals.methods.decoding.prefill import read
from evals.methods.decoding.session import GraphSession
from sharedllm.nn.attention import attend_last, attend_near
from sharedllm.nn.base_config import windows


class PressedSession(GraphSession[PreTrainedModel]):
    """What a press left of a context; a query is appended, and cut off again. Nothing is compressed any more.

    context: tokens that were read. A context of none may follow a prefix of none, and then there is no reading.
    """

    def __init__(self, model: PreTrainedModel, reading: Reading | None) -> None:
        super().__init__(model)
        layers = reading.layers if reading else []
        self._lengths = [keys.shape[2] for keys, _ in layers] or [0] * model.config.num_hidden_layers
        self._cache = BufferCache(len(self._lengths), capacity=max(self._lengths) + ROOM)
        for layer in self._cache.layers:
            if layers:
                layer.update(*layers.pop(0))  # frees each as soon as it is copied
        self._position = reading.position if reading else 0
        self._kept = reading.kept if reading else [None] * len(self._lengths)
        self._windows = windows(model.config)
        self._masked = [kept is not None and not kept.all() for kept in self._kept]
        self._plain = not any(self._masked) and not is_mixed(model.config)
        self.context_hidden = reading.hidden if reading else None

    @property
    def state_bytes(self) -> int:
        return self._cache.nbytes + sum(kept.nbytes for kept in self._kept if kept is not None)

    @property
    def kept_tokens(self) -> list[float]:
        """For each layer, how many tokens a head can see; of a press that masks, heads differ and this is the mean. A
        sliding window, which moves along, is not counted."""
        pairs = zip(self._lengths, self._kept, strict=True)
        return [length if kept is None else round(kept.sum().item() / len(kept), 2) for length, kept in pairs]

    def trace(self) -> dict[str, object]:
        return {"kept_tokens": self.kept_tokens, "held_tokens": self._lengths}

    @property
    def _appended(self) -> int:
        """Tokens after the context."""
        return self._cache.layers[0].get_seq_length() - self._lengths[0]

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        attend = None if self._plain else self._attend
        return read(self._model, ids, self._position + self._appended, self._cache, attend=attend)

    def _attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """`attend_last`, of a layer with a sliding window in that window, without the entries that the press has
        masked, which each key/value head has of its own."""
        window, held = self._windows[layer], self._kept[layer]
        if window is not None:
            return attend_near(query, keys, values, window, scale)
        if held is None or not self._masked[layer]:
            return attend_last(query, keys, values, scale)
        new = torch.arange(held.shape[1], keys.shape[2], device=keys.device)
        out = []
        for head, queries in enumerate(query.chunk(len(held), dim=1)):
            seen = torch.cat([held[head].nonzero()[:, 0], new])
            key, value = (x[:, head : head + 1].index_select(2, seen) for x in (keys, values))
            out.append(attend_last(queries, key, value, scale))
        return torch.cat(out, dim=1)

    def _rewind(self) -> None:
        for layer, length in zip(self._cache.layers, self._lengths, strict=True):
            layer.truncate(length)

    def _graph_room(self) -> int:
        return LONGEST

    def _graph_step(self, tokens: int) -> PressedStep:
        position = self._position + self._appended
        return PressedStep(self._model, self._cache, position, self._kept, self._windows, tokens)
