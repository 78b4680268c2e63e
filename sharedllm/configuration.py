"""Configuration of SharedLLM: the base model's own config and what self-injection adds to it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from sharedllm.nn.masks import sliding_window

POLICIES = ("right", "last_token", "maxsim")
INJECTIONS = ("bottom", "top", "interleaved")
KEY_POSITIONS = ("chunk", "node", "node+chunk")
QUERY_POSITIONS = ("n", "n+1")
SAMPLINGS = ("equidistant", "strided")
BASES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are norm, attention, norm, gated MLP with plain residuals, as the method is written."""


class SharedLLMConfig(PreTrainedConfig):
    """Settings of the method (paper sections 3.1 to 3.3) around `base_config`.

    Raises ValueError that names the field for a value of the wrong type or one that does not fit the others.

    Args:
        base_config: config of the base LLM (Llama, Mistral, Qwen2, Qwen3, ...), as an object or a dict with
            `model_type`.
        chunk_size: tokens of context that one tree covers (paper: 1024 in language modelling, 512 in SFT).
        ratios: down-sampling ratio of every tree level, coarse to fine; their number is the tree's height h
            (paper: 16, 8, 4). They need not halve: 64, 32, 16, 1 keeps the leaves whole.
        lower_layers: M, layers of the lower model and number of injection layers (paper: 4 LM, 16 SFT).
        injection: where the upper model gets its M cross-attentions: the bottom (paper), the top, or spread.
        injection_start: with injection at the bottom, how many of the bottom layers get none (paper: 0), though the
            lower model runs through them: M - injection_start cross-attentions, each reads the lower layer of its own.
        policy: how a query selects the half to expand. `last_token` is the paper's cosine between last tokens;
            `maxsim` sums over question tokens the best cosine in the half; `right` never searches. Without a
            query every policy expands the right half.
        key_positions: RoPE position of compressed keys: chunk index (paper eq. 2), position inside the node
            (the released code's effective rule), or their sum (what the released code means to do).
        query_position: RoPE position of all cross-attention queries: n chunks (paper) or n + 1 (released code).
        sampling: `equidistant` keeps round(length / ratio) tokens at fractional strides; `strided` is the
            released rule, every floor(ratio)-th token and an odd leaf pair shortened by a token.
        leaf_overlap: None keeps the two leaves as nodes of their own (paper). A number keeps them as ONE node,
            widened by that many tokens on either side: facts that lie across a border between leaves, or between
            the leaves and a coarse node, survive.
        fine_chunks: chunks of a context, for each question that is asked in its running text, whose leaves are kept
            at their own ratio after a search with `maxsim`: those whose leaves match their question best. Leaves of
            the others get the ratio of the level above. None keeps all (paper), as do language modelling, which has no
            question, and the other policies, which do not compare leaves.
        split_noise: standard deviation of the split point as a share of the node's length, training only
            (paper: 1/5 LM, 1/10 SFT; 0 switches it off).
        own_lower: the lower model is a trainable copy instead of the upper model's bottom layers.
    """

    model_type = "sharedllm"
    sub_configs = {"base_config": AutoConfig}  # noqa: RUF012 - transformers reads it as a class attribute

    def __init__(
        self,
        base_config: PreTrainedConfig | dict[str, Any] | None = None,
        chunk_size: int = 1024,
        ratios: Sequence[float] = (16, 8, 4),
        lower_layers: int = 4,
        injection: str = "bottom",
        injection_start: int = 0,
        policy: str = "last_token",
        key_positions: str = "chunk",
        query_position: str = "n",
        sampling: str = "equidistant",
        leaf_overlap: int | None = None,
        fine_chunks: int | None = None,
        split_noise: float = 0.0,
        own_lower: bool = False,
        **kwargs: Any,
    ) -> None:
        if base_config is None:
            base_config = AutoConfig.for_model("llama")
        elif isinstance(base_config, dict) and "model_type" in base_config:
            base_config = AutoConfig.for_model(**base_config)
        elif not isinstance(base_config, PreTrainedConfig):
            raise ValueError(f"base_config is {base_config!r}: give a config, or a dict with model_type.")
        self.base_config = base_config
        self.chunk_size = chunk_size
        self.ratios = _ratios(ratios)
        self.lower_layers = lower_layers
        self.injection = injection
        self.injection_start = injection_start
        self.policy = policy
        self.key_positions = key_positions
        self.query_position = query_position
        self.sampling = sampling
        self.leaf_overlap = leaf_overlap
        self.fine_chunks = fine_chunks
        self.split_noise = split_noise
        self.own_lower = own_lower
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(token, getattr(base_config, token, None))
        # transformers hands a config's attention kernel down to its parts, None included: keep the base's
        kwargs.setdefault("attn_implementation", base_config._attn_implementation)
        kwargs.setdefault("tie_word_embeddings", base_config.tie_word_embeddings)
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        for field, kind, wanted in (
            ("chunk_size", int, "a whole number"),
            ("lower_layers", int, "a whole number"),
            ("injection_start", int, "a whole number"),
            ("leaf_overlap", int | None, "a whole number, or null for two leaves"),
            ("fine_chunks", int | None, "a whole number, or null for all chunks"),
            ("split_noise", int | float, "a number"),
            ("own_lower", bool, "true or false"),
        ):
            if not _is(getattr(self, field), kind):
                raise ValueError(f"{field} is {getattr(self, field)!r}: give {wanted}.")
        for field, allowed in (
            ("policy", POLICIES),
            ("injection", INJECTIONS),
            ("key_positions", KEY_POSITIONS),
            ("query_position", QUERY_POSITIONS),
            ("sampling", SAMPLINGS),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is '{getattr(self, field)}': choose one of {', '.join(allowed)}.")
        if self.base_config.model_type not in BASES:
            raise ValueError(f"The base is a {self.base_config.model_type}: SharedLLM knows {', '.join(BASES)}.")
        layers = self.base_config.num_hidden_layers
        if not 1 <= self.lower_layers <= layers:
            raise ValueError(f"lower_layers is {self.lower_layers}: the base model has 1 to {layers} layers to share.")
        room = self.lower_layers if self.injection == "bottom" else 1
        if not 0 <= self.injection_start < room:
            raise ValueError(
                f"injection_start is {self.injection_start}: use 0 to {room - 1} with injection '{self.injection}'."
            )
        if self.chunk_size < 2**self.height:
            raise ValueError(
                f"chunk_size {self.chunk_size} cannot be halved {self.height} times: use at least {2**self.height}."
            )
        if self.fine_chunks is not None and self.fine_chunks < 1:
            raise ValueError(f"fine_chunks is {self.fine_chunks}: give 1 or more, or null for all chunks.")
        if self.leaf_overlap is not None and self.leaf_overlap < 0:
            raise ValueError(f"leaf_overlap is {self.leaf_overlap}: give 0 or more, or null for two leaves.")
        if not 0 <= self.split_noise < math.inf:
            raise ValueError(f"split_noise is {self.split_noise}: give 0 or more.")
        windows = [sliding_window(self.base_config, i) for i in range(self.lower_layers)]
        if any(window is not None and window < self.chunk_size for window in windows):
            raise ValueError(
                f"chunk_size {self.chunk_size} exceeds the base's sliding window: use {min(filter(None, windows))}."
            )

    @property
    def height(self) -> int:
        """Levels of the context tree."""
        return len(self.ratios)

    @property
    def leaf_budget(self) -> int | None:
        """`fine_chunks` where it acts: with `maxsim` and a level above the leaves."""
        return self.fine_chunks if self.policy == "maxsim" and self.height > 1 else None

    @property
    def injection_layers(self) -> list[int]:
        """Upper layers that carry a cross-attention; the i-th reads the i-th lower layer from injection_start on."""
        layers, lower = self.base_config.num_hidden_layers, self.lower_layers
        if self.injection == "bottom":
            return list(range(self.injection_start, lower))
        if self.injection == "top":
            return list(range(layers - lower, layers))
        return [i * layers // lower for i in range(lower)]

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The base config: caches and generation read layer counts and head sizes from it."""
        return self.base_config


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; True and False are whole numbers to Python, but not here."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _ratios(given: Any) -> list[float]:
    fits = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    if not fits or not all(_is(ratio, int | float) and 1 <= ratio < math.inf for ratio in given):
        raise ValueError(f"ratios are {given!r}: give a list with one ratio of at least 1 for every tree level.")
    return list(given)


SETTINGS = tuple(
    name
    for name in inspect.signature(SharedLLMConfig.__init__).parameters
    if name not in ("self", "base_config", "kwargs")
)


def method_settings(config: SharedLLMConfig) -> dict[str, Any]:
    """The fields of a config that are the method's, not the base model's."""
    return {name: getattr(config, name) for name in SETTINGS}
