"""Ids of long texts from the ids of their words, for the tokenizers where that is exact.

Most words of a long text were there before. Where a tokenizer never joins two words, the ids of a text are those of its
words, one after the other, and each word is tokenised once. A cut is made before a single space between two characters
that are no white space: every pre-tokenizer in `exact` begins a new piece there, whatever stands around it, and a model
sees one piece at a time.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORTEST = 1 << 11
"""Characters from which on a text is taken apart."""
NEW_WORD = 24
"""Characters of running text that the tokenizer reads in the time that one new word takes."""
LONGEST_WORD = 24
"""Longer words are not remembered: they are hardly ever there again."""
MOST_WORDS = 300_000
"""Words that are remembered, some 100 MB; then all are forgotten."""
WORDS = re.compile(r"\s*\S+(?:(?! \S)\s+\S*)*|\s+")
WORDS_AND_DIGITS = re.compile(r"[0-9]|\s*[^\s0-9]+(?:(?! [^\s0-9])\s+[^\s0-9]*)*|\s+")
"""For tokenizers that cut out every digit before all else."""
SPLITS = tuple(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for number in (r"\p{N}{1,3}", r"\p{N}")  # Llama 3 and GPT-4; Qwen 2 and 3
)
"""Regular expressions in which no match holds a space behind another character, other than white space."""
PACK = 31
"""Bits for the end of a token in its word; the start stands above them."""
PROBE = (
    "One  two, three.\n\nFour\tfive 6 78 901 'tis it's don't <b> a_b  \n x\u00a0y e\u0301 \u0301 end",
    "中文 字 🙂 🙂\r\n \r\n end. \n",
    " leading and trailing ",
)


class Pieces:
    """Words of one tokenizer with their ids. `usable`: whether it is one of those for which this is exact."""

    def __init__(self, encoder: Tokenizer) -> None:
        description = json.loads(encoder.to_str())
        steps = _steps(description.get("pre_tokenizer"))
        digits = bool(steps) and steps[0]["type"] == "Digits" and steps[0]["individual_digits"]
        self._words = WORDS_AND_DIGITS if digits else WORDS
        self._encoder = encoder
        self.new_word = NEW_WORD
        self._ids: dict[str, tuple[int, ...]] = {}
        self._spans: dict[str, tuple[int, ...]] = {}
        self.usable = exact(description) and all(self._agrees(text) for text in PROBE)

    def encode(self, text: str) -> tuple[list[int], np.ndarray] | None:
        """ids and spans (n, 2); None where so many words are new that the tokenizer is faster with the whole text."""
        words = self._words.findall(text)
        new = list(set(words) - self._ids.keys())
        if self.new_word * len(new) > len(text):
            return None
        self._learn(new)
        ids = list(map(self._ids.__getitem__, words))
        packed = np.fromiter(chain.from_iterable(map(self._spans.__getitem__, words)), dtype=np.int64)
        starts = np.cumsum(np.fromiter(map(len, words), dtype=np.int64, count=len(words)))
        starts = np.concatenate([[0], starts])[:-1]
        moved = np.repeat(starts, np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)))
        spans = np.stack([(packed >> PACK) + moved, (packed & ((1 << PACK) - 1)) + moved], axis=1)
        found = list(chain.from_iterable(ids))
        self._forget([word for word in new if len(word) > LONGEST_WORD])
        return found, spans

    def _learn(self, words: list[str]) -> None:
        for word, encoding in zip(words, self._encoder.encode_batch(words, add_special_tokens=False), strict=True):
            self._ids[word] = tuple(encoding.ids)
            self._spans[word] = tuple((start << PACK) | end for start, end in encoding.offsets)

    def _forget(self, words: list[str]) -> None:
        for word in words:
            del self._ids[word], self._spans[word]
        if len(self._ids) > MOST_WORDS:
            self._ids.clear()
            self._spans.clear()

    def _agrees(self, text: str) -> bool:
        whole = self._encoder.encode(text, add_special_tokens=False)
        words = self._words.findall(text)
        apart = [i for e in self._encoder.encode_batch(words, add_special_tokens=False) for i in e.ids]
        return list(whole.ids) == apart


def exact(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer (its `tokenizer.json`) gives a text the ids of its words.

    It normalises nothing but NFC, which never joins a space to what follows; its pre-tokenizer is GPT-2's or one of
    SPLITS; no added token holds or takes white space; its model is deterministic.
    """
    added = tokenizer.get("added_tokens") or []
    plain = all(
        not (token["lstrip"] or token["rstrip"] or token["single_word"] or re.search(r"\s", token["content"]))
        for token in added
    )
    normalises = (tokenizer.get("normalizer") or {}).get("type", "NFC") != "NFC"
    steps = _steps(tokenizer.get("pre_tokenizer"))
    dropout = (tokenizer.get("model") or {}).get("dropout")
    return plain and not normalises and not dropout and _known(steps)


def _steps(pre: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre is None:
        return []
    return list(pre["pretokenizers"]) if pre["type"] == "Sequence" else [pre]


def _known(steps: list[dict[str, Any]]) -> bool:
    """Digits, then GPT-2's splitter; or one of SPLITS, then bytes."""
    if steps and steps[0]["type"] == "Digits":
        steps = steps[1:]
    elif len(steps) == 2 and steps[0]["type"] == "Split":
        split, byte = steps
        known = split["pattern"].get("Regex") in SPLITS and split["behavior"] == "Isolated" and not split["invert"]
        return known and byte["type"] == "ByteLevel" and not byte["use_regex"] and not byte["add_prefix_space"]
    return (
        len(steps) == 1
        and steps[0]["type"] == "ByteLevel"
        and steps[0]["use_regex"]
        and not steps[0]["add_prefix_space"]
    )
