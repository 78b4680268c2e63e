"""What one call of SharedLLM reads, as one object: running text, its context, the questions in it and the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.cache_utils import Cache

from sharedllm.context import CompressedContext
from sharedllm.whole_tree import WholeTrees


@dataclass(kw_only=True)
class ContextInputs:
    """Inputs of `SharedLLMForCausalLM.decode`. B rows, S tokens of running text, K questions per row.

    input_ids: (B, S) running text, or inputs_embeds: (B, S, H).
    context_ids: (B, chunks, chunk_size) raw context, or context: what `compress` or an earlier call made of it.
    trees: what `read_trees` made of context_ids, which a question then only searches.
    query_start, query_length: the question is input_ids[:, query_start : query_start + query_length], all that the
        search may see; one span for all rows, (B,), or (B, K), of one token at least. No query_length (None) means
        language modelling, which never searches.
    query_limit: at least the largest query_length, where lengths are on a device that must not be waited for.
    chunk_question: (B, chunks) which of the K questions each chunk is searched with; the first by default.
    num_chunks: (B,) where rows have fewer chunks than context_ids.
    chunk_index: (B, chunks) increasing positions of the chunks, where they are not 0, 1, 2, ...
    attention_mask, position_ids, past_key_values, use_cache: of the running text, as in transformers.
    """

    input_ids: torch.Tensor | None = None
    context_ids: torch.Tensor | None = None
    query_length: int | torch.Tensor | None = None
    query_start: int | torch.Tensor = 0
    query_limit: int | None = None
    chunk_question: torch.Tensor | None = None
    num_chunks: torch.Tensor | None = None
    chunk_index: torch.Tensor | None = None
    context: CompressedContext | None = None
    trees: WholeTrees | None = None
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    past_key_values: Cache | None = None
    inputs_embeds: torch.Tensor | None = None
    use_cache: bool | None = None

    @property
    def has_chunks(self) -> bool:
        """Whether there is raw context to compress."""
        return self.context_ids is not None and self.context_ids.shape[1] > 0


RAW = ("context_ids", "query_length", "query_start", "chunk_question", "num_chunks", "chunk_index", "trees")
"""Inputs that a compressed context replaces."""


def ids_tensor(ids: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Token ids as a batch of one text, (1, n). `torch.tensor` takes several times as long over a list: as long as a
    GPU takes to read thousands of tokens (results/measured/h200-7b)."""
    return torch.from_numpy(np.array(ids, dtype=np.int64)[None]).to(device)
