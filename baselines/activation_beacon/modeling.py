"""Activation Beacon (Zhang et al., 2024, arXiv:2401.03462): windows condensed into the keys and values of beacons.

The text is read in windows of w tokens. After every a tokens (the ratio) stands a beacon, a token with an
embedding and query, key and value projections of its own; everything attends causally to its window and to what
older windows left behind. Of a full window only the w/a keys and values of its beacons stay, in every layer.

Positions count what is in memory: sinks, beacons, then the tokens and beacons of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PretrainedConfig, Qwen2ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from baselines.activation_beacon.cache import BeaconCache, Layout
from sharedllm.attention import attend_last
from sharedllm.fused import add_norm, mlp, rms_norm, rotate

SUPPORTED = {
    "beacon_pos": "interleave",
    "beacon_attn": "full-coverage",
    "beacon_attend_prev": True,
}
"""The published form of the method. Earlier experiments of the authors (beacons appended, step expansion) differ."""


def check_config(config: PretrainedConfig) -> None:
    """Raises ValueError where the `beacon_*` fields are missing or describe another variant of the method."""
    if getattr(config, "beacon_window", None) is None:
        raise ValueError("The config has no beacon_window: these are not the weights of an Activation Beacon model.")
    for name, value in SUPPORTED.items():
        if getattr(config, name, value) != value:
            raise ValueError(f"The config has {name}={getattr(config, name)!r}; only {value!r} is supported.")
    if sorted(getattr(config, "beacon_param", "qkv")) != ["k", "q", "v"]:
        raise ValueError(f"The config has beacon_param={config.beacon_param!r}; only q, k and v are supported.")
    if getattr(config, "beacon_stride", config.beacon_window) != config.beacon_window:
        raise ValueError("The config has a beacon_stride other than beacon_window; only equal ones are supported.")
    for ratio in config.beacon_ratio:
        if ratio < 1 or config.beacon_window % ratio:
            raise ValueError(f"The ratio {ratio} does not divide the window of {config.beacon_window} tokens.")


def covered(config: PretrainedConfig, ratio: int) -> int:
    """Longest text that stays within the base's positions at this ratio."""
    return (config.max_position_embeddings - config.beacon_window) * ratio + config.beacon_window


def adapt_ratio(config: PretrainedConfig, length: int, reserve: int = 1024) -> int:
    """The smallest ratio at which `length` + `reserve` tokens fit the base's positions, else the largest one.

    The authors' rule for evaluation (`beacon_ratio_mix: adapt-1024`).
    """
    fitting = [ratio for ratio in config.beacon_ratio if covered(config, ratio) >= length + reserve]
    return min(fitting) if fitting else max(config.beacon_ratio)


@dataclass(frozen=True)
class Rows:
    """The rows of one forward pass, tokens first, then beacons: both kinds use their projections on a slice.

    slots: cache entry (= position) of each row; order: rows by slot; back: slots by row; tokens: how many rows
    are tokens; staged: where in the staged keys the beacons go; rotary: cosines and sines (1, 1, rows, head_dim) for
    `slots`; moved: for the beacons at the places that they move to.
    """

    slots: torch.Tensor
    order: torch.Tensor
    back: torch.Tensor
    tokens: int
    staged: slice
    rotary: tuple[torch.Tensor, torch.Tensor]
    moved: tuple[torch.Tensor, torch.Tensor]


