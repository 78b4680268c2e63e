"""SharedLLM: the lower model, which reads a context and leaves compressed entries of it for the upper one."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from sharedllm.compressor import BLOCK_BYTES, Compressor, LowerModel, RunLayer
from sharedllm.configuration import SharedLLMConfig
from sharedllm.context import CompressedContext
from sharedllm.errors import UserError
from sharedllm.layout import Layout
from sharedllm.nn.layers import DecoderLayer, decoder_of, embed
from sharedllm.nn.rotation import Rotations, rotations
from sharedllm.search import Question
from sharedllm.whole_tree import TreeReader, WholeTrees


class Reading:
    """What `SharedLLMForCausalLM` does with its lower layers. offload_context: see there."""

    config: SharedLLMConfig
    base: PreTrainedModel
    lower: nn.ModuleList
    training: bool
    offload_context: bool = False
    _lower_layer: RunLayer

    @property
    def lower_layers(self) -> list[DecoderLayer]:
        """The decoder layers that compress: the base's own bottom layers unless own_lower."""
        if self.config.own_lower:
            return [cast(DecoderLayer, layer) for layer in self.lower]
        return list(decoder_of(self.base).layers[: self.config.lower_layers])

    def launches_alike(self, chunks: int, searches: bool) -> bool:
        """Whether every read of one row of so many chunks, all of which count, takes the same operations, and none that
        waits for a value on the device: what a CUDA graph asks for. searches: with a question that is searched for."""
        config = self.config
        if self.offload_context or self.training:
            return False
        if searches and (config.whole_trees or not config.equal_nodes):
            return False
        budget = config.leaf_budget if searches else config.recent_budget
        if budget is None or budget >= chunks:
            return True
        return chunks <= self._lower_model().block(config.chunk_size)  # those of several blocks compete, see `Contest`

    def compress(
        self,
        context_ids: torch.Tensor,
        num_chunks: torch.Tensor | None = None,
        question: Question | None = None,
        chunk_index: torch.Tensor | None = None,
        trees: WholeTrees | None = None,
    ) -> CompressedContext:
        """Read a context with the lower model.

        context_ids: (B, chunks, chunk_size). num_chunks: (B,) chunks of each row that count, all by default.
        chunk_index: (B, chunks) positions of the chunks, increasing, where they are not 0, 1, 2, ...
        question: see `sharedllm.search.ask`; None for language modelling and for the policy `right`. trees: what
        `read_trees` made of the same chunks, which a question only searches.

        Raises UserError for chunks of another size.
        """
        check_chunks(context_ids, self.config.chunk_size)
        batch = len(context_ids)
        real, picked = _real_chunks(context_ids, num_chunks)
        ragged = len(picked) < real.numel()
        # keys and values are constants to the upper model while both share their layers (as in the paper's
        # training, where those layers are frozen); a lower model of its own learns through them
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.own_lower):
            questions = 0
            if question is not None:
                questions = len(question.states) // batch
                question = replace(question, row=question.row[real] if ragged else question.row.flatten())
            if (
                trees is None
                and question is not None
                and self.config.whole_trees
                and not (self.training or torch.is_grad_enabled())
            ):
                trees = self.read_trees(context_ids, num_chunks)
            if trees is None or question is None:
                blocks = Compressor(self._lower_model()).blocks(picked, question, self._shifts())
            elif trees.chunks != len(picked):
                raise ValueError(f"The trees have {trees.chunks} chunks, the context {len(picked)}.")
            else:
                blocks = trees.blocks(question, self._lower_model().block(self.config.chunk_size))
            layers = [decoder_of(self.base).layers[i] for i in self.config.injection_layers]
            offload = self.offload_context
            layout = Layout(self.config, self._rope, layers, real, ragged, chunk_index, questions, offload)
            for entries in blocks:
                layout.add(entries)
                del entries  # before the next block is computed
            return layout.context()

    @torch.no_grad()
    def read_trees(self, context_ids: torch.Tensor, num_chunks: torch.Tensor | None = None) -> WholeTrees:
        """Encode every node of a context's trees, for many questions about it. Inputs as `compress`.

        Raises UserError where the settings have no trees of equal halves, or nothing is searched, and for chunks of
        another size.
        """
        check_chunks(context_ids, self.config.chunk_size)
        if not self.config.whole_trees:
            raise UserError("Whole trees are for nodes 'all' and a policy that searches: set both.")
        return TreeReader(self._lower_model(), self.offload_context)(_real_chunks(context_ids, num_chunks)[1])

    def _lower_model(self) -> LowerModel:
        # small bases are trained in larger blocks: there the host, which issues the work, is the bottleneck
        block_bytes = BLOCK_BYTES * (4 if self.training else 1)
        norm = decoder_of(self.base).norm
        return LowerModel(self.config, self.lower_layers, self._embed, self._rope, norm, self._lower_layer, block_bytes)

    def _shifts(self) -> list[float]:
        """Split noise: one draw a level for all chunks of the batch; none outside training."""
        if not (self.training and self.config.split_noise):
            return [0.0] * self.config.height
        return (torch.randn(self.config.height) * self.config.split_noise).clamp(-0.45, 0.45).tolist()

    def _rope(self, x: torch.Tensor, positions: torch.Tensor) -> Rotations:
        return rotations(decoder_of(self.base), x, positions)

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return embed(decoder_of(self.base), ids)


def check_chunks(context_ids: torch.Tensor, chunk_size: int) -> None:
    """Raises UserError for a context that is not (B, chunks, chunk_size)."""
    if context_ids.ndim != 3 or context_ids.shape[2] != chunk_size:
        raise UserError(
            f"context_ids has the shape {tuple(context_ids.shape)}, not (rows, chunks, {chunk_size}): cut the context "
            "into chunks of the model's chunk_size, and give what is left as running text."
        )


def _real_chunks(context_ids: torch.Tensor, num_chunks: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Which chunks count, (B, chunks), and those in a row, (chunks, chunk_size)."""
    batch, chunks, _ = context_ids.shape
    if num_chunks is None or not bool((num_chunks < chunks).any()):
        return torch.ones(batch, chunks, dtype=torch.bool, device=context_ids.device), context_ids.flatten(0, 1)
    real = torch.arange(chunks, device=context_ids.device) < num_chunks[:, None]
    return real, context_ids[real]
