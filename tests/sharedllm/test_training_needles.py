"""Needles among the windows of training, and the quick evaluation that asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evals.tasks.needle import facts as held_out
from sharedllm import SharedLLMForCausalLM
from sharedllm.training import evaluate, vocabulary
from sharedllm.training.corpus import open_corpus
from sharedllm.training.needles import Needles, Shape, disjoint_places

CHUNK = 64
NEEDLE_CHUNK = 320  # a needle takes some 60 bytes, and the tokenizer's tokens are bytes
METHOD = {"chunk_size": CHUNK, "ratios": [8, 1], "lower_layers": 2, "policy": "maxsim"}


def test_needle_windows_hold_their_needles_and_ask_for_the_answers(texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    corpus = open_corpus(texts / "words.txt", tokenizer, tmp_path)
    source = Needles(tokenizer, [corpus], NEEDLE_CHUNK, 800, 1.0, 9)
    answers = 0
    for step in range(12):
        batch = source(np.random.default_rng(step), Shape(windows=3, chunks=4, needles=5, questions=3))
        assert batch.chunk_index.shape == (3, 4)
        assert (batch.chunk_index.diff(dim=1) > 0).all()
        for i in range(3):
            chunks = [tokenizer.decode(c) for c in batch.context_ids[i]]
            ids, labels = batch.input_ids[i], batch.labels[i]
            learnt = labels != -100
            assert torch.equal(labels[learnt], ids[learnt])
            assert torch.equal(learnt, batch.weights[i] > 0)
            edges = torch.nonzero(learnt.int().diff(prepend=torch.zeros(1)) == 1).flatten().tolist()
            assert 1 <= len(edges) <= 3
            for question, begin in enumerate(edges):
                end = begin + int((~learnt[begin:]).int().argmax() or len(learnt) - begin)
                answer = tokenizer.decode(ids[begin:end]).strip(" .")
                assert answer.isdigit()
                assert 5 <= len(answer) <= 8
                holder = [c for c, text in enumerate(chunks) if answer in text]
                assert len(holder) == 1, "the needle is in one chunk, in full"
                assert int(batch.chunk_question[i, holder[0]]) == question, "searched with its own question"
                start, length = int(batch.query_start[i, question]), int(batch.query_length[i, question])
                asked = tokenizer.decode(ids[start : start + length])
                assert start + length <= begin
                assert asked.strip().endswith("?")
                assert answer not in asked
                key = template_key(asked)
                assert key in chunks[holder[0]]
                answers += 1
            assert batch.chunk_question[i].max() < len(edges)
            first = torch.nonzero(batch.weights[i] == 3.0).flatten()
            assert [tokenizer.decode(ids[at]).isdigit() for at in first] == [True] * len(edges)
    assert answers > 40


def template_key(question: str) -> str:
    """The name that a question asks for, whatever its template."""
    for template in vocabulary.TEMPLATES:
        before, after = template.question.split("{key}")
        if question.strip().startswith(before) and question.endswith(after):
            return question.strip()[len(before) : len(question.strip()) - len(after)]
    raise AssertionError(question)


def test_needles_never_overwrite_each_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 12, size=rng.integers(1, 6)).tolist()
        places = disjoint_places(lengths, sum(lengths) + int(rng.integers(5)), rng)
        ends = [p + n for p, n in zip(places, lengths, strict=True)]
        assert places[0] >= 0
        assert all(a <= b for a, b in zip(ends, places[1:], strict=False))
    with pytest.raises(ValueError, match="2 needles of one chunk take 12 tokens, a chunk has 11"):
        disjoint_places([6, 6], 11, rng)


def test_training_and_evaluation_share_no_names_and_not_all_wordings() -> None:
    assert len(vocabulary.CITIES) > 50
    assert len(vocabulary.NOUNS) > 10
    assert len(vocabulary.ADJECTIVES) > 10
    assert not set(vocabulary.CITIES) & set(held_out.CITIES)
    assert set(held_out.CITIES) == vocabulary.HELD_OUT
    items = {f"{a} {n}" for a in vocabulary.ADJECTIVES for n in vocabulary.NOUNS}
    assert not items & set(held_out.ITEMS)
    mine = {t.needle for t in vocabulary.TEMPLATES} | {t.question for t in vocabulary.TEMPLATES}
    for name in ("item", "classic"):
        assert not {held_out.TEMPLATES[name].needle, held_out.TEMPLATES[name].question} & mine
        assert held_out.TEMPLATES[name].needle.split()[1:4] not in [t.split()[1:4] for t in mine]


def test_quick_evaluation_counts_right_digits(tiny_llama: Path, texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    """A model that always says `7` has as many digits right as the answers have sevens."""
    model = SharedLLMForCausalLM.from_base(str(tiny_llama), **{**METHOD, "chunk_size": NEEDLE_CHUNK}).eval()
    corpus = open_corpus(texts / "words.txt", tokenizer, tmp_path)
    source = evaluate.needle_source(tokenizer, [corpus], NEEDLE_CHUNK, 400)
    (seven,) = tokenizer("7", add_special_tokens=False)["input_ids"]
    torch.nn.init.zeros_(model.base.lm_head.weight)
    model.base.lm_head.register_forward_hook(lambda _, args, out: out + F.one_hot(torch.tensor(seven), out.shape[-1]))
    result = evaluate.needles(model, source, 2, 2, 6, 4, seed=1)
    made = [source(np.random.default_rng([1, s]), Shape(n, 2, 2, 1, exactly=True)) for s, n in ((0, 4), (4, 2))]
    digits = [tokenizer.decode(row[row != -100]).strip(" .") for b in made for row in b.labels]
    assert result["digits"] == pytest.approx(np.mean([d.count("7") / 7 for d in digits]))
    assert result["first_digit"] == pytest.approx(np.mean([d[0] == "7" for d in digits]))
    assert result["windows"] == 6
    assert result["exact_match"] == 0
