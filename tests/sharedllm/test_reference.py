"""SharedLLM against a plain, slow reference written from the paper: one row, one chunk, one node, one head at a time.

Every node and every half that the search looks at runs through the base's stock decoder layers as a sequence of its
own; every key and query is rotated once, by one position. float64, so that nothing but a mistake tells them apart.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from sharedllm import SharedLLMForCausalLM

VOCABULARY = 50


def build(seed: int, heads: int, kv_heads: int, **method: Any) -> SharedLLMForCausalLM:
    """A random model of 3 layers whose attention is peaky and whose cross-attention matters."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            initializer_range=0.3,
        )
    )
    model = SharedLLMForCausalLM.from_base(base, **method)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.double().eval()


class Reference:
    """Sections 3.1 to 3.3 of the paper for one row."""

    def __init__(self, model: SharedLLMForCausalLM) -> None:
        self.model, self.config, self.base = model, model.config, model.base
        self.cross = model.cross_attention
        self.layers = model.base.model.layers
        self.head_dim = self.layers[0].self_attn.head_dim
        self.path: list[list[bool]] = []

    def rotate(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """One vector (..., d) by one position: pairs (i, i + d/2) turn by position * theta^(-2i/d)."""
        half = self.head_dim // 2
        out = x.clone()
        for i in range(half):
            angle = position * 10000.0 ** (-2 * i / self.head_dim)
            out[..., i] = x[..., i] * math.cos(angle) - x[..., i + half] * math.sin(angle)
            out[..., i + half] = x[..., i + half] * math.cos(angle) + x[..., i] * math.sin(angle)
        return out

    def stock_layer(self, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        """A decoder layer of transformers over a sequence (S, H) of its own, positions from 0."""
        length = len(hidden)
        mask = torch.full((length, length), -torch.inf, dtype=hidden.dtype).triu(1)[None, None]
        rotation = self.base.model.rotary_emb(hidden[None], torch.arange(length)[None])
        return layer(hidden[None], attention_mask=mask, position_embeddings=rotation)[0]

    def logits(
        self, running: torch.Tensor, chunks: list[torch.Tensor], questions: list[tuple[int, int]], asked: list[int]
    ) -> torch.Tensor:
        """running (S,), chunks of (chunk_size,); questions are spans of running, asked[i] is the one of chunk i."""
        hidden, context = self.base.model.embed_tokens(running), self.entries(running, chunks, questions, asked)
        for i, layer in enumerate(self.layers):
            hidden = self.upper_layer(i, layer, hidden, context, len(chunks))
        return self.base.lm_head(self.base.model.norm(hidden))

    def entries(
        self, running: torch.Tensor, chunks: list[torch.Tensor], questions: list[tuple[int, int]], asked: list[int]
    ) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """For every lower layer the kept (key, value) pairs of all chunks."""
        first = self.stock_layer(self.layers[0], self.base.model.embed_tokens(running))
        context: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(self.config.lower_layers)]
        search = [first[questions[q][0] :][: questions[q][1]] if questions else None for q in asked[: len(chunks)]]
        trees = [self.tree(chunk, question) for chunk, question in zip(chunks, search, strict=True)]
        fine = self.fine(trees, search, len(questions))
        for i, tree in enumerate(trees):
            for node, (tokens, level) in enumerate(tree):
                for j, entries in enumerate(self.compress(tokens, self.config.ratios[level - 1], i)):
                    if level == self.config.height and i not in fine:
                        entries = self.thinned(entries, last=node == len(tree) - 1)
                    context[j] += entries
        return context

    def upper_layer(
        self, i: int, layer: Any, hidden: torch.Tensor, context: list[list[tuple[Any, Any]]], chunks: int
    ) -> torch.Tensor:
        """Self-attention, cross-attention where the layer carries one, MLP: (S, H) -> (S, H)."""
        normed, length = layer.input_layernorm(hidden)[None], len(hidden)
        mask = torch.full((length, length), -torch.inf, dtype=hidden.dtype).triu(1)[None, None]
        rotation = self.base.model.rotary_emb(normed, torch.arange(length)[None])
        hidden = hidden + layer.self_attn(normed, attention_mask=mask, position_embeddings=rotation)[0][0]
        if i in (injection := self.config.injection_layers) and chunks:
            j, position = injection.index(i), chunks + (self.config.query_position == "n+1")
            hidden = hidden + self.attend(self.cross[j], hidden, context[j + self.config.injection_start], position)
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def tree(self, chunk: torch.Tensor, question: torch.Tensor | None) -> list[tuple[torch.Tensor, int]]:
        """Preserved nodes (token ids, level): split, keep one half, go into the other one."""
        height, overlap = self.config.height, self.config.leaf_overlap
        nodes, start, end, path = [], 0, len(chunk), []
        for level in range(1, height + 1):
            middle = start + (end - start) // 2
            if level == height:
                if overlap is not None:
                    length = min(end - start + 2 * overlap, len(chunk))
                    begin = min(max(start - overlap, 0), len(chunk) - length)
                    nodes.append((chunk[begin : begin + length], level))
                else:
                    nodes += [(chunk[start:middle], level), (chunk[middle:end], level)]
                break
            right = True
            if question is not None:
                right = self.score(chunk[middle:end], question) > self.score(chunk[start:middle], question)
                path.append(bool(right))
            nodes.append((chunk[start:middle] if right else chunk[middle:end], level))
            start, end = (middle, end) if right else (start, middle)
        self.path.append(path)
        return nodes

    def fine(
        self, trees: list[list[tuple[torch.Tensor, int]]], search: list[torch.Tensor | None], questions: int
    ) -> set[int]:
        """The chunks whose leaves keep their own ratio: those whose leaves match their question best, or the last."""
        budget = self.config.fine_chunks
        acts = self.config.policy == "maxsim" and self.config.height > 1  # the others do not compare leaves
        if not search or search[0] is None:
            recent = self.config.fine_recent if self.config.height > 1 else None
            return set(range(len(trees))[-(recent or len(trees)) :])
        if budget is None or not acts:
            return set(range(len(trees)))
        match = []
        for tree, question in zip(trees, search, strict=True):
            leaves = [self.base.model.embed_tokens(t) for t, level in tree if level == self.config.height]
            states = torch.cat([self.stock_layer(self.layers[0], leaf) for leaf in leaves])
            match.append(sum(max(torch.cosine_similarity(q, s, dim=0) for s in states) for q in question))
        return set(sorted(range(len(trees)), key=lambda i: -match[i])[: budget * questions])

    def thinned(self, entries: list[Any], last: bool) -> list[Any]:
        """As many entries as the ratio of the level above keeps, equidistant among those of the widest leaf."""
        widest = self.config.chunk_size
        for _ in range(self.config.height - 1):
            widest -= widest // 2
        if self.config.leaf_overlap is None:
            widest = widest - widest // 2 if last else widest // 2
        else:
            widest = min(widest + 2 * self.config.leaf_overlap, self.config.chunk_size)
        most, few = (min(widest, max(1, math.floor(widest / r + 0.5))) for r in self.config.ratios[:-3:-1])
        chosen = [i * most // few for i in range(few)] if few < most else range(most)
        return [entries[i] for i in chosen if i < len(entries)]

    def score(self, half: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """How well a half matches the question, after one layer of the lower model."""
        states = self.stock_layer(self.layers[0], self.base.model.embed_tokens(half))
        if self.config.policy == "last_token":
            norm = self.base.model.norm
            return torch.cosine_similarity(norm(states[-1]), norm(question[-1]), dim=0)
        return sum(max(torch.cosine_similarity(q, s, dim=0) for s in states) for q in question)

    def compress(self, tokens: torch.Tensor, ratio: float, chunk: int) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """For every lower layer the kept (key, value) pairs of a node, each (kv heads, d)."""
        entries = min(len(tokens), max(1, math.floor(len(tokens) / ratio + 0.5)))
        hidden, kept = self.base.model.embed_tokens(tokens), []
        for layer in self.layers[: self.config.lower_layers]:
            normed = layer.input_layernorm(hidden)
            keys = layer.self_attn.k_proj(normed).unflatten(-1, (-1, self.head_dim))
            values = layer.self_attn.v_proj(normed).unflatten(-1, (-1, self.head_dim))
            pairs = []
            for e in range(entries):
                at = e * len(tokens) // entries
                position = {"chunk": chunk, "node": at, "node+chunk": chunk + at}[self.config.key_positions]
                pairs.append((self.rotate(keys[at], position), values[at]))
            kept.append(pairs)
            hidden = self.stock_layer(layer, hidden)
        return kept

    def attend(
        self, cross: Any, hidden: torch.Tensor, context: list[tuple[torch.Tensor, torch.Tensor]], position: int
    ) -> torch.Tensor:
        """Equation 2: softmax(Q K'^T / sqrt(d)) V', head by head, every query at one position."""
        query = self.rotate(cross.q_proj(cross.norm(hidden)).unflatten(-1, (-1, self.head_dim)), position)
        group = query.shape[1] // context[0][0].shape[0]
        heads = []
        for head in range(query.shape[1]):
            keys = torch.stack([k[head // group] for k, _ in context])
            values = torch.stack([v[head // group] for _, v in context])
            weights = torch.softmax(query[:, head] @ keys.T / math.sqrt(self.head_dim), -1)
            heads.append(weights @ values)
        return cross.o_proj(torch.cat(heads, -1))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    height = draw(st.integers(1, 4))
    chunk_size = draw(st.integers(2**height, 40))
    batch, chunks, running = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(2, 9))
    heads = draw(st.sampled_from([(2, 2), (4, 2), (4, 1)]))
    questions = draw(st.integers(1, 2))
    spans = []
    for _ in range(batch * questions):
        start = draw(st.integers(0, running - 1))
        spans.append((start, draw(st.integers(1, running - start))))
    lower = draw(st.integers(1, 3))
    injection = draw(st.sampled_from(["bottom", "top", "interleaved"]))
    return {
        "seed": draw(st.integers(0, 999)),
        "heads": heads[0],
        "kv_heads": heads[1],
        "batch": batch,
        "chunks": chunks,
        "running": running,
        "num_chunks": [draw(st.integers(0, chunks)) for _ in range(batch)],
        "questions": questions,
        "spans": spans,
        "searched": draw(st.booleans()) or draw(st.booleans()),
        "method": {
            "chunk_size": chunk_size,
            "ratios": draw(st.lists(st.sampled_from([1, 1.5, 2, 3.7, 8, 64]), min_size=height, max_size=height)),
            "lower_layers": lower,
            "injection": injection,
            "injection_start": draw(st.integers(0, lower - 1)) if injection == "bottom" else 0,
            "policy": draw(st.sampled_from(["maxsim", "last_token", "right"])),
            "fine_chunks": draw(st.sampled_from([None, 1, 2])),
            "key_positions": draw(st.sampled_from(["chunk", "node", "node+chunk"])),
            "query_position": draw(st.sampled_from(["n", "n+1"])),
            "leaf_overlap": draw(st.sampled_from([None, 0, 2 if chunk_size > 2 else 1])),
            "fine_recent": draw(st.sampled_from([None, 1, 2])),
        },
    }


@given(cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equals_the_reference(case: dict[str, Any]) -> None:
    model = build(case["seed"], case["heads"], case["kv_heads"], **case["method"])
    batch, chunks, per_row = case["batch"], case["chunks"], case["questions"]
    running = torch.randint(VOCABULARY, (batch, case["running"]))
    context = torch.randint(VOCABULARY, (batch, chunks, case["method"]["chunk_size"]))
    asked = torch.randint(per_row, (batch, chunks))
    spans = torch.tensor(case["spans"]).view(batch, per_row, 2)
    search = {}
    if case["searched"]:
        search = {"query_start": spans[..., 0], "query_length": spans[..., 1], "chunk_question": asked}
    with torch.no_grad():
        out = model(running, context, num_chunks=torch.tensor(case["num_chunks"]), **search)
        for row in range(batch):
            reference = Reference(model)
            searched = case["searched"] and case["method"]["policy"] != "right"
            count = case["num_chunks"][row]
            questions = [(int(s), int(n)) for s, n in spans[row]] if searched else []
            expected = reference.logits(running[row], list(context[row, :count]), questions, asked[row].tolist())
            torch.testing.assert_close(out.logits[row], expected, atol=1e-5, rtol=0)
            if searched:
                assert out.context.path[row, :count].tolist() == reference.path
            else:
                assert out.context.path is None


def test_the_reference_tells_rules_apart() -> None:
    """A check of the check: every setting that the cases vary changes the logits."""
    usual = {"chunk_size": 21, "ratios": [4, 3, 1], "lower_layers": 2, "policy": "maxsim"}
    torch.manual_seed(5)
    running, context = torch.randint(VOCABULARY, (1, 6)), torch.randint(VOCABULARY, (1, 3, 21))

    def logits(**changes: Any) -> torch.Tensor:
        model = build(1, 4, 2, **{**usual, **changes})
        with torch.no_grad():
            return model(running, context, query_start=1, query_length=4).logits

    plain = logits()
    for change in (
        {"ratios": [4, 2, 1]},
        {"ratios": [4, 2]},
        {"lower_layers": 1},
        {"injection": "top"},
        {"injection_start": 1},
        {"policy": "last_token"},
        {"policy": "right"},
        {"key_positions": "node"},
        {"key_positions": "node+chunk"},
        {"query_position": "n+1"},
        {"leaf_overlap": 0},
        {"leaf_overlap": 2},
        {"fine_chunks": 1},
        {"fine_chunks": 2},
    ):
        assert (logits(**change) - plain).abs().max() > 1e-3, change
