"""LongLLaMA 3B's attention of one token: PyTorch's kernel and what stands around it, and the kernels of this project.

    python benchmarks/decode_attention.py [--search]

On a GPU, bfloat16: 23 layers with a local cache of 1088 tokens, and three memory layers with 32K or 128K tokens, in
one CUDA graph each, so that no cache of the GPU holds what the next layer reads. Printed are microseconds a layer and
the rate at which keys and values are read. --search also times other constants of `sharedllm.nn.flash_decoding` and
prints the fastest.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence

import torch

from evals.methods.decoding.static_attention import Reach, Tail
from sharedllm.nn import flash_decoding

HEADS, SIZE, NEW, PLACE = 32, 104, 64, 32
CASES = {"local, 1088": (1088, 23), "memory, 32K": (31744, 3), "memory, 128K": (130048, 3)}
"""Tokens held, and layers."""
CONSTANTS = ("PARTS", "LEAST", "TOKENS", "WARPS", "STAGES")
SEARCHED = ((16, 32, 64, 96), (64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
SHOWN, REPEATS = 5, 20


def microseconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Mean of replays of a graph."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    begin.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / repeats * 1000


def searched(run: Callable[[], object]) -> list[tuple[float, tuple[int, ...]]]:
    """Microseconds with all constants of `SEARCHED`, the fastest first."""
    kept = [getattr(flash_decoding, name) for name in CONSTANTS]
    found = []
    for chosen in itertools.product(*SEARCHED):
        for name, value in zip(CONSTANTS, chosen, strict=True):
            setattr(flash_decoding, name, value)
        found.append((microseconds(run, REPEATS // 2), chosen))
    for name, value in zip(CONSTANTS, kept, strict=True):
        setattr(flash_decoding, name, value)
    return sorted(found)


@torch.inference_mode()
def measure(search: bool) -> None:
    """Print all cases."""
    like = torch.empty(0, dtype=torch.bfloat16, device="cuda")

    def heads(tokens: int, count: int) -> torch.Tensor:
        return torch.randn(1, tokens, count, SIZE, dtype=like.dtype, device=like.device).transpose(1, 2)

    query, key, value = heads(1, 3 * HEADS).split(HEADS, 1)
    angle = torch.rand(1, 1, 1, SIZE // 2, device=like.device).repeat(1, 1, 1, 2)
    rotation, place = (angle.cos(), angle.sin()), torch.tensor([PLACE], device=like.device)
    for name, (tokens, count) in CASES.items():
        reach = Reach(tokens, NEW, None, like.device)
        tails = [Tail(reach, (heads(tokens, HEADS), heads(tokens, HEADS)), raw=count == 3) for _ in range(count)]
        bias, held = reach.bias(place), 4 * tokens * HEADS * SIZE

        def plain(tails: Sequence[Tail] = tails, bias: torch.Tensor = bias) -> None:
            for tail in tails:
                tail.attend(tail.take(query, key, value, place, rotation), bias, 0.1)

        def kernels(tails: Sequence[Tail] = tails) -> None:
            for tail in tails:
                new = tail.keys, tail.values
                flash_decoding.attend(query, key, value, rotation, place, tail.core, new, 0.1, tail.raw)

        rows = [("PyTorch's", microseconds(plain)), ("own", microseconds(kernels))]
        rows += [(str(chosen), took) for took, chosen in (searched(kernels)[:SHOWN] if search else [])]
        for which, took in rows:
            print(f"{name:14} {which:24} {took / count:8.1f} us {held * count / took / 1e6:6.2f} TB/s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="other constants, too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU.")
    measure(options.search)
