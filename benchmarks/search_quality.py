"""Does the search through the context trees find what is asked for, and does it depend on the question at all?

    python benchmarks/search_quality.py --base BASE --texts FILE ... --output OUT.json

Facts in the wording of the needle test are hidden in the chunks of real texts, and every one is asked for. The search
of each policy decides which eighth of a chunk keeps its tokens most finely. Counted are the chunks with the fact in
which that eighth holds the fact's value, and the chunks that take the same way for another question of the same text.
Nothing is trained: the search has no parameters of its own, and compares states of the base's first layer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.tasks.needle.facts import TEMPLATES, draw
from sharedllm import CompressedContext, SharedLLMForCausalLM
from sharedllm.inputs import ContextInputs
from sharedllm.training.corpus import Corpus, open_corpus
from sharedllm.tree import choose, split, whole, widen

CHUNK, LEVELS = 1024, 3
POLICIES = ("last_token", "maxsim")
FACTS = 4
"""In every text, in different chunks."""


@dataclass(frozen=True)
class Text:
    """ids: (1, chunks, CHUNK). asked: (1, question tokens) of each fact. chunk: of each fact. value: where its value's
    tokens are in that chunk, first and last + 1."""

    ids: torch.Tensor
    asked: list[torch.Tensor]
    chunk: list[int]
    value: list[tuple[int, int]]


def hide(tokenizer: Any, corpus: Corpus, chunks: int, seed: int, wording: str) -> Text:
    """A stretch of text with facts in place of some of its tokens."""
    rng = random.Random(f"search {corpus.name}:{seed}")
    ids = corpus.window(chunks * CHUNK, np.random.default_rng(seed)).astype(np.int64)
    places, asked, values = rng.sample(range(chunks), FACTS), [], []
    for place, fact in zip(places, draw(wording, FACTS, seed, chunks * CHUNK, 0, 0), strict=True):
        before = fact.sentence.partition(fact.value)[0].rstrip()
        head = tokenizer(f" {before}", add_special_tokens=False).input_ids
        tail = tokenizer(f" {fact.value}.", add_special_tokens=False).input_ids
        start = rng.randrange(CHUNK - len(head) - len(tail))
        at = place * CHUNK + start
        ids[at : at + len(head) + len(tail)] = [*head, *tail]
        values.append((start + len(head), start + len(head) + len(tail)))
        question = TEMPLATES[wording].question.format(key=fact.key)
        asked.append(tokenizer(question, add_special_tokens=False, return_tensors="pt").input_ids)
    return Text(torch.from_numpy(ids).view(1, chunks, CHUNK), asked, places, values)


@torch.no_grad()
def paths(model: SharedLLMForCausalLM, text: Text) -> list[torch.Tensor]:
    """(chunks, LEVELS) for each question: True where the search went right."""
    found = []
    for question in text.asked:
        length = question.shape[1]
        asked = ContextInputs(input_ids=question, context_ids=text.ids, query_length=length, use_cache=False)
        path = cast(CompressedContext, model.decode(asked).context).path
        found.append(cast(torch.Tensor, path)[0])
    return found


def holds(path: torch.Tensor, value: tuple[int, int], overlap: int) -> bool:
    """Whether the leaf that a path ends in, `overlap` tokens wider on either side, has all tokens of a value.

    path: (levels,).
    """
    leaf = whole(1, CHUNK, path.device)
    for right in path:
        leaf, _ = choose(right[None], *split(leaf))
    kept = widen(leaf, overlap, CHUNK)
    start = int(kept.start)
    return start <= value[0] and value[1] <= start + int(kept.length)


def measure(model: SharedLLMForCausalLM, texts: Iterable[Text], overlap: int) -> dict[str, float]:
    """facts, the share that was found, and the share of chunks that two questions search in the same way."""
    right: list[bool] = []
    same: list[float] = []
    for text in texts:
        ways = paths(model, text)
        right += [
            holds(way[chunk], value, overlap) for way, chunk, value in zip(ways, text.chunk, text.value, strict=True)
        ]
        same += [float((way == other).all(1).float().mean()) for way, other in pairwise(ways)]
    return {"facts": len(right), "found": sum(right) / len(right), "same": sum(same) / len(same)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per policy and text, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--template", choices=("city", "item"), default="city", help="wording of the needle test")
    parser.add_argument("--chunks", type=int, default=8, help="of a text")
    parser.add_argument("--samples", type=int, default=25, help="stretches of each file, with four facts each")
    parser.add_argument("--overlap", type=int, default=16, help="tokens beside the part that are kept finely, too")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    corpora = [open_corpus(path, tokenizer, options.output.parent / "tokens") for path in options.texts]
    rows = []
    for policy in POLICIES:
        model = SharedLLMForCausalLM.from_base(
            base,
            chunk_size=CHUNK,
            ratios=[1] * (LEVELS + 1),
            lower_layers=1,  # further ones cost time and change nothing in the search
            policy=policy,
            leaf_overlap=options.overlap,
        ).eval()
        for corpus in corpora:
            texts = (hide(tokenizer, corpus, options.chunks, i, options.template) for i in range(options.samples))
            row = measure(model, texts, options.overlap)
            rows.append({"policy": policy, "texts": corpus.name, **row})
            print(f"{policy:12}{corpus.name:14}found {row['found']:.2f} of {row['facts']}, same way {row['same']:.2f}")
    setting = {name: getattr(options, name) for name in ("template", "chunks", "samples", "overlap")}
    options.output.write_text(json.dumps({**setting, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
