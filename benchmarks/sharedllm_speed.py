"""Prefill and decoding of SharedLLM against the floor of this device, with random weights of a real shape.

    python benchmarks/sharedllm_speed.py --lengths 8192 32768 131072 --output results/measured/speed.json

The floor of a prefill is its FLOPs (sharedllm.cost) over the rate of an 8192^3 matrix product measured in the same run;
the floor of a decoding step is weights and state over the rate of a device-to-device copy. Dense attention of the same
base is measured beside it if it fits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM
from sharedllm.cost import arithmetic

SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
    "tiny": {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8},
}
METHODS: dict[str, dict[str, Any]] = {
    "language modelling": {"policy": "right"},
    "last_token": {"policy": "last_token"},
    "maxsim": {"policy": "maxsim"},
}


def sync() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a call after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        sync()
        begin = time.perf_counter()
        run()
        sync()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def rates(device: str, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of a large matrix product on random data and bytes/s of a large copy, read plus written."""
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = 2 * size**3 / seconds(lambda: a @ b, 10)
    source = torch.empty(2**31 if device == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / seconds(lambda: target.copy_(source), 10)
    return {"matmul_flops": product, "copy_bytes": copy}


@torch.inference_mode()
def measure(
    model: SharedLLMForCausalLM, length: int, running: int, repeats: int, speed: dict[str, float]
) -> dict[str, Any]:
    """One length: prefill seconds and share of the floor, seconds per token, peak memory."""
    config = model.config
    chunks = (length - running) // config.chunk_size
    vocabulary = config.base_config.vocab_size
    context = torch.randint(vocabulary, (1, chunks, config.chunk_size), device=model.device)
    text = torch.randint(vocabulary, (1, running), device=model.device)
    question = None if config.policy == "right" else 32
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def prefill() -> Any:
        return model(text, context_ids=context, query_length=question, logits_to_keep=1, use_cache=True)

    took = seconds(prefill, repeats)
    flop = arithmetic(config, chunks, running, question or 0, next(model.parameters()).element_size())
    out = prefill()
    token = text[:, -1:]
    steps = [
        seconds(lambda: model(token, context=out.context, past_key_values=out.past_key_values), 1) for _ in range(8)
    ]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "tokens": length,
        "prefill_s": round(took, 4),
        "prefill_flops": flop.prefill,
        "floor_share": round(flop.prefill / speed["matmul_flops"] / took, 3),
        "search_flop_share": round(flop.search / (flop.lower + flop.upper), 3),
        "ms_per_token": round(1000 * statistics.median(steps), 2),
        "context_bytes": out.context.nbytes,
        "peak_gib": round(peak / 2**30, 2),
    }


@torch.inference_mode()
def dense(base: Any, length: int, repeats: int) -> dict[str, Any]:
    """Prefill of the base itself over the whole length, or `oom`."""
    text = torch.randint(base.config.vocab_size, (1, length), device=base.device)
    try:
        took = seconds(lambda: base(text, logits_to_keep=1, use_cache=True).logits, repeats)
    except torch.OutOfMemoryError:
        return {"tokens": length, "status": "oom"}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {"tokens": length, "prefill_s": round(took, 4)}


def main() -> None:
    """Measure every method at every length; print a line for each and write all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--running", type=int, default=2048)
    parser.add_argument("--lower-layers", type=int, default=4)
    parser.add_argument("--ratios", type=float, nargs="+", default=[16, 8, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-dense", action="store_true")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    speed = rates(device, dtype)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPES[chosen.shape])).eval()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "rates": speed,
        "settings": vars(chosen) | {"output": None},
    }
    print(f"{name}: {speed['matmul_flops'] / 1e12:.0f} TFLOP/s, copy {speed['copy_bytes'] / 1e12:.2f} TB/s", flush=True)
    for method, settings in METHODS.items():
        config = SharedLLMConfig(
            base_config=base.config, lower_layers=chosen.lower_layers, ratios=chosen.ratios, **settings
        )
        model = SharedLLMForCausalLM.from_base(base, config).eval()
        result[method] = []
        for length in chosen.lengths:
            row = measure(model, length, chosen.running, chosen.repeats, speed)
            result[method].append(row)
            print(f"{method:20s} {json.dumps(row)}", flush=True)
    if not chosen.no_dense:
        result["dense"] = [dense(base, length, chosen.repeats) for length in chosen.lengths]
        print(f"{'dense':20s} {json.dumps(result['dense'])}", flush=True)
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
