"""What every method computes, launches, moves and allocates on a small shape, against recorded counts.

    python benchmarks/counts.py              exit code 1 where a count rose by more than 1 %
    python benchmarks/counts.py --record     write benchmarks/counts.json

Counts are exact and the same on every machine, so that they catch in a test what a time on a busy machine hides: a
product computed twice, a copy of the state at every token, an operation per layer more. They are those of the plain
path on a CPU. Launches, bytes and allocations depend on torch, whose version stands in the file; FLOPs do not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from evals import registry
from evals.methods.base import LongContextModel, Query, Runtime
from evals.methods.presets import Preset, Weights

FILE = Path(__file__).parent / "counts.json"
TOLERANCE = 0.01
CONTEXT, QUESTION, TOKENS = 1024, 16, 8
SHAPE = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
ENCODER = {**SHAPE, "hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 128}
CEPE = {
    **SHAPE,
    "do_cross_attention": True,
    "num_cross_attn_layers": 4,
    "num_cross_attn_hidden_states": 1,
    "encoder_is_model": False,
    "encoder_hidden_size": 32,
    "encoder_config": {**ENCODER, "is_decoder": False},
}
METHODS: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "full": ("full", {}, SHAPE),
    "truncated": ("truncated", {"window": 256}, SHAPE),
    "yarn": ("yarn", {"factor": 4}, SHAPE),
    "streaming_llm": ("streaming_llm", {"sinks": 4, "recent": 252, "chunk": 128}, SHAPE),
    "sharedllm": ("sharedllm", {"chunk_size": 128, "ratios": [16, 8, 4], "lower_layers": 2}, SHAPE),
    "sharedllm maxsim": (
        "sharedllm",
        {"chunk_size": 128, "ratios": [16, 8, 4], "lower_layers": 2, "policy": "maxsim", "injection": "top"},
        SHAPE,
    ),
    "cepe": ("cepe", {"window": 256, "chunk": 64}, CEPE),
    "longllama": (
        "longllama",
        {"last_context_length": 128},
        {**SHAPE, "mem_layers": [1, 2], "max_position_embeddings": 256},
    ),
    "activation_beacon": ("activation_beacon", {}, {**SHAPE, "beacon_window": 128, "beacon_ratio": [4]}),
}
"""By name: method, settings, shape."""


class Counting(TorchDispatchMode):
    """Counts the operations that are no views: how many, the bytes that they read and write, those of new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = self.allocated = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function.is_view:
            return found
        taken = _storages((args, kwargs))
        made = {place: size for place, size in _storages(found).items() if place not in taken}
        self.launches += 1
        self.bytes += sum(taken.values()) + sum(made.values())
        self.allocated += sum(made.values())
        return found


def _storages(tree: Any) -> dict[int, int]:
    """Bytes that the tensors of an argument tree name, by storage; a broadcast or repeated element counts once."""
    sizes: dict[int, int] = {}
    for x in tree_leaves(tree):
        if isinstance(x, torch.Tensor):
            place = x.untyped_storage().data_ptr()
            named = min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
            sizes[place] = max(sizes.get(place, 0), named)
    return sizes


def count(call: Callable[[], object]) -> dict[str, int]:
    """flops, launches, bytes and allocated bytes of a call."""
    with Counting() as counting:
        call()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        call()
    return {
        "flops": flops.get_total_flops(),
        "launches": counting.launches,
        "bytes": counting.bytes,
        "allocated": counting.allocated,
    }


def load(name: str) -> LongContextModel:
    """A method of `METHODS` on random weights."""
    method, settings, shape = METHODS[name]
    preset = Preset(
        name="counted",
        method=method,
        description="-",
        weights=Weights(source="none"),
        shape=dict(shape),
        settings=dict(settings),
    )
    torch.manual_seed(0)
    return registry.method(method).load(preset, Runtime(random_weights=True))


def measure(name: str) -> dict[str, dict[str, int]]:
    """Counts of a method by stage: the first token of a fresh request, that of another question on the same context,
    and each token after it."""
    model = load(name)
    context = [3 + i * 7 % 500 for i in range(CONTEXT)]
    query, other = (
        Query([start + i * step for i in range(QUESTION)], (0, QUESTION)) for start, step in ((5, 1), (9, 11))
    )
    model.prefill(context).generate(query, 1 + TOKENS)  # buffers and caches are there
    request = count(lambda: model.prefill(context).generate(query, 1))
    question = _another(model, context, query, other)
    session = model.prefill(context)
    session.generate(query, 1)
    again = count(lambda: session.generate(query, 1))
    more = count(lambda: session.generate(query, 1 + TOKENS))
    return {
        "request": request,
        "question": question,
        "token": {key: (more[key] - again[key]) // TOKENS for key in more},
    }


def _another(model: LongContextModel, context: list[int], query: Query, other: Query) -> dict[str, int]:
    """Counts of a question to a context that has answered another one; each of the two counters gets a session."""
    sessions = []
    for _ in range(2):
        sessions.append(model.prefill(context))
        sessions[-1].generate(query, 1)
    return count(lambda: sessions.pop().generate(other, 1))


def risen(
    now: Mapping[str, Mapping[str, Mapping[str, int]]], then: Mapping[str, Any], same_torch: bool
) -> list[tuple[str, str, str, int, int]]:
    """Method, stage, count, recorded and new value where a count is above the recorded one; all of them for FLOPs."""
    return [
        (name, stage, key, then[name][stage][key], value)
        for name, stages in now.items()
        for stage, counts in stages.items()
        for key, value in counts.items()
        if (same_torch or key == "flops") and value > then[name][stage][key] * (1 + TOLERANCE)
    ]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--method", choices=METHODS, action="append", help="one of them; repeat")
    options = parser.parse_args()
    version = torch.__version__.split("+")[0]
    now = {name: measure(name) for name in options.method or METHODS}
    for name, stages in now.items():
        for stage, counts in stages.items():
            print(f"{name:20}{stage:10}" + "  ".join(f"{key} {value:,}" for key, value in counts.items()))
    if options.record:
        FILE.write_text(json.dumps({"torch": version, "counts": now}, indent=1) + "\n", encoding="utf-8")
        return
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    more = risen(now, stored["counts"], stored["torch"] == version)
    for name, stage, key, was, value in more:
        print(f"{name}, {stage}: {key} rose from {was:,} to {value:,}", file=sys.stderr)
    sys.exit(bool(more))


if __name__ == "__main__":
    main()
