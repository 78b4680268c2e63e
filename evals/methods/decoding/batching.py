"""Greedy decoding of several dense requests at once.

Each request is read on its own: reading keeps a device busy by itself, and needs neither padding nor a mask. Then
keys and values are laid side by side, padded on the left, and all requests take each step together, because a step of
one request leaves most of a GPU idle. The tokens are those of decoding one request at a time: the same sums in
another order, exact in float32 up to ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, cast

import torch
from transformers import PreTrainedModel

from evals.methods.base import NotFiniteError, Query, Request, Stop
from evals.methods.decoding.kv_cache import BufferCache
from evals.methods.decoding.prefill import check_length
from evals.methods.decoding.session import NOT_FINITE
from sharedllm.nn.layers import KeysValues, output_head, stock_decoder


class Appendable(Protocol):
    """What this file needs of a dense session."""

    @property
    def tokens(self) -> int: ...

    def appended(self, query: Query) -> AbstractContextManager[tuple[torch.Tensor, list[KeysValues]]]: ...


@torch.inference_mode()
def generate_together(model: PreTrainedModel, requests: Sequence[Request]) -> list[list[int]]:
    """New ids of each request. The sessions, all dense sessions of `model`, may repeat."""
    hidden, cache, lengths = _read_all(model, requests)
    positions = torch.tensor(lengths, device=model.device)
    longest, steps = max(lengths), max(request.max_new_tokens for request in requests)
    check_length(model.config, longest + steps)
    columns = torch.arange(longest + steps, device=model.device)
    mask = (columns >= (longest - positions)[:, None]).long()
    head = output_head(model)
    new: list[list[int]] = [[] for _ in requests]
    running = [request.max_new_tokens > 0 for request in requests]
    for step in range(steps):
        logits = head(hidden).float()
        for row, request in enumerate(requests):
            stop = request.stop or Stop()
            if stop.ids and len(new[row]) < stop.min_new_tokens:
                logits[row, list(stop.ids)] = -torch.inf
        tokens = logits.argmax(dim=-1)
        finite = logits.gather(1, tokens[:, None])[:, 0].isfinite()  # the largest is NaN where any is
        for row, (token, usable) in enumerate(torch.stack([tokens, finite]).T.tolist()):
            if running[row] and not usable:
                raise NotFiniteError(NOT_FINITE)
            running[row] = running[row] and _take(new[row], token, requests[row])
        if not any(running):
            break
        output = stock_decoder(model)(
            input_ids=tokens[:, None],
            position_ids=(positions + step)[:, None],
            attention_mask=mask[:, : longest + step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        hidden = output.last_hidden_state[:, -1]
    return new


def _take(new: list[int], token: int, request: Request) -> bool:
    """Add a token to the answer of a request; whether the request continues."""
    stop = request.stop or Stop()
    if token in stop.ids:
        return False
    new.append(token)
    stopped = stop.when is not None and stop.when(new)
    return not stopped and len(new) < request.max_new_tokens


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
