"""Configuration of SharedLLM: the base model's own config and what self-injection adds to it."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from sharedllm.errors import UserError
from sharedllm.nn.base_config import sliding_window
from sharedllm.nn.recipes import RECIPES
from sharedllm.registration import bring_model
from sharedllm.settings import DEFAULTS, SETTINGS, MethodFields, check_settings, check_together


class SharedLLMConfig(MethodFields, PreTrainedConfig):  # type: ignore[no-untyped-call]  # transformers' subclass hook
    """Settings of the method around `base_config`. The settings, their ranges and defaults: `MethodFields`."""

    model_type = "sharedllm"
    sub_configs = {"base_config": AutoConfig}  # noqa: RUF012 - transformers reads it as a class attribute

    def __init__(self, base_config: PreTrainedConfig | dict[str, Any] | None = None, **settings: Any) -> None:
        """base_config: config of the base LLM (`RECIPES`), as an object or a dict with `model_type`.

        settings: fields of `MethodFields`; what is left is transformers' (`dtype`, `bos_token_id`, ...). Raises
        UserError that names the field for a value of the wrong type or range, or one that does not fit the others.
        """
        if base_config is None:
            base_config = AutoConfig.for_model("llama")
        elif isinstance(base_config, dict) and "model_type" in base_config:
            base_config = AutoConfig.for_model(**base_config)
        elif not isinstance(base_config, PreTrainedConfig):
            raise UserError(f"base_config is {base_config!r}: give a config, or a dict with model_type.")
        method = {name: settings.pop(name, DEFAULTS[name]) for name in SETTINGS}
        check_settings(method)
        for name, value in method.items():
            setattr(self, name, list(value) if isinstance(value, list | tuple) else value)
        self.base_config = base_config
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            settings.setdefault(token, getattr(base_config, token, None))
        # transformers hands a config's attention kernel down to its parts, None included: keep the base's
        settings.setdefault("attn_implementation", base_config._attn_implementation)
        settings.setdefault("tie_word_embeddings", base_config.tie_word_embeddings)
        super().__init__(**settings)
        self._check_base()
        bring_model()

    def _check_base(self) -> None:
        """What the settings cannot say by themselves: whether they fit the base's family and sizes."""
        if self.base_config.model_type not in RECIPES:
            raise UserError(f"The base is a {self.base_config.model_type}: SharedLLM knows {', '.join(RECIPES)}.")
        layers = self.base_config.num_hidden_layers
        if self.lower_layers > layers:
            raise UserError(f"lower_layers is {self.lower_layers}: the base model has 1 to {layers} layers to share.")
        check_together(self.method_settings())
        windows = [sliding_window(self.base_config, i) for i in range(self.lower_layers)]
        if any(window is not None and window < self.chunk_size for window in windows):
            raise UserError(
                f"chunk_size {self.chunk_size} exceeds the base's sliding window: use {min(filter(None, windows))}."
            )

    @property
    def height(self) -> int:
        """Levels of the context tree."""
        return len(self.ratios)

    @property
    def whole_trees(self) -> bool:
        """Whether all nodes are encoded: `nodes` where it takes effect, with a policy that searches."""
        return self.nodes == "all" and self.policy != "right"

    @property
    def equal_nodes(self) -> bool:
        """Whether all nodes of a level are equally long, whatever a question chooses."""
        halvings = self.height - (self.leaf_overlap is not None)
        return self.policy == "right" or self.chunk_size % 2**halvings == 0

    @property
    def leaf_budget(self) -> int | None:
        """`fine_chunks` where it takes effect: with `maxsim` and a level above the leaves."""
        return self.fine_chunks if self.policy == "maxsim" and self.height > 1 else None

    @property
    def recent_budget(self) -> int | None:
        """`fine_recent` where it takes effect: with a level above the leaves."""
        return self.fine_recent if self.height > 1 else None

    @property
    def injection_layers(self) -> list[int]:
        """Upper layers that read the context; the i-th reads the i-th lower layer from injection_start on."""
        layers, lower = self.base_config.num_hidden_layers, self.lower_layers
        if self.injection == "bottom":
            return list(range(self.injection_start, lower))
        if self.injection == "top":
            return list(range(layers - lower, layers))
        return [i * layers // lower for i in range(lower)]

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The base config: caches and generation read layer counts and head sizes from it."""
        return self.base_config

    def method_settings(self) -> dict[str, Any]:
        """The fields that are the method's, not the base model's."""
        return {name: getattr(self, name) for name in SETTINGS}


AutoConfig.register(SharedLLMConfig.model_type, SharedLLMConfig, exist_ok=True)
