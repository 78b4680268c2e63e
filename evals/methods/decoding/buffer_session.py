"""A session whose state is a `BufferCache`: keys and values of every running token, in every layer."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from evals.methods.decoding.cuda_graph import LONGEST, StaticStep
from evals.methods.decoding.kv_cache import ROOM, BufferCache
from evals.methods.decoding.prefill import read
from evals.methods.decoding.session import GraphSession, M
from evals.methods.decoding.static_decoder import CacheStep, supports_static_decoding
from sharedllm.nn.base_config import text_config
from sharedllm.nn.layers import decoder_of, output_head


class BufferSession(GraphSession[M]):
    """Appends to the cache, and cuts it back to the first `kept` tokens, those of the context.

    config: of the decoder, where it is not the model's. room: free tokens after the context before buffers grow.
    Subclasses read the context, and override `_forward` and `_graph_step` where layers do more than attend to it.
    """

    def __init__(self, model: M, kept: int, config: PreTrainedConfig | None = None, room: int = ROOM) -> None:
        super().__init__(model)
        self._kept = kept
        self._config = config or text_config(model.config)
        self._room = room
        self._static = supports_static_decoding(model, config)
        self._cache = self._new_cache()

    @property
    def state_bytes(self) -> int:
        return self._cache.nbytes

    @property
    def tokens(self) -> int:
        """Tokens of the context in the cache."""
        return self._kept

    def _new_cache(self) -> BufferCache:
        return BufferCache(self._config.num_hidden_layers, capacity=self._kept + self._room)

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        return read(self._model, ids, self._cache.get_seq_length(), self._cache)

    def _rewind(self) -> None:
        self._cache.truncate(self._kept)

    def _graph_room(self) -> int:
        return LONGEST if self._static else 0

    def _graph_step(self, tokens: int) -> StaticStep:
        return CacheStep(decoder_of(self._model), output_head(self._model), self._config, self._cache, tokens)
