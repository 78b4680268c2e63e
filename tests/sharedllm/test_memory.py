"""A long context is read block by block: nothing is held for all chunks at once but the kept keys and values."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig

from sharedllm import SharedLLMForCausalLM, modeling

COPIES = 2.3
"""The kept entries twice for a moment (blocks and their whole), and ids and positions."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage.nbytes() and storage._cdata not in self._alive:
            self._alive[storage._cdata] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, storage: int) -> None:
        self._now -= self._alive.pop(storage, 0)


@pytest.mark.parametrize("policy", ["right", "last_token", "maxsim"])
def test_memory_grows_by_the_kept_entries_alone(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling, "BLOCK_BYTES", 200_000)  # four chunks of this shape
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=56, num_hidden_layers=4, num_attention_heads=4
    )
    base = AutoModelForCausalLM.from_config(config)
    model = SharedLLMForCausalLM.from_base(base, chunk_size=64, lower_layers=3, policy=policy).eval()

    def read(chunks: int) -> tuple[int, int]:
        context, text = torch.randint(50, (1, chunks, 64)), torch.randint(50, (1, 16))
        question = None if policy == "right" else 8
        with torch.inference_mode(), LiveBytes() as live:
            out = model(text, context_ids=context, query_length=question, logits_to_keep=1)
        return live.peak, out.context.nbytes

    (less, kept), (more, twice) = read(64), read(128)
    assert twice == 2 * kept
    assert (more - less) / (twice - kept) < COPIES
