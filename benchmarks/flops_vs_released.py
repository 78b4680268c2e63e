"""Forward FLOPs of SharedLLM with search against those of the released code, counted by torch's FLOP counter.

    python benchmarks/flops_vs_released.py --output results/measured/flops_vs_released.json

Both sides run in full on random weights, and their matrix products are counted. Attention is the plain kernel on both
sides, which computes all pairs. The released side is its procedure in stock decoder layers, part by part
(modeling_llama_sharedllm_flash.py of github.com/Clement25/SharedLLM, 79c3e15): the kept nodes through all M layers;
for the search both halves of every expanded node through layer 0, and at every level the whole running text through
layer 0 once more; the upper model with its cross-attention. The shape is one on which the released code itself was
counted (RELEASED_GF), so the procedure as written here is checked against it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from sharedllm import SharedLLMConfig, SharedLLMForCausalLM

CHUNKS, CHUNK, RUNNING, QUESTION = 8, 1024, 1024, 32
SHAPE = {"vocab_size": 128, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8}
RELEASED_GF = {"lower": 231, "search": 88, "upper": 82, "query": 17}
"""10^9 FLOPs of the released code itself on this shape, by part."""


@torch.no_grad()
def gigaflops(call: Callable[[], Any]) -> float:
    """10^9 floating point operations in the matrix products of a call."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def stock(model: SharedLLMForCausalLM, hidden: torch.Tensor, layers: int) -> None:
    """`layers` decoder layers of transformers over rows (rows, tokens, H)."""
    rotation = model.base.model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    for layer in model.base.model.layers[:layers]:
        hidden = layer(hidden, position_embeddings=rotation)


def released(model: SharedLLMForCausalLM, context: torch.Tensor, text: torch.Tensor) -> dict[str, float]:
    """The released procedure by part."""
    config = model.config
    embed = model.get_input_embeddings()
    sizes = [CHUNK // 2**level for level in range(1, config.height + 1)]
    kept = [*sizes, sizes[-1]]
    halves = [size for size in sizes[:-1] for _ in range(2)]
    chunks = embed(context[0])
    compressed = model.compress(context)
    return {
        "lower": sum(gigaflops(lambda s=s: stock(model, chunks[:, :s], config.lower_layers)) for s in kept),
        "search": sum(gigaflops(lambda s=s: stock(model, chunks[:, :s], 1)) for s in halves),
        "upper": gigaflops(lambda: model(text, context=compressed, logits_to_keep=1)),
        "query": (config.height - 1) * gigaflops(lambda: stock(model, embed(text), 1)),
    }


def main() -> None:
    """Count both sides, check the released one, print the ratios and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, num_attention_heads=8)).eval()
    context, text = torch.randint(128, (1, CHUNKS, CHUNK)), torch.randint(128, (1, RUNNING))

    def shared(policy: str) -> SharedLLMForCausalLM:
        return SharedLLMForCausalLM.from_base(base, SharedLLMConfig(base_config=base.config, policy=policy)).eval()

    with torch.no_grad():
        parts = released(shared("right"), context, text)
    for part, counted in parts.items():
        print(f"released  {part:12s} {counted:6.1f} GF (the code itself: {RELEASED_GF[part]})")
        if abs(counted - RELEASED_GF[part]) > 0.6:
            raise SystemExit(f"The released procedure as written here counts {counted:.1f} GF for {part}.")
    baseline = {"right": parts["lower"] + parts["upper"], "last_token": sum(parts.values())}
    result: dict[str, Any] = {"shape": SHAPE, "torch": torch.__version__, "released_gf": parts, "ours": {}}
    for policy in ("right", "last_token", "maxsim"):
        model, question = shared(policy), None if policy == "right" else QUESTION
        counted = gigaflops(lambda m=model, q=question: m(text, context, query_length=q, logits_to_keep=1))
        against = baseline.get(policy, baseline["last_token"])
        result["ours"][policy] = {"gf": counted, "released_gf": against, "ratio": counted / against}
        print(f"ours      {policy:12s} {counted:6.1f} GF, released {against:6.1f} GF: {counted / against:.1%}")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
