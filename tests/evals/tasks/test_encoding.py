"""Long texts are tokenised in blocks, and nobody can tell from the ids."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.common.token_ids import encoding
from evals.tasks.common.token_ids.encoding import Encoded, TextEncoder

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "Überraschung",
    "日本語",
    "naïve",
    "1234567",
    "x=y;",
    "don't",
    "🙂🙂",
    "  ",
    "\n\n",
]


def prose(words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + rng.choice(["", ",", ".", "\n", "\t"]) for _ in range(words))


def trained(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> PreTrainedTokenizerBase:
    """A BPE vocabulary of merges that cross letters and, without a pre-tokenizer, spaces."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if pre_tokenizer is None:  # as Llama 2: no words, a dummy space in front
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Replace("▁", " ")
        alphabet = []
    else:
        made.pre_tokenizer = pre_tokenizer
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([prose(400, seed) for seed in range(20)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.fixture(
    scope="module",
    params=["bytes", "byte-level", "whole text"],
)
def encoder(request) -> TextEncoder:
    if request.param == "bytes":
        return TextEncoder(byte_tokenizer(300))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False) if request.param == "byte-level" else None
    return TextEncoder(trained(words))


def same(a: Encoded, b: Encoded) -> bool:
    return a.ids == b.ids and np.array_equal(a.spans, b.spans)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(encoding, "BLOCK_CHARS", 700)
    monkeypatch.setattr(encoding, "OVERLAP_CHARS", 64)
    monkeypatch.setattr(encoding, "AGREED", 8)


@pytest.mark.parametrize("after", ["", "."])
@pytest.mark.parametrize("seed", range(6))
def test_blocks_give_the_ids_of_the_whole_text(encoder, monkeypatch, seed, after) -> None:
    text = prose(900, seed)
    whole = encoder.encode_with_spans(text, after)
    monkeypatch.setattr(encoding, "BLOCK_CHARS", 700 + 61 * seed)
    monkeypatch.setattr(encoding, "OVERLAP_CHARS", 64)
    monkeypatch.setattr(encoding, "AGREED", 8)
    assert len(list(encoder.encode_blocks(text, after))) > 4
    assert same(encoder.encode_with_spans(text, after), whole)


@pytest.mark.parametrize(
    "text", ["a" * 5000, "ab" * 3000, " " * 4000, "\n" * 3000 + "x", "日本語" * 1500, "a" * 2000 + " b" * 900]
)
def test_text_without_words_is_tokenised_as_a_whole_would_be(encoder, monkeypatch, text, small_blocks) -> None:
    found = encoder.encode_with_spans(text)
    monkeypatch.setattr(encoding, "BLOCK_CHARS", 1 << 20)
    assert same(found, encoder.encode_with_spans(text))


def test_a_long_text_that_cannot_be_divided_is_one_sentence(encoder, monkeypatch, small_blocks) -> None:
    monkeypatch.setattr(encoding, "_joint", lambda *_: None)
    monkeypatch.setattr(encoding, "UNSPLIT_BLOCKS", 2)
    with pytest.raises(UserError, match="has no place at which to divide it"):
        encoder.encode(prose(900, 0))


def test_blocks_with_the_real_overlap_give_the_ids_of_the_whole_text(encoder, monkeypatch) -> None:
    text = "\n".join(prose(2000, seed) for seed in range(12))
    whole = encoder.encode_with_spans(text)
    monkeypatch.setattr(encoding, "BLOCK_CHARS", 1 << 15)
    assert len(list(encoder.encode_blocks(text))) > 3
    assert same(encoder.encode_with_spans(text), whole)


@pytest.mark.parametrize("block", [300, 1000])
def test_small_blocks_give_the_ids_of_the_whole_text_around_a_word_that_is_longer_than_they_are(
    encoder, monkeypatch, block
) -> None:
    text = prose(300, 0) + " " + "ab" * 1000 + " " + prose(300, 1)
    whole = encoder.encode_with_spans(text)
    monkeypatch.setattr(encoding, "OVERLAP_CHARS", 64)
    monkeypatch.setattr(encoding, "AGREED", 8)
    monkeypatch.setattr(encoding, "BLOCK_CHARS", 16 * block)
    monkeypatch.setattr(encoding, "UNSPLIT_BLOCKS", 0)  # the text is never tokenised as a whole
    blocks = list(encoder.encode_blocks(text, chars=block))
    assert [i for found in blocks for i in found.ids] == whole.ids
    assert np.array_equal(np.concatenate([found.spans for found in blocks]), whole.spans)
