"""The query-aware search through the context tree (paper section 3.2): which half of a node to expand.

Both policies compare states after ONE decoder layer of the lower model, every half as a sequence of its own. That
layer is computed sparingly: queries, keys and values of a token once per chunk for all levels (attention depends
on differences of positions, so a half may keep the positions it has in the chunk); a left half's states are the
beginning of its parent's; and what `maxsim` computes for the preserved nodes is the lower model's first layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F

from sharedllm.configuration import SharedLLMConfig
from sharedllm.errors import UserError
from sharedllm.nn.attention import (
    attend,
    numbered,
    project_keys,
    project_queries,
    project_values,
    rows,
    take,
)
from sharedllm.nn.branches import before_attention, feed_forward, finish_layer
from sharedllm.nn.fused import rms_norm
from sharedllm.nn.layers import DecoderLayer, Norm
from sharedllm.nn.rotation import Rotations, apply_rotation
from sharedllm.tree import Nodes, choose, halves, widen

Rope = Callable[[torch.Tensor, torch.Tensor], Rotations]
"""(x, positions) -> cos and sin for every layer, as the base's rotary embedding has them."""


@dataclass(frozen=True)
class Question:
    """States of the question's tokens after the upper model's first layer, without cross-attention.

    states: (questions, tokens, H). mask: (questions, tokens) of real tokens. row: which question a chunk is searched
    with, (B, chunks) of a batch or (chunks,) of a block.
    """

    states: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor

    def of(self, chunks: slice) -> Question:
        """The questions for some of the chunks of a block."""
        return replace(self, row=self.row[chunks])


def ask(
    layer: DecoderLayer,
    hidden: torch.Tensor,
    start: int | torch.Tensor,
    length: int | torch.Tensor,
    chunk_question: torch.Tensor | None,
    chunks: int,
    longest: int | None = None,
) -> Question:
    """The questions' states after the upper model's first layer, a by-product of its self-attention.

    layer: that layer. hidden: (B, S, H) after its self-attention, before any cross-attention. start, length: spans
    of the questions in the running text, one for all, (B,), or (B, K) for K questions a row; chunk_question:
    (B, chunks) which of them each chunk is searched with, the first by default. longest: at least the largest length,
    where no value may be waited for; without it that is asked of `length`.

    Raises UserError for an empty question and for one outside the running text, unless `longest` is given.
    """
    batch = len(hidden)

    def spans(value: int | torch.Tensor) -> torch.Tensor:
        value = torch.as_tensor(value)
        return value if value.ndim == 2 else value.expand(batch)[:, None]

    begin, count = torch.broadcast_tensors(spans(start), spans(length))  # type: ignore[no-untyped-call]  # of torch
    if longest is None:  # before they move: no device is waited for where they come from the host
        longest = _longest(begin, count, hidden.shape[1])
    begin, count = begin.to(hidden.device, non_blocking=True), count.to(hidden.device, non_blocking=True)
    per_row = begin.shape[1]
    steps = torch.arange(longest, device=hidden.device)
    at = (begin[..., None] + steps).clamp(max=hidden.shape[1] - 1).flatten(1)
    picked = take(hidden, numbered(at, hidden.shape[1]))
    states = feed_forward(layer, picked)
    if chunk_question is None:
        chunk_question = torch.zeros(batch, chunks, dtype=torch.long, device=hidden.device)
    row = torch.arange(batch, device=hidden.device)[:, None] * per_row + chunk_question
    return Question(states.view(batch * per_row, len(steps), -1), steps < count.reshape(-1, 1), row)


def _longest(begin: torch.Tensor, count: torch.Tensor, text: int) -> int:
    """The largest length of questions in a running text of `text` tokens. Raises UserError as `ask`."""
    longest, shortest, first, end = torch.stack([count.max(), count.min(), begin.min(), (begin + count).max()]).tolist()
    if shortest < 1:
        raise UserError("A question is empty: give it a query_length of 1 or more, or none at all for no search.")
    if first < 0 or end > text:
        raise UserError(
            f"The questions span tokens {first} to {end}, and the running text has {text}: change query_start or "
            "query_length."
        )
    return int(longest)


