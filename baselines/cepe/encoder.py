"""CEPE's encoder over a text of any length, in blocks of few shapes that a GPU replays as CUDA graphs.

Its kernels are short, so that a host takes longer to launch them than a GPU to run them. Blocks are the same at every
length of the context: all texts share a handful of graphs. The decoder's read is launched: its shapes are those of the
context, and its kernels are long.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from baselines.cepe.modeling import ALIGNED_TOKENS, CEPEForCausalLM, EncodedContext
from evals.methods.decoding.prefill import read_both_ways
from evals.methods.decoding.replays import ReplayingReader
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.layers import decoder_of

FEW = 8
"""The last block is filled up to a multiple of so many chunks, which takes about a millisecond at the 7B shape."""
REST = "rest"
"""Key of a last chunk that is shorter than the others."""


class Encoder(ReplayingReader[CEPEForCausalLM, torch.Tensor]):
    """chunk: tokens of a chunk. block: chunks encoded at once. graphs: whether it may replay, where a GPU gains."""

    def __init__(self, model: CEPEForCausalLM, chunk: int, block: int, graphs: bool = True) -> None:
        may = graphs and supports_static_decoding(model, model.encoder.config)
        super().__init__(model, may, _need(model, chunk * block))
        self._chunk, self._block = chunk, block

    def __call__(self, ids: torch.Tensor) -> EncodedContext:
        """The states of `CEPEForCausalLM.encode_text`, of one text (1, tokens)."""
        if not self.replaying:
            return self._model.encode_text(ids, self._chunk, self._block)
        tokens, size = ids.shape[1], self._chunk
        count, rest = divmod(tokens, size)
        chunks = ids[0, : count * size].view(count, size)
        form = 1, tokens + -tokens % ALIGNED_TOKENS, self._model.config.encoder_hidden_size
        aligned = torch.empty(form, dtype=self._model.dtype, device=ids.device)
        aligned[:, tokens:] = 0
        for start in range(0, count, self._block):
            part = chunks[start : start + self._block]
            filled = min(len(part) + -len(part) % FEW, self._block)
            states = self._replays(filled, self._whole, F.pad(part, (0, 0, 0, filled - len(part))))
            made = states[: len(part)].flatten(0, 1)
            aligned[0, start * size : start * size + len(made)] = made
        if rest:
            last = F.pad(ids[:, count * size :], (0, size - rest))
            states = self._replays(REST, self._masked, last, torch.full((1,), rest, device=ids.device))
            aligned[:, tokens - rest : tokens] = states[:, :rest]
        return EncodedContext(aligned[:, :tokens], aligned=aligned)

    def _whole(self, ids: torch.Tensor) -> torch.Tensor:
        """Final states (chunks, chunk, hidden) of whole chunks (chunks, chunk)."""
        return read_both_ways(decoder_of(self._model.encoder), ids)

    def _masked(self, ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The same of a chunk (1, chunk) whose first `tokens` (1,) are real: no token attends to the others."""
        size = ids.shape[1]
        real = (torch.arange(size, device=ids.device) < tokens).expand(1, 1, size, size).contiguous()
        return read_both_ways(decoder_of(self._model.encoder), ids, real)


def _need(model: CEPEForCausalLM, tokens: int) -> int:
    """Bytes that encoding so many tokens takes at most: a layer's states and the two halves of its gate, as they are
    and multiplied."""
    config = model.encoder.config
    return tokens * (8 * config.hidden_size + 3 * config.intermediate_size) * model.dtype.itemsize
