"""LongLLaMA's windows, of which a GPU replays all but the attention to memory, as CUDA graphs.

Layers without memory see nothing but a window that is read for memory: those between two memory layers are one graph,
and two windows go through it together. Only in the memory layers they take turns.
What continues the local cache attends to it in every layer, and is replayed between these attentions, as
`evals.methods.decoding.layer_reader` does.
"""

from __future__ import annotations

from functools import partial

import torch

from baselines.longllama.heads import project, remembered
from baselines.longllama.memory import LongLlamaState, MemoryLayer
from baselines.longllama.modeling import LongLlamaForCausalLM, attend
from evals.methods.decoding.layer_reader import Desk, put, row_bytes, rows_of
from evals.methods.decoding.replays import ReplayingReader
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.attention import merged
from sharedllm.nn.branches import finish_and_norm, input_norms
from sharedllm.nn.fused import rms_norm
from sharedllm.nn.layers import Attention
from sharedllm.nn.rotation import Rotations

TOGETHER = 2
"""Windows that are read together: half as many kernels, and as many rows in matrix products as Activation Beacon's."""
SHAPES = 16
"""Numbers of tokens whose graphs are remembered."""


class Reader(ReplayingReader[LongLlamaForCausalLM, None]):
    """graphs: whether it may replay, where a GPU gains from it."""

    def __init__(self, model: LongLlamaForCausalLM, graphs: bool = True) -> None:
        may = graphs and supports_static_decoding(model)
        count = len(model.decoder.layers)
        self._memory = sorted(model.config.mem_layers)
        self._rows = TOGETHER * rows_of(model.window)
        super().__init__(model, may, self._rows * row_bytes(model), SHAPES * 2 * (count + 1))
        self._desk: Desk | None = None

    def forget(self) -> None:
        super().forget()
        self._desk = None

    def remember(self, ids: torch.Tensor, state: LongLlamaState) -> None:
        """`LongLlamaForCausalLM.remember` of ids (1, n)."""
        if not self.replaying or not self._memory:
            self._model.remember(ids, state)
            return
        window = self._model.window
        whole = ids.shape[1] // window * window
        for windows in [*torch.split(ids[:, :whole].view(-1, window), TOGETHER), ids[:, whole:]]:
            if windows.numel():
                self._remember_windows(windows, state)

    def append(self, ids: torch.Tensor, state: LongLlamaState) -> torch.Tensor:
        """`LongLlamaForCausalLM.append` of ids (1, n): final hidden states (n, hidden)."""
        if not self.replaying:
            return self._model.append(ids, state)[0]
        hidden, start = [], 0
        while start < ids.shape[1]:
            if state.local >= self._model.window:
                state.flush()
            piece = ids[:, start : start + self._model.window - state.local]
            hidden.append(self._read_window(piece, state))
            start += piece.shape[1]
        return torch.cat(hidden)

    def _remember_windows(self, ids: torch.Tensor, state: LongLlamaState) -> None:
        """Windows ids (windows, n) that follow each other, for what they leave in memory."""
        desk, last = self._placed(ids, 0), self._memory[-1]
        for index, until in zip([None, *self._memory], self._memory, strict=False):
            if index is not None:
                for window in range(len(ids)):
                    self._attend(desk, window, ids.shape[1], index, state)
                    state.layers[index].flush()  # for the next window to see, and before a graph overwrites it
            self._replay(desk, index, until, remembering=until == last)
        cache = state.layers[last]
        assert isinstance(cache, MemoryLayer)
        _, _, values, raw = desk.heads
        for window in range(len(ids)):
            cache.remember(*(x[window : window + 1, :, : ids.shape[1]] for x in (raw, values)))

    def _read_window(self, ids: torch.Tensor, state: LongLlamaState) -> torch.Tensor:
        desk, tokens = self._placed(ids, state.local), ids.shape[1]
        self._replay(desk, None, 0)
        for index in range(len(self._model.decoder.layers)):
            self._attend(desk, 0, tokens, index, state, kept=True)
            self._replay(desk, index, index + 1)
        state.local += tokens
        return desk.hidden[0, :tokens].clone()

    def _placed(self, ids: torch.Tensor, first: int) -> Desk:
        """A desk for windows ids (windows, n), each of which begins at position `first`."""
        if self._desk is None:
            first_layer = self._model.decoder.layers[0].self_attn
            self._desk = Desk.of(self._model.decoder, self._rows, partial(_heads, first_layer))
        desk = self._desk.first(len(ids) * rows_of(ids.shape[1])).of_texts(len(ids))
        desk.place(ids, first)
        return desk

    def _attend(
        self, desk: Desk, window: int, tokens: int, index: int, state: LongLlamaState, kept: bool = False
    ) -> None:
        """The only thing that depends on what was read before: a window of the desk joins the cache and attends to it.
        kept: whether the cache outlives what is on the desk."""
        attention = self._model.decoder.layers[index].self_attn
        queries, *made = (x[window : window + 1, :, :tokens] for x in desk.heads)
        new_keys, new_values, raw = (x.clone() for x in made) if kept else made
        keys, values = state.layers[index].append(raw, new_keys, new_values)
        out = attend(queries, keys, values, attention.scaling, self._model.config.mem_attention_grouping)
        desk.attended[window : window + 1, :tokens] = merged(out)

    def _replay(self, desk: Desk, index: int | None, until: int, remembering: bool = False) -> None:
        key = *desk.ids.shape, index, until, remembering
        self._replays(key, partial(self._run, desk, index, until, remembering), device=self._model.device)

    def _run(self, desk: Desk, index: int | None, until: int, remembering: bool) -> None:
        """From what layer `index` attended to, or from ids, through layers that see nothing but these tokens, to the
        heads of layer `until` or the final states. remembering: only what memory takes of that layer is wanted."""
        layers, norms = self._model.decoder.layers, input_norms(self._model.decoder)
        if index is None:
            hidden, start = desk.embed(self._model.decoder), 0
            normed = rms_norm(norms[0], hidden)
        else:
            start = index + 1
            update = layers[index].self_attn.o_proj(desk.attended)
            hidden, normed = finish_and_norm(layers[index], desk.hidden, update, norms[start])
        grouping = self._model.config.mem_attention_grouping
        for layer, follower in zip(layers[start:until], norms[start + 1 : until + 1], strict=True):
            attention = layer.self_attn
            made = project(attention, normed, desk.rope.far, raw=False)
            out = attend(made.queries, made.keys, made.values, attention.scaling, grouping)
            hidden, normed = finish_and_norm(layer, hidden, attention.o_proj(merged(out)), follower)
        if until == len(layers):
            desk.hidden.copy_(normed)
        elif remembering:
            _, _, values, raw = desk.heads
            put((raw, values), remembered(layers[until].self_attn, normed))
        else:
            desk.hidden.copy_(hidden)
            project(layers[until].self_attn, normed, desk.rope.far, until in self._memory, desk.heads)


def _heads(attention: Attention, x: torch.Tensor, rope: Rotations) -> list[torch.Tensor]:
    """Queries, keys, values and keys without rotation, of normed states x (1, tokens, hidden)."""
    return [made for made in project(attention, x, rope.far, raw=True) if made is not None]
