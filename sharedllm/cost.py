"""FLOPs and bytes of SharedLLM by formula. A multiply-add counts as two; only matrix products count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sharedllm.configuration import SharedLLMConfig
from sharedllm.entry_budget import kept_entries, spine
from sharedllm.joint_attention import EXTRA
from sharedllm.nn.base_config import head_dim, mlp_width
from sharedllm.tree import halves, whole, widen


@dataclass(frozen=True)
class Arithmetic:
    """FLOPs of reading `chunks` of context with `running` tokens after them, and bytes of what is kept.

    lower: the lower model without search. search: what the search adds to it. upper: running text through all
    layers with cross-attention, and one row of logits. decode: one further token. state_bytes: compressed context
    and cache of the running text.
    """

    lower: float
    search: float
    upper: float
    decode: float
    state_bytes: int

    @property
    def prefill(self) -> float:
        """FLOPs until the first token."""
        return self.lower + self.search + self.upper


def arithmetic(config: SharedLLMConfig, chunks: int, running: int, question: int = 0, itemsize: int = 2) -> Arithmetic:
    """Cost of a request. question: tokens that the search looks at; 0 means no search. itemsize: bytes a number.

    With a budget of fine chunks, what is kept is counted as a search leaves it.
    """
    base = config.base_config
    q, kv = base.num_attention_heads * head_dim(base), base.num_key_value_heads * head_dim(base)
    hidden, lower = base.hidden_size, config.lower_layers
    projections = 2.0 * hidden * (q + 2 * kv)
    width = mlp_width(base)
    rest = 2.0 * (hidden * q + 3 * hidden * width)  # output projection and MLP
    layer = projections + rest
    searches = bool(question) and chunks > 0 and config.policy != "right"

    nodes = spine(config)
    tokens = sum(n.size for n in nodes)
    pairs = sum(_causal(n.size) for n in nodes)
    one_chunk = (lower - 1) * (tokens * layer + 4.0 * q * pairs) + tokens * 2.0 * hidden * 2 * kv
    search = 0.0
    if searches:
        search = chunks * _search(config, projections, rest, q, question) + question * 6.0 * hidden * width
        plain = tokens * layer + 4.0 * q * pairs if lower > 1 else tokens * 2.0 * hidden * 2 * kv
        search -= chunks * plain  # the search's first layer takes the place of the lower model's

    kept = kept_entries(config, chunks)
    injected = len(config.injection_layers)
    cross = injected * (2.0 * hidden * 2 * q + 4.0 * q * kept) if chunks and config.attention == "cross" else 0.0
    head = 2.0 * hidden * base.vocab_size
    upper = running * (base.num_hidden_layers * layer + cross)
    upper += base.num_hidden_layers * 4.0 * q * _causal(running) + head
    decode = base.num_hidden_layers * (layer + 4.0 * q * (running + 1)) + cross + head
    if chunks and config.attention == "joint":
        updates, wider = 4.0 * config.rank * (hidden + q), 4.0 * EXTRA * base.num_attention_heads
        upper += injected * (running * (updates + (4.0 * q + wider) * kept) + wider * _causal(running))
        decode += injected * (updates + (4.0 * q + wider) * kept + wider * (running + 1))
        if searches and 0 in config.injection_layers:  # the question is read before the entries that it chooses
            search += running * (projections + 2.0 * hidden * q) + 4.0 * q * _causal(running)
    state = 2 * kv * itemsize * (injected * kept + base.num_hidden_layers * running)
    return Arithmetic(chunks * one_chunk, search, upper, decode, state)


def _search(config: SharedLLMConfig, projections: float, rest: float, q: int, question: int) -> float:
    """FLOPs of a chunk's first layer with the search, in whole: projections once, states where they are needed."""
    flops = config.chunk_size * projections
    expanded, known = whole(1, config.chunk_size, torch.device("cpu")), False
    # what maxsim computes for the nodes serves the lower model, last_token's comes on top, if a second layer reads it
    nodes = 0.0 if config.lower_layers == 1 else _states([n.size for n in spine(config)], rest, q)
    for level in range(1, config.height + 1):
        if level == config.height and config.leaf_overlap is not None:
            leaf = widen(expanded, config.leaf_overlap, config.chunk_size)
            if config.policy != "maxsim":
                return flops + nodes
            return flops + _states([leaf.size], rest, q) + _match(config, question, leaf.size)
        left, right = halves(expanded, 0.0, level == config.height, config.sampling)
        if config.policy == "maxsim":
            fresh = [right.size] if known else [left.size, right.size]
            flops += _states(fresh, rest, q)
            if level < config.height:
                flops += 2.0 * question * config.base_config.hidden_size * (left.size + right.size)
            else:
                flops += _match(config, question, left.size + right.size)
        elif level < config.height:
            flops += 2 * rest + 4.0 * q * (left.size + right.size)
        expanded, known = right, True
    return flops if config.policy == "maxsim" else flops + nodes


def _match(config: SharedLLMConfig, question: int, tokens: int) -> float:
    """Comparing the question with the leaves, for which chunks stay fine."""
    return 0.0 if config.leaf_budget is None else 2.0 * question * config.base_config.hidden_size * tokens


def _states(sizes: list[int], rest: float, q: int) -> float:
    return sum(size * rest + 4.0 * q * _causal(size) for size in sizes)


def _causal(tokens: int) -> float:
    return tokens * (tokens + 1) / 2
