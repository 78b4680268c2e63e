"""LongLLaMA: Llama whose memory layers attend to everything read before (Tworkowski et al., "Focused Transformer:
Contrastive Training for Context Scaling", NeurIPS 2023, arXiv 2307.03170), as in the released inference code.

A prompt of n tokens is read in windows of W = max_position_embeddings tokens: the first n - c of them for what they
leave in memory, the last c (`last_context_length`) into a local cache. Windows do not see each other, except that
the memory layers attend to the window (causally, rotated by its own positions) and to all memory (at position 0, so
every memory token is as far away as the query is from the start of its window) in one softmax. When the local cache
would exceed W, all of it moves to memory and the next token starts at position 0.

Weights and names are those of Llama. transformers does not know the model type; the config is read here, and no code
comes from the checkpoint (`syzymon/long_llama_3b` and others).
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from baselines.longllama.heads import project, remembered
from baselines.longllama.memory import LongLlamaState, MemoryLayer
from evals.errors import UnfitError
from sharedllm.nn.attention import attend_last, merged
from sharedllm.nn.branches import finish_and_norm, input_norms
from sharedllm.nn.fused import rms_norm
from sharedllm.nn.layers import Decoder, Rotation, decoder_of, output_head
from sharedllm.nn.parts import attend_newest
from sharedllm.nn.rotation import rotations


class LongLlamaConfig(LlamaConfig):  # type: ignore[no-untyped-call]  # its hook is untyped in transformers
    """The released config.json: Llama's fields and those of the memory, with the released defaults."""

    model_type = "longllama"
    mem_layers: tuple[int, ...] | list[int] = ()
    mem_positionals: bool = True
    mem_dtype: str = "bfloat16"
    mem_attention_grouping: tuple[int, int] | list[int] | None = None
    last_context_length: int = 1024


