"""A context of SharedLLM that has been read: compressed chunks, and a cache of the running text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evals.methods.base import Query
from evals.methods.decoding.buffer_session import BufferSession
from evals.methods.sharedllm_reader import Reader
from evals.methods.sharedllm_step import SharedLLMStep
from sharedllm import CompressedContext, SharedLLMForCausalLM
from sharedllm.inputs import ContextInputs
from sharedllm.whole_tree import WholeTrees

ROOM = 256
"""Free tokens of running text after the lead: questions are short here."""


class SharedLLMSession(BufferSession[SharedLLMForCausalLM]):
    """A context whose chunks are compressed once, or for every question where the policy searches. With whole trees
    they are encoded once, and searched for every question.

    The lead (prefix and remainder) is read with the first query and kept; queries are taken back.
    """

    def __init__(self, model: SharedLLMForCausalLM, reader: Reader, chunks: torch.Tensor, lead: Sequence[int]) -> None:
        super().__init__(model, kept=len(lead), config=model.config.base_config, room=ROOM)
        self._static = self._static and not model.offload_context  # what is brought for a layer has no fixed place
        self._reader = reader
        self._chunks = chunks
        self._lead = list(lead)
        self._searches = model.config.policy != "right" and chunks.shape[1] > 0
        self._trees: WholeTrees | None = None
        self._compressed: CompressedContext | None = None
        self._span: tuple[int, int] | None = None
        self._asked: tuple[tuple[int, ...], tuple[int, int]] | None = None
        self._fresh = True
        if not self._searches:
            self._read_plain()

    @property
    def state_bytes(self) -> int:
        trees = self._trees.nbytes if self._trees else 0
        return self._cache.nbytes + trees + (self._compressed.nbytes if self._compressed else 0)

    def trace(self) -> dict[str, Any]:
        """For each chunk with whole leaves the tokens kept most finely, as the search found them."""
        path = None if self._compressed is None else self._compressed.path
        if path is None or not path.numel():
            return {}
        fine = None if self._compressed is None else self._compressed.fine
        whole = [True] * path.shape[1] if fine is None else fine[0].tolist()
        size, height = self._model.config.chunk_size, self._model.config.height
        kept = []
        for index, steps in enumerate(path[0].tolist()):
            if not whole[index]:
                continue
            start, width = 0, size
            for right in steps:
                width, start = (width - width // 2, start + width // 2) if right else (width // 2, start)
            kept.append({"chunk": index, "start": index * size + start, "end": index * size + start + width})
        return {"height": height, "kept_full": kept}

    def _read_plain(self) -> None:
        """Read without a search: what language modelling and the policy `right` need."""
        if not self._fresh and self._span is None:
            return
        self._cache, self._span, self._fresh, self._asked = self._new_cache(), None, False, None
        self._compressed = None  # frees that of an earlier question first
        if self._chunks.shape[1] and self._lead:
            read = self._reader(self._chunks, self._tensor(self._lead), None, self._cache)
            self._compressed, hidden = read.context, read.hidden[0]
        elif self._lead:
            hidden = self._decode(self._tensor(self._lead))
        else:
            return
        self.context_hidden = hidden[-1:].clone()

    def _begin(self, query: Query) -> None:
        span = query.question
        if not self._searches or span is None or span[0] == span[1]:
            self._read_plain()
            return
        asked = (tuple(query.ids[: span[1]]), span)
        if asked == self._asked:  # the same question again: its tree is still here
            return
        self._asked, self._span, self._fresh = asked, span, False
        self._cache, self._compressed = self._new_cache(), None

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        if self._span is None or self._compressed is not None:
            return self._decode(ids)
        start, end = self._span
        if self._trees is None and self._model.config.whole_trees:
            self._trees = self._model.read_trees(self._chunks)
        lead = len(self._lead)
        both = torch.cat([self._tensor(self._lead), ids], 1)
        read = self._reader(self._chunks, both, (lead + start, lead + end), self._cache, self._trees)
        self._compressed = read.context
        return read.hidden[0, lead:]

    def _decode(self, ids: torch.Tensor) -> torch.Tensor:
        inputs = ContextInputs(input_ids=ids, context=self._compressed, past_key_values=self._cache, use_cache=True)
        return self._model.decode(inputs).hidden[0]

    def _graph_step(self, tokens: int) -> SharedLLMStep:
        return SharedLLMStep(self._model, self._compressed, self._cache, tokens)
