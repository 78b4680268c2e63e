"""Reads whose layers are replayed between their attentions: the numbers of `prefill.read`, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from not_empty import not_empty
from test_prefill import base
from test_sharedllm_reader import NoWaiting

from evals.methods.decoding import layer_reader
from evals.methods.decoding import session as decoding
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.layer_reader import Desk, LayerReader
from evals.methods.decoding.prefill import read
from evals.methods.decoding.replays import Replays

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "pad_token_id": 0},
    "smollm3": {"no_rope_layers": [1, 0, 1], "use_sliding_window": False, "pad_token_id": 0},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "olmo2": {},
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Reads take the way of a GPU, without a capture; the keys of all replays."""
    found: list[Any] = []
    call = Replays.__call__

    def watched(self: Any, key: Any, *rest: Any, **more: Any) -> Any:
        found.append(key)
        return call(self, key, *rest, **more)

    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(Replays, "__call__", watched)
    return found


@torch.inference_mode()
def compare(model: Any, reader: LayerReader, sizes: list[int]) -> None:
    ids = torch.randint(64, (1, sum(sizes)))
    plain, own, at = BufferCache(3, 4), BufferCache(3, 4), 0
    for size in sizes:
        piece = ids[:, at : at + size]
        wanted, got = read(model, piece, at, plain), reader(piece, at, own)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
        at += size
    for pair, other in not_empty(zip(own.keys_values(), plain.keys_values(), strict=True)):
        torch.testing.assert_close(pair, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_states_are_those_of_launched_layers(kind: str, keys: list[Any]) -> None:
    """Of reads of several lengths, longer and shorter in turn, on one desk."""
    model = base(kind, max_position_embeddings=512, **FAMILIES[kind])
    reader = LayerReader(model, longest=300)
    for sizes in ([9], [5, 1, 70, 2], [270, 3]):
        compare(model, reader, sizes)
    assert set(keys) == {(rows, layer) for rows in (64, 128, 512) for layer in range(4)}


def test_longer_reads_and_layers_with_windows_are_launched(keys: list[Any]) -> None:
    model = base("llama", max_position_embeddings=1024)
    compare(model, LayerReader(model, longest=64), [300])
    windowed = base("mistral", sliding_window=4)
    compare(windowed, LayerReader(windowed, longest=64), [6, 5])
    assert keys == []


def test_what_a_read_returns_stays_when_the_next_one_comes() -> None:
    model = base("llama")
    reader, ids = LayerReader(model, longest=64), torch.randint(64, (2, 1, 9))
    with torch.inference_mode():
        first = reader(ids[0], 0, BufferCache(3, 4))
        before = first.clone()
        reader(ids[1], 0, BufferCache(3, 4))
    assert torch.equal(first, before)


def test_the_desk_is_given_back() -> None:
    model = base("llama")
    reader = LayerReader(model, longest=64)
    compare(model, reader, [9])
    assert isinstance(reader._desk, Desk)
    reader.forget()
    assert reader._desk is None
    compare(model, reader, [9])


def test_no_more_shapes_than_a_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_reader, "SHAPES", 2)
    model = base("llama", max_position_embeddings=512)
    reader = LayerReader(model, longest=256)
    for size in (10, 70, 150, 200):
        compare(model, reader, [size])
    assert {rows for rows, _ in reader._replays._entries} == {192, 256}


def test_between_attentions_nothing_waits_for_a_value() -> None:
    """On tensors without values, where asking for one is an error."""
    model = base("llama").to("meta")
    model.model.rotary_emb.to("meta")
    reader = LayerReader(model, longest=64)
    with torch.inference_mode(), NoWaiting():
        desk = reader._place(64)
        reader._begin(desk)
        for index in range(3):
            reader._go_on(desk, index)
