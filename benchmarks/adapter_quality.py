"""What a trained adapter is worth: true use of context, and needles with names and a wording it has not seen.

    python benchmarks/adapter_quality.py --base BASE --adapter DIR [DIR ...] --heldout FILE ... --output OUT.json

Language modelling: nats per token of the last 2048 tokens before fixed places, with the chunks before them (own),
another document's (other) or nothing. Needles: 4 in the context, one asked for, all 7 digits right (teacher-forced
argmax, which equals greedy decoding). The text around them is held out; the names are those of evals.tasks.needle, none
of which occurs in training. Wording "city" was trained, wording "item" was not. The base itself, with attention over
everything, is measured in the same windows at the lengths that it was made for: an upper bound for a compressed
context. Needles are asked for once with every number of chunks that keep whole leaves (`fine_chunks`; 0: all of them).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.tasks.needle.facts import TEMPLATES, Wording
from sharedllm.adapter import load_adapter
from sharedllm.training.corpus import open_corpus
from sharedllm.training.evaluate import DIGITS, language_modelling, needles
from sharedllm.training.needles import Fact, Needles, numbered
from sharedllm.training.vocabulary import Template

RUNNING = 2048
"""Tokens to score, after the context."""


class HeldOut(Needles):
    """Training's windows with the evaluation's names and one of its wordings."""

    def __init__(self, wording: Wording, *args: Any) -> None:
        super().__init__(*args)
        self.wording = wording

    def _draw(self, rng: np.random.Generator, template: Template, count: int) -> list[Fact]:
        w = self.wording
        mine = Template(w.needle, w.question, w.stem.strip())
        names = rng.choice(len(w.keys), size=count, replace=False)
        return numbered(mine, [w.keys[i] for i in names], rng, self.digits)


def main() -> None:
    """Evaluate each adapter; print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", nargs="+", required=True)
    parser.add_argument("--heldout", type=Path, nargs="+", required=True)
    parser.add_argument("--chunks", type=int, nargs="+", default=[6, 30, 126])
    parser.add_argument("--lm-windows", type=int, default=8, help="one domain per file")
    parser.add_argument("--needle-windows", type=int, nargs="+", default=[256, 128, 64], help="one number per length")
    parser.add_argument("--fine-chunks", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(chosen.base)
    corpora = [open_corpus(p, tokenizer, chosen.output.parent / "tokens") for p in chosen.heldout]
    base: Any = AutoModelForCausalLM.from_pretrained(chosen.base, dtype=dtype)
    base.to(device)
    result: dict[str, Any] = {}

    def evaluate(name: str, model: Any, size: int, room: int, counts: list[int]) -> None:
        rows = result.setdefault(name, {"language modelling": {}, "needles": {}})
        for chunks, windows in zip(chosen.chunks, chosen.needle_windows, strict=True):
            if chunks * size + RUNNING > room:
                continue
            begin = time.monotonic()
            found = language_modelling(model, corpora, chunks, size, RUNNING, chosen.lm_windows)
            rows["language modelling"][chunks] = found
            print(f"{name} {chunks} chunks: {json.dumps(found['mean'])}", flush=True)
            for wording in ("city", "item"):
                source = HeldOut(TEMPLATES[wording], tokenizer, corpora, size, 256, 0.0, 0, (DIGITS, DIGITS))
                for count in counts:
                    model.config.fine_chunks = count or None
                    score = needles(model, source, chunks, 4, windows, max(1, 96 // chunks))
                    kept = f"fine_chunks {count or 'all'}"
                    rows["needles"].setdefault(wording, {}).setdefault(chunks, {})[kept] = score
                    print(f"  {wording}, {kept}: {json.dumps(score)}  {time.monotonic() - begin:.0f} s", flush=True)
                chosen.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    for folder in chosen.adapter:
        model = load_adapter(folder, base)
        path = Path(folder).resolve()
        name = path.parent.name if path.name == "adapter" else path.name  # training writes it to RUN/adapter
        evaluate(name, model, model.config.chunk_size, 1 << 30, chosen.fine_chunks)
    evaluate("dense base", base.eval(), model.config.chunk_size, base.config.max_position_embeddings, [0])


if __name__ == "__main__":
    main()
