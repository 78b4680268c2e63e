"""What the model returns: from a call, and before the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from sharedllm.context import CompressedContext


@dataclass
class SharedLLMOutput(CausalLMOutputWithPast):
    """Logits, loss and cache as in transformers, and the compressed context to hand to the next call."""

    context: CompressedContext | None = None


class Decoded(NamedTuple):
    """Final hidden states (B, S, H), the cache of the running text, and the compressed context for the next call."""

    hidden: torch.Tensor
    cache: Cache | None
    context: CompressedContext | None
