"""FLOPs and bytes of SharedLLM by formula. A multiply-add counts as two; only matrix products count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sharedllm.configuration import SharedLLMConfig
from sharedllm.entry_budget import kept_entries, spine
from sharedllm.joint_attention import EXTRA
from sharedllm.nn.base_config import head_dim, mlp_width
from sharedllm.tree import halves, kept_count, whole, whole_levels, widen
from sharedllm.whole_tree import compares


@dataclass(frozen=True)
class Arithmetic:
    """FLOPs of reading `chunks` of context with `running` tokens after them, and bytes of what is kept.

    lower: the lower model without search. search: what the search adds to it. upper: running text through all
    layers with cross-attention, and one row of logits. decode: one further token. state_bytes: compressed context
    and cache of the running text. tree_bytes: all nodes, where they are kept for further questions, which then cost
    `search` and `upper` alone.
    """

    lower: float
    search: float
    upper: float
    decode: float
    state_bytes: int
    tree_bytes: int = 0

    @property
    def prefill(self) -> float:
        """FLOPs until the first token."""
        return self.lower + self.search + self.upper


def arithmetic(config: SharedLLMConfig, chunks: int, running: int, question: int = 0, itemsize: int = 2) -> Arithmetic:
    """Cost of a request. question: tokens that the search looks at; 0 means no search. itemsize: bytes a number.

    With a budget of fine chunks or whole trees, what is kept is counted as a search leaves it.
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
    trees = chunks * _tree_numbers(config, kv) * itemsize if config.whole_trees else 0
    if searches and config.whole_trees:
        one_chunk = _whole_tree(config, projections, rest, q, kv)
        search = chunks * _comparisons(config, question) + question * 6.0 * hidden * width
    elif searches:
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
    return Arithmetic(chunks * one_chunk, search, upper, decode, state, trees)


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


def _whole_tree(config: SharedLLMConfig, projections: float, rest: float, q: int, kv: int) -> float:
    """FLOPs of encoding all nodes of a chunk: every layer but the last one in whole, and that one too if it is the
    first and compared."""
    flops = 0.0
    for level, (starts, size) in enumerate(_levels(config), 1):
        tokens = len(starts) * size
        layer = tokens * (projections + rest) + 4.0 * q * len(starts) * _causal(size)
        entries_only = tokens * 2.0 * config.base_config.hidden_size * 2 * kv
        last = layer if config.lower_layers == 1 and compares(config, level) else entries_only
        flops += (config.lower_layers - 1) * layer + last
    return flops


def _tree_numbers(config: SharedLLMConfig, kv: int) -> int:
    """Numbers that the nodes of a chunk hold: keys and values of the entries, and the states that are compared."""
    numbers = 0
    for level, (starts, size) in enumerate(_levels(config), 1):
        kept = kept_count(size, config.ratios[level - 1], config.sampling)
        compared = (1 if config.policy == "last_token" else size) if compares(config, level) else 0
        each = 2 * kv * len(config.injection_layers) * kept + config.base_config.hidden_size * compared
        numbers += len(starts) * each
    return numbers


def _levels(config: SharedLLMConfig) -> list[tuple[list[int], int]]:
    return whole_levels(config.chunk_size, config.height, config.leaf_overlap)


def _comparisons(config: SharedLLMConfig, question: int) -> float:
    """FLOPs of comparing a question with the stored states of a chunk; those of last tokens are no matrix product."""
    if config.policy != "maxsim":
        return 0.0
    *inner, (_, leaf) = _levels(config)
    leaves = leaf if config.leaf_overlap is not None else 2 * leaf
    compared = 2.0 * question * config.base_config.hidden_size * sum(2 * size for _, size in inner)
    return float(compared) + _match(config, question, leaves)


def _match(config: SharedLLMConfig, question: int, tokens: int) -> float:
    """Comparing the question with the leaves, for which chunks stay fine."""
    return 0.0 if config.leaf_budget is None else 2.0 * question * config.base_config.hidden_size * tokens


def _states(sizes: list[int], rest: float, q: int) -> float:
    return sum(size * rest + 4.0 * q * _causal(size) for size in sizes)


def _causal(tokens: int) -> float:
    return tokens * (tokens + 1) / 2
