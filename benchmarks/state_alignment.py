"""What CEPE's cross-attention of one token costs: as two matrix products, by the number of states, and as one read.

    python benchmarks/state_alignment.py --context 126976

The 7B shape in half precision: 32 heads over states of 1024 numbers, some fewer or more than --context of them. The
times are those of one layer, in a CUDA graph: of two products with a softmax between them, its ratio to that of
--context, a multiple of 8, and of the kernels that read every state once (`baselines/cepe/row.py`) with the rate at
which they read. Needs a Hopper GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from baselines.cepe import row

HEADS, WIDTH, CALLS = 32, 1024, 20
Mixing = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def products(query: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """`row.mix` in stock operations."""
    return (query @ states.T).softmax(-1) @ states


def milliseconds(mix: Mixing, context: int, device: torch.device) -> float:
    """Of one call."""
    query = torch.randn(HEADS, WIDTH, device=device, dtype=torch.bfloat16) * 0.05
    states = torch.randn(context, WIDTH, device=device, dtype=torch.bfloat16)
    mix(query, states)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            mix(query, states)
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / CALLS


@torch.inference_mode()
def main() -> None:
    """Print a row for each remainder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=126976)
    context: int = parser.parse_args().context
    if not torch.cuda.is_available():
        parser.error("there is no GPU here")
    device = torch.device("cuda")
    aligned = milliseconds(products, context, device)
    for more in (0, -8, -4, -2, -1, 25):
        count = context + more
        found, once = (milliseconds(mix, count, device) for mix in (products, row.mix))
        rate = 2 * count * WIDTH / once / 1e9
        print(
            f"{count} states  products {found:.3f} ms  {found / aligned:.2f} times  one read {once:.3f} ms  "
            f"{rate:.2f} TB/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
