"""Activation Beacon (Zhang et al., 2024, arXiv:2401.03462): windows condensed into the keys and values of beacons.

The text is read in windows of w tokens. After every a tokens (the ratio) stands a beacon, a token with an
embedding and query, key and value projections of its own; everything attends causally to its window and to what
older windows left behind. Of a full window only the w/a keys and values of its beacons stay, in every layer.

Positions count what is in memory: sinks, beacons, then the tokens and beacons of the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2ForCausalLM
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from baselines.activation_beacon.cache import BeaconCache, Layout
from sharedllm.nn.attention import attend_last
from sharedllm.nn.fused import add_norm, compiled, mlp, rms_norm, rotated
from sharedllm.nn.layers import Attention, Decoder, Embedding, Projection, output_head

SUPPORTED = {
    "beacon_pos": "interleave",
    "beacon_attn": "full-coverage",
    "beacon_attend_prev": True,
}
"""The published form of the method. Earlier experiments of the authors (beacons appended, step expansion) differ."""


def check_config(config: PreTrainedConfig) -> None:
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


def covered(config: PreTrainedConfig, ratio: int) -> int:
    """Longest text that stays within the base's positions at this ratio."""
    window = int(config.beacon_window)
    return (int(config.max_position_embeddings) - window) * ratio + window


def adapt_ratio(config: PreTrainedConfig, length: int, reserve: int = 1024) -> int:
    """The smallest ratio at which `length` + `reserve` tokens fit the base's positions, else the largest one.

    The authors' rule for evaluation (`beacon_ratio_mix: adapt-1024`).
    """
    ratios: list[int] = list(config.beacon_ratio)
    fitting = [ratio for ratio in ratios if covered(config, ratio) >= length + reserve]
    return min(fitting) if fitting else max(ratios)


@dataclass(frozen=True)
class Rows:
    """The rows of one forward pass, tokens first, then beacons: both kinds use their projections on a slice. They
    attend in the order of their slots (cache entries, which are positions too), where beacons stand between tokens.

    count, tokens: rows in all, and how many are tokens; first: slot of the first; staged: where in the staged keys the
    beacons go. For a batch as one list of rows: order (batch * count, 1), the row at each slot, with all tokens of the
    batch before all beacons; cos, sin (batch * count, 1, head_dim) of the slots; moved: the same for the beacons at the
    places that they move to. back (count,): slot of each row of a text, from the first.
    """

    count: int
    tokens: int
    first: int
    staged: slice
    order: torch.Tensor
    back: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    moved: tuple[torch.Tensor, torch.Tensor]


class BeaconDecoder(Decoder, Protocol):
    """A Llama-like stack with the beacon's embedding; its attention has `beacon_` projections (`projection`)."""

    beacon_embed_tokens: Embedding


def projection(attention: Attention, kind: str, name: str) -> Projection:
    """A query, key or value projection (q, k, v) of tokens (kind empty) or of beacons (`beacon_`)."""
    found: Projection = getattr(attention, f"{kind}{name}_proj")
    return found


