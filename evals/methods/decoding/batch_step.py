"""A static step of several dense requests, which a GPU replays as a CUDA graph.

Contexts stay in their sessions. All queries are read together, since reading a few tokens takes longer to launch than
to compute; then every run reads one token of each request. What is new lies apart from the contexts and is forgotten
with the step, so that the sessions are as they were.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, cast

import torch
from transformers import PreTrainedModel

from evals.methods.base import Request
from evals.methods.decoding.batch_answers import HeldBack
from evals.methods.decoding.batch_attention import BatchTail, Shared
from evals.methods.decoding.cuda_graph import Arrival, GraphRunner, StaticStep, likeliest
from evals.methods.decoding.prefill import run_layers
from evals.methods.decoding.session import NOTHING
from evals.methods.decoding.static_attention import PLACES
from sharedllm.nn.base_config import head_dim, key_value_heads
from sharedllm.nn.layers import KeysValues, decoder_of, output_head

READ = 8192
"""Tokens of queries, padding included, that are read at once: as many states as a context of that length takes."""


class Readable(Protocol):
    """What this file needs of a dense session."""

    @property
    def tokens(self) -> int: ...
    @property
    def context(self) -> list[KeysValues]: ...
    @property
    def context_hidden(self) -> torch.Tensor | None: ...


def replayed_choices(model: PreTrainedModel, requests: Sequence[Request]) -> Generator[list[float]]:
    """What `Answers.take` wants of each step. The device is one step ahead of the host."""
    order = _by_session(requests)
    back = [order.index(row) for row in range(len(order))]
    step = BatchStep(model, [requests[row] for row in order])
    runner, first = GraphRunner(step), Arrival(2 * len(order), model.device)
    first.send(step.read().flatten())
    try:
        if runner.left:
            runner.read_on()
        yield _reordered(first.values(), back)
        for _ in range(step.tokens):
            yield _reordered(runner.chosen(), back)
    finally:
        runner.wait()


def _by_session(requests: Sequence[Request]) -> list[int]:
    """Numbers of the requests, those of a session side by side."""
    firsts: dict[int, int] = {}
    return sorted(range(len(requests)), key=lambda row: firsts.setdefault(id(requests[row].session), row))


def _reordered(chosen: Sequence[float], order: Sequence[int]) -> list[float]:
    return [half[row] for half in (chosen[: len(order)], chosen[len(order) :]) for row in order]


class BatchStep(StaticStep):
    """requests: those of a session side by side."""

    def __init__(self, model: PreTrainedModel, requests: Sequence[Request]) -> None:
        tokens = max(request.max_new_tokens for request in requests) - 1  # the read gives the first one
        super().__init__(max(0, tokens), model.device, len(requests))
        self._decoder, self._head = decoder_of(model), output_head(model)
        self._held_back = HeldBack(requests, model.device)
        self._queries = [list(request.query.ids) for request in requests]
        self._sessions = [cast(Readable, request.session) for request in requests]
        self._asked = torch.tensor([len(ids) for ids in self._queries], device=model.device)
        self._position = torch.tensor([session.tokens for session in self._sessions], device=model.device)
        places = -(-(max(map(len, self._queries)) + self.tokens) // PLACES) * PLACES
        shape = len(requests), key_value_heads(model.config), max(places, PLACES), head_dim(model.config)
        self._tails = [
            BatchTail(contexts, *torch.zeros(2, *shape, dtype=model.dtype, device=model.device))
            for contexts in self._contexts()
        ]

    def _contexts(self) -> list[list[Shared]]:
        """Of every layer: rows that share a context, and its keys and values."""
        layers: list[list[Shared]] = [[] for _ in self._decoder.layers]
        start = 0
        while start < len(self._sessions):
            session = self._sessions[start]
            stop = start + sum(other is session for other in self._sessions)
            pairs = session.context if session.tokens else [None] * len(layers)
            for layer, pair in zip(layers, pairs, strict=True):
                layer.append((slice(start, stop), pair))
            start = stop
        return layers

    def read(self) -> torch.Tensor:
        """Read all queries, and set what the first run reads: the likeliest tokens after them, with their logits (2,
        B)."""
        rows = max(1, READ // max(1, *map(len, self._queries)))
        hidden = torch.cat([self._read(first, rows) for first in range(0, len(self._queries), rows)])
        chosen = likeliest(self._held_back(self._head(hidden).float(), 0))
        self.token.copy_(chosen[1].long()[:, None])
        return chosen

    def _read(self, first: int, rows: int) -> torch.Tensor:
        """Hidden states (n, hidden) after the queries of up to so many rows, padded on the right. Places of padding are
        those of the tokens to come, which overwrite it."""
        part = slice(first, first + rows)
        queries, after = self._queries[part], []
        width = max(1, *map(len, queries))
        ids = torch.tensor([query + [0] * (width - len(query)) for query in queries], device=self.token.device)
        position = self._position[part, None] + torch.arange(width, device=ids.device)
        hidden = run_layers(self._decoder, ids, position, lambda i, *qkv: self._tails[i].read(first, *qkv))
        for states, query, session in zip(hidden, queries, self._sessions[part], strict=True):
            before = session.context_hidden
            if query:
                after.append(states[len(query) - 1])
            elif before is None:
                raise ValueError(NOTHING)
            else:
                after.append(before[0])
        return torch.stack(after)

    def run(self) -> torch.Tensor:
        number = self._asked + self.number  # of the token among those of its row after the context
        place, bias = self._tails[0].place_of(number), self._tails[0].bias_of(number)
        position = (self._position + number)[:, None]
        hidden = run_layers(self._decoder, self.token, position, lambda i, *qkv: self._tails[i].step(*qkv, place, bias))
        return self._held_back(self._head(hidden[:, 0]), self.number + 1)

    def finish(self) -> None:
        """Nothing: the sessions do not keep what a batch reads."""
