"""Settings of a press: which one, how much it removes, and the arguments of its constructor."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from baselines.kvpress.names import canonical
from evals.methods.base import MOST, MethodSettings

Count = Annotated[int, Field(ge=0, le=MOST)] | None
Size = Annotated[int, Field(ge=1, le=MOST)] | None


class KVPressSettings(MethodSettings):
    """All but press and ratio are arguments of presses, under kvpress's names; null is kvpress's default."""

    press: str = Field(
        "snapkv",
        description="a press of kvpress (snapkv), one that wraps another (adakv:snapkv), or several (snapkv+think)",
    )
    ratio: float = Field(0.5, ge=0, lt=1, description="the share of keys and values that is removed")
    # windows and chunks of tokens
    window_size: Size = None
    kernel_size: Size = None
    n_sink: Count = None
    n_future_positions: Size = None
    chunk_length: Size = None
    low_entropy_chunk_length: Size = None
    chunk_size: Size = None
    block_size: Size = None
    lag_size: Size = None
    num_sinks: Count = None
    local_window_size: Size = None
    sliding_window_size: Size = None
    sink_size_start: Count = None
    sink_size_end: Count = None
    n_initial: Count = None
    n_recent: Size = None
    n_last: Size = None
    sketch_dimension: Size = None
    beta: Size = None
    keep_token_lower_bound: Count = None
    # how scores are made
    alpha_safeguard: float | None = None
    first_stage_ratio: float | None = None
    epsilon: float | None = None
    tau: float | None = None
    blending: float | None = None
    similarity_threshold: float | None = None
    merge_fraction: float | None = None
    use_covariance: bool | None = None
    use_vnorm: bool | None = None
    use_random_leverage: bool | None = None
    use_local_approximation: bool | None = None
    leverage_type: Literal["key", "value", "kv_avg", "kv_product"] | None = None
    cross_scoring: bool | None = None
    kvzip_plus_normalization: bool | None = None
    agg_task: Literal["max", "mean"] | None = None
    agg_group: Literal["max", "mean"] | None = None
    agg_head: Literal["max", "mean"] | None = None
    add_v_norm: bool | None = None
    add_mean_across_heads: bool | None = None
    stats_folder: str | None = None
    # how much is removed, where `ratio` does not say it
    layerwise: bool | None = None
    compression_ratios: list[float] | None = None
    key_channel_compression_ratio: float | None = None
    lazy_threshold: float | None = None
    threshold: float | None = None

    @field_validator("press")
    @classmethod
    def _known(cls, press: str) -> str:
        return canonical(press)

    @property
    def given_ratio(self) -> float | None:
        """The ratio, where somebody set it."""
        return self.ratio if "ratio" in self.model_fields_set else None

    @model_serializer(mode="wrap")
    def _where_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not set: a cell keeps its identity when another press brings another argument."""
        return {key: value for key, value in dump(self).items() if value is not None}

    @property
    def options(self) -> dict[str, object]:
        """The arguments of presses that are set."""
        return {name: value for name in OPTIONS if (value := getattr(self, name)) is not None}


OPTIONS = [name for name in KVPressSettings.model_fields if name not in ("press", "ratio")]
"""The arguments of presses; each goes to every press of the expression that has it."""