class LongLlamaForCausalLM(LlamaPreTrainedModel):  # type: ignore[no-untyped-call]  # its hook is untyped
    """`read` fills a state from a prompt and `append` continues it; a forward reads a prompt and returns logits.

    There is no `generate`: the loop of transformers assumes positions that count from the start of the text.
    """

    config_class = LongLlamaConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - as transformers reads it

    def __init__(self, config: LongLlamaConfig) -> None:
        check_config(config)
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    @property
    def window(self) -> int:
        """Tokens of a window and of the local cache."""
        return int(self.config.max_position_embeddings)

    @property
    def decoder(self) -> Decoder:
        """The stack of layers."""
        return decoder_of(self)

    def new_state(self, reserve: int = 0) -> LongLlamaState:
        """An empty state with room for `reserve` tokens, memory and local cache together, in the memory layers."""
        mem_dtype = getattr(torch, self.config.mem_dtype)
        return LongLlamaState(self.config.num_hidden_layers, self.config.mem_layers, mem_dtype, reserve, self.window)

    def read(
        self,
        input_ids: torch.Tensor,
        state: LongLlamaState,
        last_context_length: int | None = None,
        every_token: bool = True,
    ) -> torch.Tensor:
        """Read a prompt (batch, n), n >= 1, into an empty state; returns final hidden states (batch, n, hidden).

        every_token=False returns those of the last c tokens alone, and leaves out of the windows before them what
        nothing depends on: the layers above the last memory layer, and in that one all but keys and values.
        """
        head = max(input_ids.shape[1] - (last_context_length or self.config.last_context_length), 0)
        hidden = []
        if not every_token:
            self.remember(input_ids[:, :head], state)
        elif head:
            for piece in torch.split(input_ids[:, :head], self.window, dim=1):
                hidden.append(self._read_window(piece, state))
                state.flush()
        hidden.append(self._read_window(input_ids[:, head:], state))
        return torch.cat(hidden, dim=1)

    def remember(self, input_ids: torch.Tensor, state: LongLlamaState) -> None:
        """Read ids (batch, n) into a state with an empty local cache, for what they leave in memory alone."""
        for piece in torch.split(input_ids, self.window, dim=1) if input_ids.numel() and self.config.mem_layers else ():
            self._remember_window(piece, state)
            state.flush()

    def append(self, input_ids: torch.Tensor, state: LongLlamaState) -> torch.Tensor:
        """Continue a state with ids (batch, n), n >= 1; returns final hidden states (batch, n, hidden).

        The local cache overflows where it would if the tokens came one by one, so that scoring many tokens at once
        says what generating them would.
        """
        hidden, start = [], 0
        while start < input_ids.shape[1]:
            if state.local >= self.window:
                state.flush()
            piece = input_ids[:, start : start + self.window - state.local]
            hidden.append(self._read_window(piece, state))
            start += piece.shape[1]
        return torch.cat(hidden, dim=1)

    def forward(self, input_ids: torch.Tensor, last_context_length: int | None = None) -> torch.Tensor:
        """Logits (batch, n, vocabulary) of every token of a prompt."""
        return output_head(self)(self.read(input_ids, self.new_state(), last_context_length))

    def _embed(self, ids: torch.Tensor, state: LongLlamaState) -> tuple[torch.Tensor, Rotation]:
        """Embeddings, and the rotation of their places in the local cache."""
        hidden = self.decoder.embed_tokens(ids)
        positions = torch.arange(state.local, state.local + ids.shape[1], device=ids.device)
        return hidden, rotations(self.decoder, hidden, positions[None]).far

    def _read_window(self, ids: torch.Tensor, state: LongLlamaState) -> torch.Tensor:
        normed = self._run(ids, state, len(self.decoder.layers))
        state.local += ids.shape[1]
        return normed

    def _remember_window(self, ids: torch.Tensor, state: LongLlamaState) -> None:
        last = max(self.config.mem_layers)
        normed = self._run(ids, state, last)
        cache = state.layers[last]
        assert isinstance(cache, MemoryLayer)
        cache.remember(*remembered(self.decoder.layers[last].self_attn, normed))

    def _run(self, ids: torch.Tensor, state: LongLlamaState, count: int) -> torch.Tensor:
        """States (batch, tokens, hidden) after the first `count` layers and the norm that follows them."""
        hidden, rotation = self._embed(ids, state)
        layers, norms = self.decoder.layers, input_norms(self.decoder)
        normed = rms_norm(norms[0], hidden)
        for layer, cache, follower in zip(layers[:count], state.layers, norms[1:], strict=False):
            attention = layer.self_attn
            made = project(attention, normed, rotation, raw=isinstance(cache, MemoryLayer))
            keys, values = cache.append(made.raw, made.keys, made.values)
            out = attend(made.queries, keys, values, attention.scaling, self.config.mem_attention_grouping)
            hidden, normed = finish_and_norm(layer, hidden, attention.o_proj(merged(out)), follower)
        return normed


def attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    grouping: tuple[int, int] | list[int] | None = None,
) -> torch.Tensor:
    """Causal attention of queries (batch, heads, n, d) that are the last n of the keys (batch, kv heads, m, d).

    grouping: heads and queries handled at a time (`mem_attention_grouping`), which bounds the memory of kernels
    that hold scores or masks; the result is the same. Heads that share keys stay together.
    """
    if grouping is None:
        return attend_newest(q, keys, values, scale)
    shared = q.shape[1] // keys.shape[1]
    heads, tokens = -(-grouping[0] // shared) * shared, grouping[1]
    before = keys.shape[2] - q.shape[2]
    out = torch.empty_like(q)
    for h in range(0, q.shape[1], heads):
        for t in range(0, q.shape[2], tokens):
            part = q[:, h : h + heads, t : t + tokens]
            seen, own = slice(before + t + part.shape[2]), slice(h // shared, (h + heads) // shared)
            out[:, h : h + heads, t : t + tokens] = attend_last(part, keys[:, own, seen], values[:, own, seen], scale)
    return out


def check_config(config: LongLlamaConfig) -> None:
    """Raises UserError for forms that no released checkpoint has and that are not implemented."""
    if not config.mem_positionals:
        raise UnfitError(
            "LongLLaMA without positions in its memory layers is not supported: set mem_positionals to true."
        )
    if any(not 0 <= layer < config.num_hidden_layers for layer in config.mem_layers):
        raise UnfitError(
            f"mem_layers {list(config.mem_layers)} lie beyond the {config.num_hidden_layers} layers: correct them."
        )
