"""Attention masks of the upper model: full or sliding, padded or not, in the form that the base's kernel wants."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from sharedllm.nn.base_config import sliding_window


class Masks:
    """Attention masks of the base's layers for one call: full or sliding, padded or not, in the kernel's form."""

    def __init__(
        self, config: PreTrainedConfig, padding: torch.Tensor | None, cache: Cache | None, queries: int
    ) -> None:
        self.config, self.padding, self.cache, self.queries = config, padding, cache, queries
        self.built: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def boolean(self, index: int, hidden: torch.Tensor) -> torch.Tensor | None:
        """True where a layer's query reads a key, whatever the kernel; None is causal. See `causal_mask`."""
        keys = self.queries + self._cached(index)
        padding = None if self.padding is None else self.padding[:, -keys:]
        return causal_mask(padding, self.queries, keys, sliding_window(self.config, index), hidden.device)

    def __call__(self, index: int, hidden: torch.Tensor) -> torch.Tensor | None:
        keys = self.queries + self._cached(index)
        padding = None if self.padding is None else self.padding[:, -keys:]
        kernel = self.config._attn_implementation
        if "flash" in kernel:  # masks by itself, bottom right; wants the padding as it is
            return padding
        window = sliding_window(self.config, index)
        if (keys, window) not in self.built:
            mask = causal_mask(padding, self.queries, keys, window, hidden.device, always=kernel == "eager")
            if mask is not None and kernel == "eager":
                mask = torch.zeros_like(mask, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
            self.built[keys, window] = mask
        return self.built[keys, window]

    def _cached(self, index: int) -> int:
        """Keys that the layer's cache will return before the new ones (fewer in a sliding window)."""
        if self.cache is None or len(self.cache.layers) <= index:
            return 0
        layer = self.cache.layers[index]
        if not isinstance(layer, CacheLayerMixin) or not layer.is_initialized or layer.keys is None:
            return 0
        return layer.keys.shape[-2]


def causal_mask(
    padding: torch.Tensor | None,
    queries: int,
    keys: int,
    window: int | None,
    device: torch.device,
    always: bool = False,
) -> torch.Tensor | None:
    """Boolean mask (B or 1, 1, queries, keys) for queries at the end of the keys.

    None where plain causal attention does it (`attend_last`); not if `always`. padding: (B, keys),
    nonzero for real tokens. window: sliding window of the base, if any.
    """
    padded = padding is not None and not bool(padding.all())
    windowed = window is not None and keys > window
    if not always and not windowed and not padded:
        return None
    query_at = torch.arange(keys - queries, keys, device=device)[:, None]
    key_at = torch.arange(keys, device=device)[None]
    mask = key_at <= query_at
    if window is not None:
        mask = mask & (key_at > query_at - window)
    mask = mask[None, None]
    if padded:
        assert padding is not None
        # a padded query reads itself, so that no row of the softmax is empty
        mask = mask & padding[:, None, None, :].bool() | (key_at == query_at)[None, None]
    return mask
