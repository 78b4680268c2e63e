"""Which layers make use of the context? Dense attention in which only some layers see it.

    python benchmarks/context_by_layer.py --base BASE --heldout FILE ... --output OUT.json

SharedLLM shows the context to only some layers of the upper model. Here the untrained base reads context and running
text as one sequence, and the running text sees the keys and values of the context only in the named layers (0-15: the
bottom 15; 0-0: nowhere, as with no context). Nothing is compressed or trained: the use of context that remains (nats
per token, other document's context minus own) is what these layers offer to the base's own attention.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from sharedllm.training.corpus import open_corpus
from sharedllm.training.evaluate import held_out_windows
from sharedllm.training.loss import next_token_loss

NAME = "context_in_some_layers"


class SomeLayers:
    """Attention in transformers' interface: the running text sees the context only in `layers`."""

    layers = range(0)

    def __call__(self, module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[Any, None]:
        """query (1, heads, S, D), key and value (1, KV heads, context + S, D) -> (1, S, heads, D)."""
        new = query.shape[2]
        if module.layer_idx not in self.layers:
            key, value = key[:, :, -new:], value[:, :, -new:]
        total = key.shape[2]
        seen = None  # torch makes the causal mask of a square itself
        if total > new:
            seen = torch.ones(new, total, dtype=torch.bool, device=key.device).tril(total - new)
        causal = seen is None
        out = scaled_dot_product_attention(
            query, key, value, seen, is_causal=causal, scale=module.scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None


def losses(
    model: Any, attention: SomeLayers, context: torch.Tensor, text: torch.Tensor, layers: Sequence[range]
) -> list[float]:
    """Nats per token of text (1, S) after context (1, T), for each choice of layers that see the context."""
    cache = DynamicCache()
    model.model(input_ids=context, past_key_values=cache)
    found = []
    for attention.layers in layers:
        hidden = model.model(input_ids=text, past_key_values=cache).last_hidden_state
        found.append(float(next_token_loss(hidden, model.lm_head.weight, text)))
        cache.crop(-text.shape[1])
    return found


def span(text: str) -> range:
    """'8-22' -> the layers 8 to 21."""
    first, end = text.split("-")
    return range(int(first), int(end))


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Score every window with both contexts; print a line per window and a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--heldout", type=Path, nargs="+", required=True, help="at least two long documents per file")
    parser.add_argument("--context", type=int, default=6144, help="tokens")
    parser.add_argument("--running", type=int, default=2048, help="tokens to score, after the context")
    parser.add_argument("--windows", type=int, default=12, help="windows per file")
    parser.add_argument(
        "--layers",
        type=span,
        nargs="+",
        default=[range(15), range(22), range(8, 23), range(10, 25), range(15, 30), range(30)],
        metavar="FIRST-END",
        help="layers that see the context, as half-open ranges",
    )
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    attention = SomeLayers()
    AttentionInterface.register(NAME, attention)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(chosen.base)
    corpora = [open_corpus(p, tokenizer, chosen.output.parent / "tokens") for p in chosen.heldout]
    model: Any = AutoModelForCausalLM.from_pretrained(chosen.base, dtype=torch.float32, attn_implementation=NAME)
    model.to(device).eval()
    use: dict[str, list[list[float]]] = {}
    begin = time.monotonic()
    windows = [(c, held_out_windows(c, chosen.context + chosen.running, chosen.windows)) for c in corpora]
    for i in range(chosen.windows):
        for corpus, (rows, others) in windows:
            text, own, other = (
                torch.from_numpy(ids.copy()).to(device)[None]
                for ids in (rows[i][chosen.context :], rows[i][: chosen.context], others[i][: chosen.context])
            )
            scored = [losses(model, attention, context, text, chosen.layers) for context in (own, other)]
            use.setdefault(corpus.name, []).append(np.subtract(scored[1], scored[0]).tolist())
            print(f"{corpus.name} {i}: {use[corpus.name][-1]}  {time.monotonic() - begin:.0f} s", flush=True)
    every = np.concatenate([np.array(found) for found in use.values()])
    error = every.std(0, ddof=1) / len(every) ** 0.5
    summary = [
        {"layers": f"{n.start}-{n.stop}", "use": float(u), "standard_error": float(e)}
        for n, u, e in zip(chosen.layers, every.mean(0), error, strict=True)
    ]
    for row in summary:
        print("layers {layers}: {use:+.3f} nats, standard error {standard_error:.3f}".format(**row))
    settings = {"context": chosen.context, "running": chosen.running, "windows": chosen.windows}
    record = {"settings": settings, "summary": summary, "windows": use}
    chosen.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
