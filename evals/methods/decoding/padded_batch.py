"""Steps of a batch through the stock forward: for devices that replay nothing, and bases without static decoding.

Each request is read on its own: reading keeps a device busy by itself, and needs neither padding nor a mask. Then
keys and values are laid side by side, padded on the left.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast

import torch
from transformers import PreTrainedModel

from evals.methods.base import Query, Request
from evals.methods.decoding.batch_answers import HeldBack
from evals.methods.decoding.cuda_graph import likeliest
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.prefill import check_length
from sharedllm.nn.layers import KeysValues, output_head, stock_decoder


class Appendable(Protocol):
    """What this file needs of a dense session."""

    @property
    def tokens(self) -> int: ...

    def appended(self, query: Query) -> AbstractContextManager[tuple[torch.Tensor, list[KeysValues]]]: ...


def padded_choices(model: PreTrainedModel, requests: Sequence[Request]) -> Generator[list[float]]:
    """What `Answers.take` wants of each step."""
    hidden, cache, lengths = _read_all(model, requests)
    positions = torch.tensor(lengths, device=model.device)
    longest, steps = max(lengths), max(request.max_new_tokens for request in requests)
    check_length(model.config, longest + steps)
    columns = torch.arange(longest + steps, device=model.device)
    mask = (columns >= (longest - positions)[:, None]).long()
    head, held_back = output_head(model), HeldBack(requests, hidden.device)
    for step in range(steps):
        chosen = likeliest(held_back(head(hidden).float(), step))
        yield chosen.flatten().tolist()
        output = stock_decoder(model)(
            input_ids=chosen[1].long()[:, None].to(model.device),
            position_ids=(positions + step)[:, None],
            attention_mask=mask[:, : longest + step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        hidden = output.last_hidden_state[:, -1]


def _read_all(model: PreTrainedModel, requests: Sequence[Request]) -> tuple[torch.Tensor, BufferCache, list[int]]:
    """Final hidden states (batch, hidden), keys and values of all requests in one cache, and their lengths."""
    sessions = [cast(Appendable, request.session) for request in requests]
    lengths = [session.tokens + len(request.query.ids) for session, request in zip(sessions, requests, strict=True)]
    longest, steps = max(lengths), max(request.max_new_tokens for request in requests)
    hidden = []
    joint: list[KeysValues] = []
    for row, (session, length) in enumerate(zip(sessions, lengths, strict=True)):
        with session.appended(requests[row].query) as (last, layers):
            hidden.append(last.clone())
            if not joint:
                joint = [(_padded(k, len(requests), longest), _padded(v, len(requests), longest)) for k, v in layers]
            for both, own in zip(joint, layers, strict=True):
                for buffer, states in zip(both, own, strict=True):
                    buffer[row, :, longest - length :] = states[0]
    cache = BufferCache(len(joint), capacity=longest + steps)
    for index in range(len(joint)):
        cache.layers[index].update(*joint[index])
        joint[index] = (joint[index][0][:0], joint[index][1][:0])  # frees a layer as soon as it is copied
    return torch.cat(hidden), cache, lengths


def _padded(states: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Zeros for `rows` requests of `length` tokens in the form of `states` (1, kv_heads, tokens, head_dim)."""
    return states.new_zeros((rows, states.shape[1], length, states.shape[3]))
