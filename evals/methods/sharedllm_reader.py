"""The first read of a SharedLLM session: the context, and the running text up to the end of the first question.

Of a short context the host takes longer to launch the kernels than a GPU to run them. Reads of the same shapes launch
the same ones, so there they are replayed as CUDA graphs.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.replays import ReplayingReader, padded
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm import SharedLLMForCausalLM
from sharedllm.compressor import BLOCK_BYTES
from sharedllm.cost import arithmetic
from sharedllm.inputs import ContextInputs
from sharedllm.outputs import Decoded
from sharedllm.whole_tree import WholeTrees

MOST_FLOPS = 2e14
"""FLOPs above which a read is left to the host, those of 150K tokens at the 7B shape: there the GPU is the slower part,
and a graph holds the compressed context once more."""
NEED = 4 * BLOCK_BYTES
"""Bytes that a read takes beside the weights: those of a block of chunks, and what is kept."""


class Reader(ReplayingReader[SharedLLMForCausalLM, Decoded]):
    """graphs: whether it may replay reads, where a GPU gains from it."""

    def __init__(self, model: SharedLLMForCausalLM, graphs: bool = True) -> None:
        super().__init__(model, graphs and supports_static_decoding(model, model.config.base_config), NEED)
        self._short: dict[tuple[int, int, int], bool] = {}

    @property
    def mode(self) -> str:
        """How short contexts are read where the method searches if it can, for a fairness record."""
        alike = self._model.launches_alike(1, searches=self._model.config.policy != "right")
        return super().mode if alike else "eager"

    def __call__(
        self,
        chunks: torch.Tensor,
        text: torch.Tensor,
        question: tuple[int, int] | None,
        cache: BufferCache,
        trees: WholeTrees | None = None,
    ) -> Decoded:
        """Read chunks (1, chunks, chunk_size) and text (1, S), which fills the empty `cache`; hidden is (1, S, H).

        question: half-open span of the text that the chunks are searched with; None: no search. trees: of the chunks.
        """
        asked = question[1] - question[0] if question else 0
        shape = chunks.shape[1], padded(text.shape[1]), padded(asked)
        if self._replayed(*shape):
            span = torch.tensor([question[0] if question else 0, asked], device=text.device)
            return self._copied(shape, chunks, text, span, cache)
        self.forget()  # a long read has more use for the memory, and a short one soon takes it again
        inputs = ContextInputs(
            input_ids=text,
            context_ids=chunks,
            trees=trees,
            query_start=question[0] if question else 0,
            query_length=asked or None,
            past_key_values=cache,
            use_cache=True,
        )
        return self._model.decode(inputs)

    def _replayed(self, chunks: int, tokens: int, question: int) -> bool:
        if not self.replaying:
            return False
        shape = chunks, tokens, question
        if shape not in self._short:
            cost = arithmetic(self._model.config, *shape, self._model.dtype.itemsize)
            alike = self._model.launches_alike(chunks, searches=question > 0)
            self._short[shape] = alike and cost.prefill <= MOST_FLOPS
        return self._short[shape]

    def _copied(
        self,
        shape: tuple[int, int, int],
        chunks: torch.Tensor,
        text: torch.Tensor,
        span: torch.Tensor,
        cache: BufferCache,
    ) -> Decoded:
        """A replay, and copies of what it leaves: the next one writes to the same place."""
        tokens = text.shape[1]
        padded = F.pad(text, (0, shape[1] - tokens))
        read = self._replays(shape, partial(self._run, shape[2]), chunks, padded, span)
        assert isinstance(read.cache, BufferCache)
        assert read.context is not None
        for layer, pair in zip(cache.layers, read.cache.keys_values(), strict=True):
            layer.update(*(x[:, :, :tokens] for x in pair))
        return Decoded(read.hidden[:, :tokens].clone(), cache, read.context.clone())

    def _run(self, question: int, chunks: torch.Tensor, text: torch.Tensor, span: torch.Tensor) -> Decoded:
        """What a graph replays. Padding stands after the text, where nothing that is kept attends to it, and after the
        question, where the search masks it. question: the longest that fits; 0: no search. span: start and length."""
        inputs = ContextInputs(
            input_ids=text,
            context_ids=chunks,
            query_start=span[:1],
            query_length=span[1:] if question else None,
            query_limit=question,
            past_key_values=BufferCache(self._model.config.base_config.num_hidden_layers, text.shape[1]),
            use_cache=True,
        )
        return self._model.decode(inputs)