class BeaconMixin:
    """Beacon parameters under the names of the released checkpoints, and a forward pass that reads in windows.

    Mixed into a stock causal LM whose layers are those of Llama (q, k, v, o projections and rotary embedding).
    """

    model: Any
    lm_head: Any
    config: Any
    post_init: Any

    def __init__(self, config: PretrainedConfig) -> None:
        check_config(config)
        super().__init__(config)  # type: ignore[call-arg]
        self.model.beacon_embed_tokens = nn.Embedding(1, config.hidden_size)
        for layer in self.model.layers:
            for name in "qkv":
                own = getattr(layer.self_attn, f"{name}_proj")
                beacon = nn.Linear(own.in_features, own.out_features, bias=own.bias is not None)
                setattr(layer.self_attn, f"beacon_{name}_proj", beacon)
        self.post_init()

    def new_cache(self, ratio: int) -> BeaconCache:
        """An empty cache for texts read at this ratio."""
        if ratio < 1 or self.config.beacon_window % ratio:
            raise ValueError(f"The ratio {ratio} does not divide the window of {self.config.beacon_window} tokens.")
        layout = Layout(self.config.beacon_window, ratio, getattr(self.config, "beacon_sink_size", 0))
        return BeaconCache(layout, self.config.num_hidden_layers)

    def read(self, input_ids: torch.Tensor, cache: BeaconCache, keep: int | None = None) -> torch.Tensor:
        """Append (batch, n) tokens, n >= 1; final hidden states of the last `keep` tokens (default: all).

        Windows of which nothing is kept end with the keys and values of the last layer.
        """
        left = input_ids.shape[1]
        keep = left if keep is None else keep
        room, hidden = cache.fill.peak(left), []
        for _, count in cache.fill.pieces(left):
            piece = input_ids[:, -left:][:, :count]
            left -= count
            wanted = min(max(keep - left, 0), count)
            hidden.append(self._read_piece(piece, cache, room, wanted))
            cache.advance(count)
        return torch.cat(hidden, dim=1)

    def _read_piece(self, ids: torch.Tensor, cache: BeaconCache, room: int, wanted: int) -> torch.Tensor:
        """Tokens of one window through all layers: final hidden states (batch, wanted, hidden)."""
        x = self.model.embed_tokens(ids)
        rows = self._rows(x, cache)
        beacons = len(rows.slots) - rows.tokens
        x = torch.cat([x, self.model.beacon_embed_tokens.weight.expand(x.shape[0], beacons, -1)], dim=1)
        for index, layer in enumerate(self.model.layers):
            only_state = not wanted and index + 1 == len(self.model.layers)
            normed = rms_norm(layer.input_layernorm, x)
            keys, values = self._write(layer.self_attn, normed, rows, cache, index, room)
            if only_state:
                break
            attended = self._attend(layer.self_attn, normed, rows, keys, values)
            x, normed = add_norm(layer.post_attention_layernorm, x, attended)
            x = x + mlp(layer.mlp, normed)
        return self.model.norm(x[:, rows.tokens - wanted : rows.tokens])

    def _rows(self, x: torch.Tensor, cache: BeaconCache) -> Rows:
        fill, ratio = cache.fill, cache.layout.ratio
        first, last = fill.tokens, fill.tokens + x.shape[1]
        token, beacon = cache.layout.rows(first, last, x.device)
        slots = fill.memory + torch.cat([token, beacon])
        back = slots - fill.used
        order = torch.empty_like(slots)
        order[back] = torch.arange(len(slots), device=x.device)
        staged = slice(first // ratio, last // ratio)
        moved = fill.target + torch.arange(staged.start, staged.stop, device=x.device)
        cos, sin = self.model.rotary_emb(x, torch.cat([slots, moved])[None])
        n = len(slots)
        return Rows(
            slots=slots,
            order=order,
            back=back,
            tokens=x.shape[1],
            staged=staged,
            rotary=(cos[:, None, :n], sin[:, None, :n]),
            moved=(cos[:, None, n:], sin[:, None, n:]),
        )

    def _write(
        self, attn: Any, x: torch.Tensor, rows: Rows, cache: BeaconCache, index: int, room: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values of `rows` into the cache; views of all entries (batch, kv heads, used, head_dim)."""
        key = project(attn.k_proj, attn.beacon_k_proj, x, rows.tokens, attn.head_dim)
        value = project(attn.v_proj, attn.beacon_v_proj, x, rows.tokens, attn.head_dim)
        state = cache.reserve(index, key, room)
        if rows.staged.start < rows.staged.stop:
            state.staged[:, :, rows.staged] = rotate(key[:, :, rows.tokens :], *rows.moved)
        state.keys.index_copy_(2, rows.slots, rotate(key, *rows.rotary))
        state.values.index_copy_(2, rows.slots, value)
        end = cache.fill.used + len(rows.slots)
        return state.keys[:, :, :end], state.values[:, :, :end]

    def _attend(self, attn: Any, x: torch.Tensor, rows: Rows, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        query = project(attn.q_proj, attn.beacon_q_proj, x, rows.tokens, attn.head_dim)
        query = rotate(query, *rows.rotary)
        if len(rows.slots) > 1:
            query = query[:, :, rows.order]
        out = causal_attention(attn, query, keys, values)
        if len(rows.slots) > 1:
            out = out[:, rows.back]
        return attn.o_proj(out.flatten(2))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` tokens (0: of all), (batch, n, vocabulary), and the cache.

        Without a `BeaconCache` the text is taken as a new one, with the ratio that suits its length. Rows of a
        batch have equal lengths: padding would shift the beacons, so a mask with zeros is refused.
        """
        cache: Any = past_key_values
        if not isinstance(cache, BeaconCache):
            if cache is not None and cache.get_seq_length():
                raise ValueError("Only a cache made by `new_cache` can be continued.")
            if attention_mask is not None and not bool(attention_mask.all()):
                raise ValueError("Padding is not supported: give texts of equal length, or one at a time.")
            cache = self.new_cache(adapt_ratio(self.config, input_ids.shape[1]))
        hidden = self.read(input_ids, cache, keep=logits_to_keep or None)
        return CausalLMOutputWithPast(logits=self.lm_head(hidden), past_key_values=cache)


class BeaconLlama(BeaconMixin, LlamaForCausalLM):
    """Activation Beacon on a Llama base."""


class BeaconMistral(BeaconMixin, MistralForCausalLM):
    """Activation Beacon on a Mistral base."""


class BeaconQwen2(BeaconMixin, Qwen2ForCausalLM):
    """Activation Beacon on a Qwen2 base."""


CLASSES = {"llama": BeaconLlama, "mistral": BeaconMistral, "qwen2": BeaconQwen2}


def project(own: nn.Linear, beacon: nn.Linear, x: torch.Tensor, tokens: int, head_dim: int) -> torch.Tensor:
    """(batch, rows, hidden) -> (batch, heads, rows, head_dim), the rows from `tokens` on by the beacons' projection."""
    out = own(x[:, :tokens])
    if x.shape[1] > tokens:
        out = torch.cat([out, beacon(x[:, tokens:])], dim=1)
    return out.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def causal_attention(attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of the last entries: (batch, heads, q, d) on (batch, kv heads, k, d) -> (batch, q, heads, d)."""
    kind, q, k = attn.config._attn_implementation, query.shape[2], key.shape[2]
    if kind == "sdpa":
        return attend_last(query, key, value, attn.scaling).transpose(1, 2)
    if kind == "eager":
        mask = query.new_full((q, k), -torch.inf).triu(k - q + 1)[None, None]
        return eager_attention_forward(attn, query, key, value, mask, attn.scaling)[0]
    attend = ALL_ATTENTION_FUNCTIONS[kind]  # flash: causal from the lower right, as needed here
    return attend(attn, query, key, value, None, dropout=0.0, scaling=attn.scaling)[0]
