"""Crossbatch: how LongLLaMA learns to find its own past among other texts (section 3.2 and appendix A.2 of the paper).

The documents of a batch are cut into entries of one window each, and all layers read every entry by itself. Memory
layers also attend to entries before it in the batch, with keys at position 0 as memory has them: first those of its own
document, then the end of the documents before. Queries thus see what belongs to them (positives) among what does not
(negatives), and keys and values of both learn from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from baselines.longllama.heads import project
from baselines.longllama.modeling import LongLlamaForCausalLM
from sharedllm.nn import fused
from sharedllm.nn.attention import attend_last, merged
from sharedllm.nn.layers import DecoderLayer, Rotation
from sharedllm.nn.rotation import rotations


@dataclass(frozen=True)
class Run:
    """Entries that attend at once: those at one place in `documents`, each with as many `others` before it."""

    place: int
    documents: range
    others: int


def own_past(documents: int, entries: int) -> list[Run]:
    """Every entry reads all of its document that came before: memory in use."""
    return [Run(place, range(documents), place) for place in range(entries)]


def crossbatch(documents: int, entries: int, negatives: int) -> list[Run]:
    """Later entries of a document read more others than earlier ones (`cross_batch_stepping` of the code).

    negatives: entries of other documents that the last entry of a document reads. With four entries and none of them,
    the counts (own, foreign) are (0, 0), (1, 1), (2, 1), (3, 0): the 3B model's; with 4 about the 7B model's.
    """
    most = entries - 1 + negatives
    step = -(-(most + 1) // max(entries - 1, 1))
    runs = []
    for place in range(entries):
        others = most if entries == 1 else min(place * step, most)
        whole = min(max(-(-(others - place) // entries), 0), documents)  # the first documents have fewer before them
        runs += [Run(place, range(d, d + 1), d * entries + place) for d in range(whole)]
        runs += [Run(place, range(whole, documents), others)] * (whole < documents)
    return runs


def read_entries(
    model: LongLlamaForCausalLM,
    layer: DecoderLayer,
    hidden: torch.Tensor,
    rotation: Rotation,
    runs: Sequence[Run] | None,
) -> torch.Tensor:
    """States (documents, tokens, hidden) after a layer; entries of model.window tokens, the last may be shorter.

    runs: of a memory layer; None for one without memory.
    """
    attention, x = layer.self_attn, fused.rms_norm(layer.input_layernorm, hidden)
    q, keys, values, raw = project(attention, x, rotation, raw=runs is not None)
    if runs is None or raw is None:
        heads = attend_alone(q, keys, values, model.window, attention.scaling)
    else:
        heads = attend_entries(q, raw, keys, values, model.window, runs, attention.scaling)
    hidden, normed = fused.add_norm(layer.post_attention_layernorm, hidden, attention.o_proj(merged(heads)))
    return hidden + fused.mlp(layer.mlp, normed)


def attend_alone(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int, scale: float) -> torch.Tensor:
    """Causal attention of each entry to itself; shapes as in `attend_entries`. All whole entries at once: a long
    document has dozens, and a GPU would wait for as many kernels in every layer."""
    documents, end = len(q), q.shape[2] // window * window

    def folded(x: torch.Tensor) -> torch.Tensor:
        """(documents, heads, tokens, d) -> (documents * whole entries, heads, window, d)."""
        return torch.unflatten(x[:, :, :end], 2, (-1, window)).transpose(1, 2).flatten(0, 1)

    parts = []
    if end:
        out = attend_last(folded(q), folded(keys), folded(values), scale)
        parts.append(torch.unflatten(out, 0, (documents, -1)).transpose(1, 2).flatten(2, 3))
    if end < q.shape[2]:
        parts.append(attend_last(q[:, :, end:], keys[:, :, end:], values[:, :, end:], scale))
    return torch.cat(parts, 2)


def attend_entries(
    q: torch.Tensor,
    raw: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int,
    runs: Sequence[Run],
    scale: float,
) -> torch.Tensor:
    """Attention of each entry to itself, causally, and to all of its others, in one softmax.

    q: (documents, heads, tokens, d) -> the same. keys, values: (documents, kv heads, tokens, d). raw: keys without
    rotation. runs: of each place in order of their documents.
    """
    q_by_place, raw_by_place, keys_by_place, values_by_place = (
        torch.split(x, window, 2) for x in (q, raw, keys, values)
    )
    out: list[list[torch.Tensor]] = [[] for _ in q_by_place]
    for run in runs:
        rows = slice(run.documents.start, run.documents.stop)
        read_keys, read_values = [], []
        for back in range(run.others, 0, -1):
            shift, place = divmod(run.place - back, len(q_by_place))
            there = slice(rows.start + shift, rows.stop + shift)
            read_keys.append(raw_by_place[place][there])
            read_values.append(values_by_place[place][there])
        k = torch.cat([*read_keys, keys_by_place[run.place][rows]], 2)
        v = torch.cat([*read_values, values_by_place[run.place][rows]], 2)
        out[run.place].append(attend_last(q_by_place[run.place][rows], k, v, scale))
    return torch.cat([torch.cat(parts) for parts in out], 2)


def entry_rotation(model: LongLlamaForCausalLM, hidden: torch.Tensor) -> Rotation:
    """Of positions that begin anew in every entry."""
    positions = torch.arange(hidden.shape[1], device=hidden.device) % model.window
    return rotations(model.decoder, hidden, positions[None]).far
