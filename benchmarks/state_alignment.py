"""What an unaligned number of encoder states costs CEPE's cross-attention of one token.

    python benchmarks/state_alignment.py --context 126976

The 7B shape in half precision: 32 heads over states of 1024 numbers, some fewer or more than --context of them. The
time is that of one layer, in a CUDA graph, and its ratio to that of --context, a multiple of 8. Needs a GPU.
"""

from __future__ import annotations

import argparse

import torch

HEADS, WIDTH, CALLS = 32, 1024, 20


def milliseconds(context: int, device: torch.device) -> float:
    """Of one call."""
    query = torch.randn(1, HEADS, WIDTH, device=device, dtype=torch.bfloat16) * 0.05
    states = torch.randn(1, context, WIDTH, device=device, dtype=torch.bfloat16)

    def call() -> torch.Tensor:
        return (query @ states.transpose(1, 2)).softmax(-1) @ states

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / CALLS


def main() -> None:
    """Print a row for each remainder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=126976)
    context: int = parser.parse_args().context
    if not torch.cuda.is_available():
        parser.error("there is no GPU here")
    aligned = milliseconds(context, torch.device("cuda"))
    for more in (0, -8, -4, -2, -1, 25):
        found = milliseconds(context + more, torch.device("cuda"))
        print(f"{context + more} states  {found:.3f} ms  {found / aligned:.2f} times", flush=True)


if __name__ == "__main__":
    main()
