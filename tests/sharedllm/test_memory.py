"""A long context is read block by block: nothing is held for all chunks at once but the kept keys and values."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig
from two_devices import DEVICES, Placed, spread, two_devices

from sharedllm import SharedLLMForCausalLM, reading

ONCE = 1.1
"""The kept entries, and ids and positions of the context."""
SMALL = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=56, num_hidden_layers=4, num_attention_heads=4)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, as long as they are alive. placed: those on the stand-ins
    of `two_devices` alone."""

    def __init__(self, placed: bool = False) -> None:
        super().__init__()
        self._placed = placed
        self.peak = self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Placed):
                self._note(tensor.inner.untyped_storage())
            elif isinstance(tensor, torch.Tensor) and not self._placed:
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


def growth(chunks: torch.Tensor | None = None, rows: int = 1, **method: Any) -> float:
    """Bytes that the peak of a read grows by, for each byte that the compressed context and whole trees grow by.

    chunks: share of the chunks that each row has.
    """
    usual = {"chunk_size": 64, "lower_layers": 3, "policy": "right"}
    model = SharedLLMForCausalLM.from_base(AutoModelForCausalLM.from_config(SMALL), **{**usual, **method}).eval()

    def read(most: int) -> tuple[int, int]:
        context, text = torch.randint(50, (rows, most, 64)), torch.randint(50, (rows, 16))
        counts = None if chunks is None else (chunks * most).long()
        question = None if model.config.policy == "right" else 8
        with torch.inference_mode(), LiveBytes() as live:
            trees = model.read_trees(context, counts) if model.config.whole_trees else None
            out = model(
                text, context_ids=context, query_length=question, num_chunks=counts, trees=trees, logits_to_keep=1
            )
        return live.peak, out.context.nbytes + (0 if trees is None else trees.nbytes)

    (less, kept), (more, twice) = read(128), read(256)
    assert twice == pytest.approx(2 * kept, rel=0.05)
    return (more - less) / (twice - kept)


@pytest.fixture(autouse=True)
def blocks_of_four_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 200_000)


@pytest.mark.parametrize("policy", ["right", "last_token", "maxsim"])
def test_memory_grows_by_the_kept_entries_alone(policy: str) -> None:
    assert 1 <= growth(policy=policy) < ONCE


@pytest.mark.parametrize("method", [{"policy": "maxsim", "fine_chunks": 4}, {"fine_recent": 4}])
def test_what_makes_chunks_fine_is_held_for_the_budget_alone(method: dict[str, Any]) -> None:
    """With these ratios the entries of all chunks would be twice as many."""
    assert 1 <= growth(ratios=[8, 4, 1], **method) < ONCE


@pytest.mark.parametrize("policy", ["last_token", "maxsim"])
def test_whole_trees_are_held_once(policy: str) -> None:
    assert 1 <= growth(policy=policy, nodes="all") < ONCE


@pytest.mark.parametrize("shares", [[1.0, 1.0], [1.0, 0.75]])
def test_so_it_does_for_a_batch(shares: list[float]) -> None:
    assert 1 <= growth(torch.tensor(shares), rows=2) < ONCE


@pytest.mark.parametrize(("offload", "compressing", "reading"), [(False, 1, 0), (True, 0, 1 / 8)])
def test_of_a_context_in_host_memory_a_device_holds_one_layer(
    offload: bool, compressing: float, reading: float
) -> None:
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=56, num_hidden_layers=8, num_attention_heads=4
    )
    base, peaks, kept = AutoModelForCausalLM.from_config(config), [], []
    with two_devices():
        spread(base, first=8)
        model = SharedLLMForCausalLM.from_base(base, chunk_size=64, lower_layers=8, policy="right").eval()
        model.offload_context = offload
        for chunks in (16, 48):
            ids, text = (Placed(torch.randint(50, shape), DEVICES[0]) for shape in ((1, chunks, 64), (1, 16)))
            with LiveBytes(placed=True) as first:
                context = model.compress(ids)
            with LiveBytes(placed=True) as second:
                model(text, context=context, logits_to_keep=1)
            assert isinstance(context.keys[0], Placed) != offload
            peaks.append((first.peak, second.peak))
            kept.append(context.nbytes)
    for i, wanted in enumerate((compressing, reading)):
        assert (peaks[1][i] - peaks[0][i]) / (kept[1] - kept[0]) == pytest.approx(wanted, abs=0.06)


def test_whole_trees_in_host_memory_come_to_the_device_block_by_block() -> None:
    peaks, kept = [], []
    with two_devices():
        base = AutoModelForCausalLM.from_config(SMALL)
        spread(base, first=2)
        model = SharedLLMForCausalLM.from_base(base, chunk_size=64, policy="maxsim", nodes="all").eval()
        model.offload_context = True
        for chunks in (16, 48):
            ids, text = (Placed(torch.randint(50, shape), DEVICES[0]) for shape in ((1, chunks, 64), (1, 16)))
            with LiveBytes(placed=True) as live, torch.inference_mode():
                trees = model.read_trees(ids)
                model(text, context_ids=ids, trees=trees, query_length=8, logits_to_keep=1)
            assert not any(isinstance(x, Placed) for level in trees.levels for x in level.tensors())
            peaks.append(live.peak)
            kept.append(trees.nbytes)
    assert (peaks[1] - peaks[0]) / (kept[1] - kept[0]) < 0.1


def test_a_read_at_the_7b_shape_takes_one_block_beside_weights_and_context() -> None:
    """Half a million tokens on the meta device; blocks that are joined at the end would take 4 GiB."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", 2**30)
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model = SharedLLMForCausalLM.from_base(base, chunk_size=1024, lower_layers=4, policy="right").eval()
        context, text = (torch.empty(shape, dtype=torch.long) for shape in ((1, 512, 1024), (1, 1088)))
        with torch.inference_mode(), LiveBytes() as live:
            out = model(text, context_ids=context, logits_to_keep=1)
    assert out.context.nbytes == 4 * 2**30
    assert 2**30 < live.peak - out.context.nbytes < 2.2 * 2**30
