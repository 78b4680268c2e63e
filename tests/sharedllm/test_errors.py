"""What a library raises while it reads: one sentence, except for what says nothing about the thing that is read."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer

from sharedllm.errors import UserError, reading


class Stop(BaseException):
    """Ends a program, and nobody knows it."""


PASSING = [Stop, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, torch.OutOfMemoryError]


@pytest.mark.parametrize("kind", PASSING)
def test_a_stop_and_a_lack_of_memory_pass(kind: type[BaseException]) -> None:
    with pytest.raises(kind), reading("The file", "copy it again"):
        raise kind


def test_whatever_else_a_library_raises_is_one_sentence() -> None:
    sentence = r"^The file cannot be read \(no header\): copy it again\.$"
    with pytest.raises(UserError, match=sentence), reading("The file", "copy it again"):
        raise LookupError("no header.")


def test_a_panic_of_a_rust_library_is_one_sentence() -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    parts = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor", "decoder"))
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    text = json.dumps({"version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": model, **parts})
    sentence = r"^The tokenizer cannot be read \(Precompiled.*\): copy it again\.$"
    with pytest.raises(UserError, match=sentence), reading("The tokenizer", "copy it again"):
        Tokenizer.from_str(text)
