"""Questions with answers as batches of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharedllm.training.sft import FineTuning, read_examples

CHUNK = 64


def test_fine_tuning_learns_answers_only(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"context": "c" * 150, "question": "who?", "answer": "me"},
        {"context": "short", "question": "what?", "answer": "that"},
        {"context": "x" * 1000, "question": "q" * 90, "answer": "a" * 200},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tune = FineTuning(read_examples(path, tokenizer), 24, CHUNK, max_chunks=3, running=120)
    batch = tune(np.random.default_rng(0))
    assert batch.context_ids.shape == (24, 3, CHUNK)
    assert batch.input_ids.shape == (24, 120)
    seen = set()
    for i in range(24):
        learnt = batch.labels[i] != -100
        answer = tokenizer.decode(batch.labels[i][learnt], skip_special_tokens=True)
        start, length = int(batch.query_start[i]), int(batch.query_length[i])
        question = tokenizer.decode(batch.input_ids[i, start : start + length])
        assert int(torch.nonzero(learnt)[0]) == start + length, "the answer follows the question"
        lead = tokenizer.decode(batch.input_ids[i, :start])
        chunks = [tokenizer.decode(c) for c in batch.context_ids[i, : int(batch.num_chunks[i])]]
        if question == "who?":
            assert answer == "me"
            assert chunks == ["c" * CHUNK] * 2
            assert lead == "c" * (150 - 2 * CHUNK)
            assert int(batch.labels[i][learnt][-1]) == tokenizer.eos_token_id
        elif question == "what?":
            assert answer == "that"
            assert chunks == []
            assert lead == "short"
        else:  # the context is cut in the middle, the answer to what is left of the running text
            assert question == "q" * 60
            assert set(answer) == {"a"}
            assert len(answer) == 60
            assert chunks == ["x" * CHUNK] * 3
            assert lead == ""
        seen.add(len(question))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"context": "a", "question": "b"}', "line 1: not a JSON object with context, question, answer"),
        ('{"context": "a", "question": "b", "answer": ""}', "line 1: context, question, answer must be strings"),
        ('{"context": "é"}', "line 1: not UTF-8, save the file as UTF-8"),
        ("", "holds no examples"),
    ],
)
def test_malformed_examples(row: str, message: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_examples(path, tokenizer)
