"""Arithmetic and memory of CEPE's cross-attention, by formula."""

from __future__ import annotations

from baselines.cepe.modeling import ALIGNED_TOKENS, CEPEForCausalLM, CrossAttention, CrossAttentionLayer


class CrossCost:
    """Cross-attention to `context` encoded tokens, in all layers.

    once: operations when the context is encoded. kept_bytes: held; read_bytes: read for every new token.
    """

    def __init__(self, model: CEPEForCausalLM, context: int, keep_kv: bool) -> None:
        layers = [x.cross_attn for x in model.model.layers if isinstance(x, CrossAttentionLayer)]
        self.layers, self.context, self.keep_kv = len(layers) if context else 0, context, keep_kv
        self.attention: CrossAttention = layers[0]
        itemsize = model.dtype.itemsize
        self._projection = 4.0 * context * self.attention.k_proj.weight.numel()
        kv = 2 * context * self.attention.k_proj.out_features * itemsize * self.layers
        states = -(-context // ALIGNED_TOKENS) * ALIGNED_TOKENS * self.attention.encoder_hidden * itemsize
        self.once = self._projection * self.layers if keep_kv else 0.0
        self.kept_bytes = kv if keep_kv else states
        self.read_bytes = kv if keep_kv else states * self.layers

    def forward(self, tokens: int) -> float:
        """Operations of one decoder forward of `tokens` tokens."""
        if not tokens:
            return 0.0
        a = self.attention
        linear = 4.0 * tokens * a.q_proj.weight.numel()
        if self.keep_kv or not a.absorbs(tokens):
            project = 0.0 if self.keep_kv else self._projection
            return self.layers * (linear + project + 4.0 * tokens * self.context * a.heads * a.head_dim)
        return self.layers * (linear + 4.0 * tokens * a.heads * a.encoder_hidden * (self.context + a.head_dim))
