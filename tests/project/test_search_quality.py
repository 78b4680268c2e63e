"""benchmarks/search_quality.py: facts stand where they are said to, and a way through the tree is followed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from benchmark_scripts import load
from transformers import AutoTokenizer

from sharedllm.training.corpus import open_corpus

script = load("search_quality")


def corpus(folder: Path) -> Path:
    texts = folder / "texts.jsonl"
    texts.write_text(json.dumps({"text": " ".join(f"word{n}" for n in range(3000))}) + "\n", encoding="utf-8")
    return texts


def test_facts_are_hidden_where_they_are_said_to_be(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    made = script.hide(tokenizer, open_corpus(corpus(tmp_path), tokenizer, tmp_path), 8, 3, "city")
    assert made.ids.shape == (1, 8, script.CHUNK)
    assert len(set(made.chunk)) == script.FACTS
    for question, chunk, (start, end) in zip(made.asked, made.chunk, made.value, strict=True):
        told = tokenizer.decode(made.ids[0, chunk, :end])
        key = tokenizer.decode(question[0]).removeprefix("What is the magic number for ").removesuffix("?")
        assert f"The magic number for {key} is {tokenizer.decode(made.ids[0, chunk, start:end]).strip()}" in told


def test_a_way_holds_what_lies_in_its_part() -> None:
    left, right = torch.tensor([False, False, False]), torch.tensor([True, True, True])
    middle = torch.tensor([True, False, True])  # 512 + 128 to 512 + 256
    assert script.holds(left, (0, 128), 0) and script.holds(right, (896, 1024), 0)
    assert script.holds(middle, (640, 768), 0)
    assert not script.holds(middle, (639, 700), 0)
    assert script.holds(middle, (639, 769), 1)
    assert not script.holds(middle, (639, 769), 0)


def test_a_leaf_at_the_end_of_a_chunk_is_widened_inwards() -> None:
    """By as many tokens as any other: twice the overlap on the side that has them."""
    left, right = torch.tensor([False, False, False]), torch.tensor([True, True, True])
    assert script.holds(left, (0, 160), 16) and not script.holds(left, (100, 161), 16)
    assert script.holds(right, (864, 1024), 16) and not script.holds(right, (863, 900), 16)


def test_the_command_counts_both_policies(tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    words = ["--base", str(tiny_llama), "--texts", str(corpus(tmp_path)), "--samples", "1", "--chunks", "4"]
    script.main([*words, "--output", str(output)])
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["policy"] for row in rows] == ["last_token", "maxsim"]
    assert all(row["facts"] == script.FACTS and 0 <= row["found"] <= 1 and 0 <= row["same"] <= 1 for row in rows)