class NodeStates(Protocol):
    """States after the lower model's first layer: what a search compares with the question."""

    def states(self, nodes: Nodes) -> torch.Tensor:
        """Of all tokens of one node of every chunk, (chunks, size, H); rows past the end of a node mean nothing."""

    def last_state(self, nodes: Nodes) -> torch.Tensor:
        """Of the last token of each node, (chunks, H)."""


@dataclass(frozen=True)
class Found:
    """The tree that a search has grown.

    nodes: preserved ones, coarse to fine. path: (chunks, levels searched), True where the right half was expanded.
    states: the first layer's output for each of the nodes, where the search had to compute it. match: (chunks,) how
    well the leaves match the question, of `maxsim`.
    """

    nodes: list[Nodes]
    path: torch.Tensor
    states: list[torch.Tensor] | None
    match: torch.Tensor | None = None


class Searcher:
    """Walks down the trees of a block of chunks."""

    def __init__(
        self,
        config: SharedLLMConfig,
        layer: DecoderLayer,
        rope: Rope,
        final_norm: Norm,
    ) -> None:
        self.config, self.layer, self.rope, self.final_norm = config, layer, rope, final_norm

    def first_layer(self, hidden: torch.Tensor) -> FirstLayer:
        """The states that `walk` compares, computed as it asks for them, of embeddings (chunks, chunk_size, H)."""
        return FirstLayer(self.layer, hidden, self.rope)

    def walk(self, first: NodeStates, root: Nodes, question: Question, shifts: list[float]) -> Found:
        """Search the trees of all chunks. shifts: see `Compressor`."""
        policy = self._last_token if self.config.policy == "last_token" else self._maxsim
        return policy(first, root, question, shifts)

    def _last_token(self, first: NodeStates, root: Nodes, question: Question, shifts: list[float]) -> Found:
        """The paper's policy: cosine between the last token of a half and the last token of the question."""
        end = question.mask.shape[1] - 1 - question.mask.flip(1).int().argmax(1)
        asked = question.states[torch.arange(len(end), device=end.device), end]
        target = rms_norm(self.final_norm, asked[question.row])  # the norm may be on another device
        nodes, path, expanded = [], [], root
        for level in range(1, self.config.height + 1):
            last = level == self.config.height
            if last and self.config.leaf_overlap is not None:
                nodes.append(widen(expanded, self.config.leaf_overlap, root.size))
                break
            left, right = halves(expanded, shifts[level - 1], last, self.config.sampling)
            if last:
                nodes += [left, right]
                break
            scores = [
                F.cosine_similarity(rms_norm(self.final_norm, first.last_state(half)), target, eps=1e-6)
                for half in (left, right)
            ]
            path.append((scores[1] > scores[0]).to(root.start.device))
            expanded, preserved = choose(path[-1], left, right)
            nodes.append(preserved)
        return Found(nodes, _stack(path, root), None)

    def _maxsim(self, first: NodeStates, root: Nodes, question: Question, shifts: list[float]) -> Found:
        """Sum over question tokens of the best cosine in the half; no parameters."""
        target = F.normalize(question.states, dim=-1) * question.mask[..., None]
        target = target[question.row]
        nodes, states, path = [], [], []
        expanded, known = root, None
        leaves: list[torch.Tensor] = []
        for level in range(1, self.config.height + 1):
            last = level == self.config.height
            if last and self.config.leaf_overlap is not None:
                nodes.append(widen(expanded, self.config.leaf_overlap, root.size))
                states.append(first.states(nodes[-1]))
                leaves = [states[-1]]
                break
            left, right = halves(expanded, shifts[level - 1], last, self.config.sampling)
            left_states = first.states(left) if known is None else known[:, : left.size]
            right_states = first.states(right)
            if last:
                nodes += [left, right]
                states += [left_states, right_states]
                leaves = [left_states, right_states]
                break
            go_right = _best(target, right_states, right).sum(1) > _best(target, left_states, left).sum(1)
            expanded, preserved = choose(go_right, left, right)
            known = _pick(go_right, right_states, left_states)
            states.append(_pick(go_right, left_states, right_states))
            nodes.append(preserved)
            path.append(go_right)
        match = None
        if self.config.leaf_budget is not None:
            pairs = zip(leaves, nodes[-len(leaves) :], strict=True)
            match = torch.stack([_best(target, *pair) for pair in pairs]).amax(0).sum(1)
        return Found(nodes, _stack(path, root), states, match)


