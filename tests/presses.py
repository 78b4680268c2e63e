"""The presses of kvpress that can take part, each with settings under which a context of 45 tokens is compressed."""

from __future__ import annotations

from typing import Any

PRESSES: dict[str, dict[str, Any]] = {
    "snapkv": {"window_size": 8},
    "pyramidkv": {"window_size": 4, "beta": 4},
    "tova": {},
    "knorm": {},
    "keydiff": {},
    "expectedattention": {"n_sink": 2, "n_future_positions": 32},
    "streamingllm": {"n_sink": 2},
    "lagkv": {"n_sink": 2, "lag_size": 8},
    "cur": {"num_sinks": 2, "local_window_size": 8},
    "cap": {"n_sink": 2, "n_future_positions": 32},
    "compactor": {"sink_size_start": 2, "sink_size_end": 2, "chunk_size": 16, "sketch_dimension": 4},
    "leveragescore": {"sketch_dimension": 4},
    "noncausalattn": {"chunk_size": 16},
    "observedattention": {},
    "random": {},
    "think": {"window_size": 8, "key_channel_compression_ratio": 0.5},
    "simlayerkv": {"n_recent": 8, "n_initial": 2, "lazy_threshold": 0.2},
    "kvzip": {"n_sink": 2, "chunk_size": 20},
    "kvgrad": {"n_sink": 2, "chunk_size": 20},
    "kvcompose": {},
    "adakv:snapkv": {"window_size": 8},
    "criticaladakv:knorm": {},
    "dms:knorm": {"threshold": -2.5, "sliding_window_size": 8},
    "criticalkv:snapkv": {"window_size": 8},
    "block:keydiff": {"block_size": 8},
    "chunk:tova": {"chunk_length": 16},
    "chunkkv:snapkv": {"window_size": 8, "chunk_length": 5},
    "entropygatedchunkkv:snapkv": {"window_size": 8, "chunk_length": 6},
    "keyrerotation:knorm": {},
    "merging:knorm": {},
    "perlayercompression:knorm": {"compression_ratios": [0.7, 0.3]},
    "snapkv+think": {"window_size": 8, "key_channel_compression_ratio": 0.5},
}
NOTHING: dict[str, dict[str, Any]] = {
    "think": {"key_channel_compression_ratio": 0},
    "simlayerkv": {"lazy_threshold": 1},
    "perlayercompression:knorm": {"compression_ratios": [0, 0]},
    "dms:knorm": {"threshold": -1e9},
    "snapkv+think": {"ratio": 0, "key_channel_compression_ratio": 0},
}
"""Settings under which a press removes nothing, where it is not ratio 0."""
WHOLE = [
    name for name in PRESSES if name.startswith(("kvcompose", "pyramidkv", "perlayercompression", "keyrerotation"))
]
"""Those that compress all layers or none: they do not fit a base with sliding windows."""