class BeaconMixin:
    """Beacon parameters under the names of the released checkpoints, and a forward pass that reads in windows.

    Mixed into a stock causal LM whose layers are those of Llama (q, k, v, o projections and rotary embedding).
    """

    config: Any  # the class that this is mixed into has its own

    def __init__(self, config: PreTrainedConfig) -> None:
        check_config(config)
        super().__init__(config)  # type: ignore[call-arg]  # the next class is the stock causal LM
        stock = cast(PreTrainedModel, self)
        stock.base_model.beacon_embed_tokens = nn.Embedding(1, config.hidden_size)
        for layer in self.decoder.layers:
            for name in "qkv":
                own = cast(nn.Linear, projection(layer.self_attn, "", name))
                beacon = nn.Linear(own.in_features, own.out_features, bias=own.bias is not None)
                setattr(layer.self_attn, f"beacon_{name}_proj", beacon)
        stock.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    @property
    def decoder(self) -> BeaconDecoder:
        """The stack of layers."""
        return cast(BeaconDecoder, cast(PreTrainedModel, self).base_model)

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
        x = self.decoder.embed_tokens(ids)
        rows = self._rows(x, cache)
        beacons = self.decoder.beacon_embed_tokens.weight.expand(x.shape[0], rows.count - rows.tokens, -1)
        x = torch.cat([x, beacons], dim=1)
        for index, layer in enumerate(self.decoder.layers):
            only_state = not wanted and index + 1 == len(self.decoder.layers)
            normed = rms_norm(layer.input_layernorm, x)
            query, key, value, moved = self._project(layer.self_attn, normed, rows, not only_state)
            keys, values = self._write(cache, index, room, rows, key, value, moved)
            if query is None:
                break
            out = causal_attention(layer.self_attn, query, keys, values)[:, rows.back]
            x, normed = add_norm(layer.post_attention_layernorm, x, layer.self_attn.o_proj(out.flatten(2)))
            x = x + mlp(layer.mlp, normed)
        return self.decoder.norm(x[:, rows.tokens - wanted : rows.tokens])

    def _rows(self, x: torch.Tensor, cache: BeaconCache) -> Rows:
        """Of a piece with embeddings x (batch, tokens, hidden), all in one window."""
        fill, ratio = cache.fill, cache.layout.ratio
        batch, tokens = x.shape[:2]
        token, beacon = cache.layout.rows(fill.tokens, fill.tokens + tokens, x.device)
        back = fill.memory + torch.cat([token, beacon]) - fill.used
        count = len(back)
        text = torch.arange(batch, device=x.device)[:, None]
        row = torch.arange(count, device=x.device)
        listed = torch.where(row < tokens, text * tokens + row, batch * tokens + text * len(beacon) + row - tokens)
        staged = slice(fill.tokens // ratio, (fill.tokens + tokens) // ratio)
        moved = fill.target + torch.arange(staged.start, staged.stop, device=x.device)
        slots = fill.used + row
        cos, sin = (r[0, :, None] for r in self.decoder.rotary_emb(x, torch.cat([slots, moved])[None]))
        return Rows(
            count=count,
            tokens=tokens,
            first=fill.used,
            staged=staged,
            order=listed[:, back.argsort()].reshape(-1, 1),
            back=back,
            cos=cos[:count].repeat(batch, 1, 1),
            sin=sin[:count].repeat(batch, 1, 1),
            moved=(cos[count:].repeat(batch, 1, 1), sin[count:].repeat(batch, 1, 1)),
        )

    def _project(
        self, attn: Attention, x: torch.Tensor, rows: Rows, queries: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Rotated queries (None unless `queries`) and keys, and values, (batch, heads, rows, head_dim) by slot; keys of
        the beacons where they move to, None without beacons."""
        parts: list[torch.Tensor | None] = []
        for kind, part in (("", x[:, : rows.tokens]), ("beacon_", x[:, rows.tokens :])):
            for name in "qkv":
                if part.shape[1] and (queries or name != "q"):
                    made = projection(attn, kind, name)(part)
                    parts.append(torch.unflatten(made.flatten(0, 1), -1, (-1, attn.head_dim)))
                else:
                    parts.append(None)
        query, key, value, beacon_query, beacon_key, beacon_value = parts
        assert key is not None
        assert value is not None
        ordered = compiled(by_slot, x)(
            query, key, value, beacon_query, beacon_key, beacon_value, rows.order, rows.cos, rows.sin, *rows.moved
        )
        query, key, value, moved = (
            None if m is None else torch.unflatten(m, 0, (x.shape[0], -1)).transpose(1, 2) for m in ordered
        )
        assert key is not None
        assert value is not None
        return query, key, value, moved

    def _write(
        self,
        cache: BeaconCache,
        index: int,
        room: int,
        rows: Rows,
        key: torch.Tensor,
        value: torch.Tensor,
        moved: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values of `rows` into the cache; views of all entries (batch, kv heads, used, head_dim)."""
        state, end = cache.reserve(index, key, room), rows.first + rows.count
        if moved is not None:
            state.staged[:, :, rows.staged] = moved
        state.keys[:, :, rows.first : end] = key
        state.values[:, :, rows.first : end] = value
        return state.keys[:, :, :end], state.values[:, :, :end]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | BeaconCache | None = None,
        logits_to_keep: int = 0,
        **_: object,
    ) -> CausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` tokens (0: of all), (batch, n, vocabulary), and the cache.

        Without a `BeaconCache` the text is taken as a new one, with the ratio that suits its length. Rows of a
        batch have equal lengths: padding would shift the beacons, so a mask with zeros is refused.
        """
        cache = past_key_values
        if not isinstance(cache, BeaconCache):
            if cache is not None and cache.get_seq_length():
                raise ValueError("Only a cache made by `new_cache` can be continued.")
            if attention_mask is not None and not bool(attention_mask.all()):
                raise ValueError("Padding is not supported: give texts of equal length, or one at a time.")
            cache = self.new_cache(adapt_ratio(self.config, input_ids.shape[1]))
        hidden = self.read(input_ids, cache, keep=logits_to_keep or None)
        logits = output_head(cast(PreTrainedModel, self))(hidden)
        return CausalLMOutputWithPast(logits=logits, past_key_values=cast(Cache, cache))


class BeaconLlama(BeaconMixin, LlamaForCausalLM):  # type: ignore[no-untyped-call]  # its hook is untyped
    """Activation Beacon on a Llama base."""


class BeaconMistral(BeaconMixin, MistralForCausalLM):  # type: ignore[no-untyped-call]  # its hook is untyped
    """Activation Beacon on a Mistral base."""


class BeaconQwen2(BeaconMixin, Qwen2ForCausalLM):  # type: ignore[no-untyped-call]  # its hook is untyped
    """Activation Beacon on a Qwen2 base."""


BeaconModel = BeaconLlama | BeaconMistral | BeaconQwen2
CLASSES: dict[str, type[BeaconModel]] = {"llama": BeaconLlama, "mistral": BeaconMistral, "qwen2": BeaconQwen2}


def by_slot(
    query: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    beacon_query: torch.Tensor | None,
    beacon_key: torch.Tensor | None,
    beacon_value: torch.Tensor | None,
    order: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    moved_cos: torch.Tensor,
    moved_sin: torch.Tensor,
) -> tuple[torch.Tensor | None, ...]:
    """Rotated queries, rotated keys and values in the order of their slots, and the beacons' keys where they move to.

    All (rows, heads, head_dim), first of tokens, then of beacons, which may be missing. order, cos, sin: see `Rows`.
    """

    def ordered(own: torch.Tensor, beacon: torch.Tensor | None) -> torch.Tensor:
        return own if beacon is None else torch.cat([own, beacon])[order[:, 0]]

    return (
        None if query is None else rotated(ordered(query, beacon_query), cos, sin),
        rotated(ordered(key, beacon_key), cos, sin),
        ordered(value, beacon_value),
        None if beacon_key is None else rotated(beacon_key, moved_cos, moved_sin),
    )


def causal_attention(attn: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of the last entries: (batch, heads, q, d) on (batch, kv heads, k, d) -> (batch, q, heads, d)."""
    kind, q, k = attn.config._attn_implementation, query.shape[2], key.shape[2]
    if kind == "sdpa":
        return attend_last(query, key, value, attn.scaling).transpose(1, 2)
    out: torch.Tensor
    if kind == "eager":
        mask = query.new_full((q, k), -torch.inf).triu(k - q + 1)[None, None]
        out, _ = eager_attention_forward(cast(nn.Module, attn), query, key, value, mask, attn.scaling)
        return out
    attend = ALL_ATTENTION_FUNCTIONS[kind]  # flash: bottom-right causal, as needed here
    out, _ = attend(attn, query, key, value, None, dropout=0.0, scaling=attn.scaling)
    return out
