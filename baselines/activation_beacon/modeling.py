"""Activation Beacon (Zhang et al., 2024, arXiv:2401.03462): windows condensed into the keys and values of beacons.

The text is read in windows of w tokens. After every a tokens (the ratio) stands a beacon, a token with an
embedding and query, key and value projections of its own; everything attends causally to its window and to what
older windows left behind. Of a full window only the w/a keys and values of its beacons stay, in every layer.

Positions count what is in memory: sinks, beacons, then the tokens and beacons of the window.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2ForCausalLM
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from baselines.activation_beacon.cache import BeaconCache, Buffers, Layout
from baselines.activation_beacon.rows import Heads, Order, by_slot, order, part, positions
from sharedllm.nn.attention import attend_last
from sharedllm.nn.base_config import key_value_heads
from sharedllm.nn.branches import finish_and_norm, input_norms
from sharedllm.nn.fused import place_rows, rms_norm
from sharedllm.nn.joined import join, products
from sharedllm.nn.layers import Attention, Decoder, Embedding, Projection, Rotation, output_head

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

    def join(self) -> None:
        """Let one product read all weights of the beacons of a layer, which are few rows."""
        for layer in self.decoder.layers:
            join([projection(layer.self_attn, "beacon_", name) for name in "qkv"])

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
        if cache.buffers is None or cache.buffers.capacity < room:
            cache.reserve(self.key_like(input_ids), room)
        orders: dict[tuple[int, int], Order | None] = {}  # full windows share one
        for fill, count in cache.fill.pieces(left):
            piece = input_ids[:, -left:][:, :count]
            left -= count
            wanted = min(max(keep - left, 0), count)
            span = fill.tokens, fill.tokens + count
            if span not in orders:
                orders[span] = order(cache.layout, *span, piece.device)
            hidden.append(self._read_piece(piece, cache, orders[span], wanted))
            cache.advance(count)
        return torch.cat(hidden, dim=1)

    def key_like(self, ids: torch.Tensor) -> torch.Tensor:
        """No keys, (0, batch, kv heads, head_dim), of texts ids (batch, n): a pattern for buffers."""
        heads, size = key_value_heads(self.config), self.decoder.layers[0].self_attn.head_dim
        return torch.empty(0, len(ids), heads, size, dtype=self.decoder.embed_tokens.weight.dtype, device=ids.device)

    def _read_piece(self, ids: torch.Tensor, cache: BeaconCache, order: Order | None, wanted: int) -> torch.Tensor:
        """Tokens of one window through all layers: final hidden states (batch, wanted, hidden)."""
        fill, tokens = cache.fill, ids.shape[1]
        after = fill.tokens + tokens
        made = slice(fill.used, fill.memory + fill.layout.slots(after))
        staged = slice(fill.staged, after // fill.layout.ratio)
        assert cache.buffers is not None
        places = CachePlaces(cache.buffers, made, staged, len(ids), order)
        beacons = staged.stop - staged.start
        normed = self.read_rows(ids, beacons, positions(fill, tokens, ids.device), places, bool(wanted))
        return normed[:, tokens - wanted : tokens]

    def read_rows(
        self, ids: torch.Tensor, beacons: int, positions: torch.Tensor, places: Places, whole: bool
    ) -> torch.Tensor:
        """Tokens ids (batch, n) and the beacons among them through all layers: final hidden states (batch, rows,
        hidden), tokens first.

        positions: see `rows.positions`. whole: whether these states are wanted; otherwise the last layer ends with its
        keys and values, and what is returned means nothing.
        """
        decoder = self.decoder
        x = decoder.embed_tokens(ids)
        rotation = decoder.rotary_emb(x, positions[None])
        if beacons:
            x = torch.cat([x, decoder.beacon_embed_tokens.weight.expand(len(x), beacons, -1)], dim=1)
        norms = input_norms(decoder)
        normed = rms_norm(norms[0], x)
        for index, (layer, follower) in enumerate(zip(decoder.layers, norms[1:], strict=True)):
            attention = layer.self_attn
            made = project(attention, normed, ids.shape[1], whole or follower is not decoder.norm)
            out = places.attend(index, attention, made, rotation)
            if out is None:
                break
            x, normed = finish_and_norm(layer, x, attention.o_proj(out.flatten(2)), follower)
        return normed

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


class Places(Protocol):
    """Where a forward pass puts keys and values, and what its queries attend to."""

    def attend(self, index: int, attention: Attention, made: Heads, rotation: Rotation) -> torch.Tensor | None:
        """What the rows of a layer attend to, (batch, rows, heads, head_dim), tokens first; None without queries.

        rotation: of the slots of the rows, then of the places that the beacons move to, (1, positions, head_dim).
        """


class CachePlaces:
    """The next entries of a cache, in slices of its buffers. entries, staged: of the rows, and of the beacons among
    them. order: None without beacons."""

    def __init__(self, buffers: Buffers, entries: slice, staged: slice, batch: int, order: Order | None) -> None:
        self._buffers, self._entries, self._staged = buffers, entries, staged
        self._batch, self._order = batch, order

    def attend(self, index: int, attention: Attention, made: Heads, rotation: Rotation) -> torch.Tensor | None:
        keys, values, staged = self._buffers.places(index, self._entries, self._staged)
        count, order = len(keys), self._order
        query = by_slot(made, None if order is None else order.row, part(rotation, slice(count)), keys, values)
        if made.beacon_key is not None:
            place_rows(made.beacon_key, rotation=part(rotation, slice(count, None)), into=staged)
        if query is None:
            return None
        query = torch.unflatten(query, 1, (self._batch, -1)).permute(1, 2, 0, 3)
        keys, values = (x[index, : self._entries.stop].permute(1, 2, 0, 3) for x in self._buffers[:2])
        out = causal_attention(attention, query, keys, values)
        return out if order is None else out[:, order.slot]


def project(attention: Attention, x: torch.Tensor, tokens: int, queries: bool) -> Heads:
    """Heads of x (batch, rows, hidden), of which the first `tokens` rows are tokens. queries: whether they are
    wanted."""
    own = by_row(attention, "", x[:, :tokens], queries)
    return Heads(*own, *(by_row(attention, "beacon_", x[:, tokens:], queries) if x.shape[1] > tokens else ()))


def by_row(
    attention: Attention, kind: str, x: torch.Tensor, queries: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Queries (None unless `queries`), keys and values (rows, batch * heads, head_dim) of x (batch, rows, hidden), all
    of one kind."""
    names = "qkv" if queries else "kv"
    made = products([projection(attention, kind, name) for name in names], x)
    heads = (torch.unflatten(each.transpose(0, 1), -1, (-1, attention.head_dim)).flatten(1, 2) for each in made)
    return next(heads) if queries else None, next(heads), next(heads)


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