class FirstLayer:
    """The lower model's first layer over chunks: projections once, attention and MLP for the nodes asked for."""

    def __init__(self, layer: DecoderLayer, hidden: torch.Tensor, rope: Rope) -> None:
        self.layer, self.hidden = layer, hidden
        normed = before_attention(layer, hidden)
        rotation = rope(hidden, torch.arange(hidden.shape[1], device=hidden.device)[None]).of(layer.self_attn)
        self.raw_key = project_keys(layer.self_attn, normed)
        self.query = apply_rotation(project_queries(layer.self_attn, normed), rotation)
        self.key = apply_rotation(self.raw_key, rotation)
        self.value = project_values(layer.self_attn, normed)

    def states(self, nodes: Nodes) -> torch.Tensor:
        """Output (chunks, size, H) for one node of every chunk; rows past the end of a shorter node mean nothing."""
        tokens = numbered(nodes.tokens(self.hidden.shape[1]), self.hidden.shape[1])
        query, key, value = (rows(x, tokens) for x in (self.query, self.key, self.value))
        attended = attend(query, key, value, causal=True, scale=self.layer.self_attn.scaling)
        return finish_layer(self.layer, take(self.hidden, tokens), attended)

    def last_state(self, nodes: Nodes) -> torch.Tensor:
        """Output (chunks, H) for the last token of each node."""
        tokens = numbered(nodes.tokens(self.hidden.shape[1]), self.hidden.shape[1])
        end = numbered((nodes.start + nodes.length - 1)[:, None], self.hidden.shape[1])
        mask = None
        if not nodes.uniform:
            mask = (torch.arange(nodes.size, device=end.device) < nodes.length[:, None])[:, None, None, :]
        keys, values = rows(self.key, tokens), rows(self.value, tokens)
        attended = attend(rows(self.query, end), keys, values, mask=mask, scale=self.layer.self_attn.scaling)
        return finish_layer(self.layer, take(self.hidden, end), attended)[:, 0]


def _stack(path: list[torch.Tensor], root: Nodes) -> torch.Tensor:
    return torch.stack(path, 1) if path else root.start.new_zeros((len(root.start), 0), dtype=torch.bool)


def _pick(mask: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Per chunk `yes` or `no`; states of odd halves may differ by a row, which is padded after the end of the node."""
    if yes.shape != no.shape:
        size = max(yes.shape[1], no.shape[1])
        yes, no = (F.pad(s, (0, 0, 0, size - s.shape[1])) for s in (yes, no))
    return torch.where(mask[:, None, None], yes, no)


def _best(target: torch.Tensor, states: torch.Tensor, nodes: Nodes) -> torch.Tensor:
    """Best cosine of each question token in a node, (chunks, question tokens), float32 at least; `maxsim` is their sum.

    target (chunks, question tokens, H) is normalised and zero where masked. In bfloat16 a sum of ten cosines would be
    rounded to 1/16, and the chunks of a long context would tie.
    """
    precise = torch.promote_types(states.dtype, torch.float32)
    norm = states.norm(dim=-1, dtype=precise).clamp(min=1e-12)
    similarity = (target @ states.transpose(1, 2)).to(precise) / norm[:, None]
    if not nodes.uniform:
        outside = torch.arange(nodes.size, device=states.device) >= nodes.length[:, None]
        similarity = similarity.masked_fill(outside[:, None, : similarity.shape[2]], -torch.inf)
    # a masked question token has an all-zero row: its best similarity is 0 in every half
    return torch.amax(similarity, 2)
