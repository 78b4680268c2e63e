"""Ids of long texts from the ids of their words, for the tokenizers where that is exact.

Most words of a long text were there before. Where a tokenizer never joins two words, the ids of a text are those of its
words, one after the other, and each word is tokenised once. A cut is made before a single space between two characters
that are no white space: every pre-tokenizer in `exact` begins a new piece there, whatever stands around it, and a model
sees one piece at a time.

New words are cut further, so that few of their parts are new: between an ASCII letter and the punctuation after it,
where each of these pre-tokenizers ends a run of letters, and around digits where all digits stand alone. Words in which
an added token stands are not.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.tasks.common.token_ids.id_lists import listed
from evals.tasks.common.token_ids.piece_table import UNKNOWN, Ints, PieceTable, Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORTEST = 1 << 11
"""Characters from which on a text is taken apart."""
NEW_PART, NEW_WORD = 24, 4
"""Characters of running text that the tokenizer reads in the time that a new part, and a new word, takes."""
LONGEST_WORD = 24
"""Longer words are not remembered: they are hardly ever there again."""
MOST_WORDS = 500_000
"""Words that are remembered, some 120 MB; then all are forgotten."""
PUNCTUATION = r"!-/:-@\[-`{-~"
PARTS = re.compile(rf"(?s:.+?)(?:(?<=[A-Za-z])(?=[{PUNCTUATION}])|\Z)")
PARTS_AND_DIGITS = re.compile(rf"[0-9]|[^0-9]+?(?:(?<=[A-Za-z])(?=[{PUNCTUATION}])|(?=[0-9])|\Z)")
"""For tokenizers that cut out every digit before all else."""
PASSING = re.compile(r"[0-9]{5}|\s\Z")
"""Words that are not remembered: with long numbers, or with white space at their end (at the end of a text)."""
KINDS = bytes.maketrans(
    (string.ascii_letters + string.digits + string.punctuation + "\n").encode(),
    b"a" * 52 + b"1" * 10 + b"." * 32 + b" ",
)
"""Makes all ASCII letters one byte, digits another, punctuation a third, and the end of a line a space."""
WORD_BEGINS, LETTERS_END = (b" a", b" 1", b" ."), b"a."
"""Kinds between which a token ends; the latter not in an added token."""
FIRST = " "
"""Stands before the first word of a text, which has no space before it; no other word begins with one."""
SPLITS = tuple(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for number in (r"\p{N}{1,3}", r"\p{N}")  # Llama 3 and GPT-4; Qwen 2 and 3
)
"""Regular expressions in which no match holds a space behind another character, other than white space."""
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
        self._cut = PARTS_AND_DIGITS if digits else PARTS
        added = [re.escape(token["content"]) for token in description.get("added_tokens") or []]
        self._whole = re.compile("|".join(added) or r"(?!)")
        self._encoder = encoder
        self.patient = False
        """Whether new words are learned however many there are."""
        self.learning = 0
        """Characters that the tokenizer reads in the time that the new words of the last text took."""
        self._refused = 0
        """Characters left to the tokenizer since words were last learned. As much work may be spent on learning: words
        that come in one text after another pay for it."""
        self._words, self._parts = PieceTable(), PieceTable()
        self.usable = exact(description) and all(self._agrees(text) for text in PROBE)

    def fewest(self, text: str) -> int:
        """Tokens that a text has at least: one ends before each word, and between letters and punctuation."""
        kinds = text.encode("utf-8", "surrogatepass").translate(KINDS)
        ends = WORD_BEGINS if self._whole.search(text) else (*WORD_BEGINS, LETTERS_END)
        return sum(map(kinds.count, ends))

    def encode(self, text: str) -> tuple[list[int], np.ndarray] | None:
        """ids and spans (n, 2); None where so many words are new that the tokenizer is faster with the whole text."""
        found = self.tokens([text], len(text))
        return None if found is None else (listed(found.ids), np.stack([found.starts, found.ends], axis=1))

    def tokens(self, texts: Sequence[str], most: int) -> Tokens | None:
        """Tokens of texts put together, each tokenised by itself; None where the new words take longer than the
        tokenizer needs for `most` characters.
        """
        words, rows, unknown = self._found(texts)
        self.learning = 0
        if len(unknown) and not self._learn([words[place] for place in unknown], rows, unknown, most):
            return None
        found = self._words.gather(rows)
        self._forget()
        return found

    def _found(self, texts: Sequence[str]) -> tuple[list[str], Ints, Ints]:
        """The words of texts, their rows, and the places of those that have none."""
        words: list[str] = []
        firsts: set[int] = set()
        for text in texts:
            firsts.add(len(words))
            words += _words(text)
        rows = self._words.rows(words)
        unknown = np.flatnonzero(rows == UNKNOWN)
        glued = _glued(words, unknown.tolist())  # known words touch no other white space
        if groups := _groups([place for place in glued if place not in firsts]):
            joined = [" ".join(words[start:end]) for start, end in groups]
            rows[[start for start, _ in groups]] = self._words.rows(joined)
            rows = np.delete(rows, [place for start, end in groups for place in range(start + 1, end)])
            words = _joined(words, groups, joined)
            unknown = np.flatnonzero(rows == UNKNOWN)
        return words, rows, unknown

    def _learn(self, words: Sequence[str], rows: Ints, places: Ints, chars: int) -> bool:
        """Enter new words, and their rows at their places; False where that would take too long."""
        known: list[str] = []
        passing: list[str] = []
        for word in dict.fromkeys(words):
            (passing if len(word) > LONGEST_WORD or PASSING.search(word) else known).append(word)
        new = [*known, *passing]
        cut = [self._taken_apart(_text(word)) for word in new]
        flat = [part for parts in cut for part in parts]
        parts = list(dict.fromkeys(flat))
        unknown = [parts[place] for place in np.flatnonzero(self._parts.rows(parts) == UNKNOWN)]
        self.learning = NEW_WORD * len(new) + NEW_PART * len(unknown)
        if self.learning > chars + self._refused and not self.patient:
            self._refused += chars
            return False
        self._refused = 0
        if unknown:
            self._parts.add(unknown, self._tokenised(unknown), len(unknown))
        made = self._parts.gather(self._parts.rows(flat))
        tokens = _of_groups(made, np.fromiter(map(len, cut), dtype=np.int64, count=len(cut)))
        row = dict(zip(new, self._words.add(new, tokens, len(known)).tolist(), strict=True))
        rows[places] = [row[word] for word in words]
        return True

    def _taken_apart(self, text: str) -> list[str]:
        """The parts of a word that are looked up; it stays whole where it holds an added token."""
        return [text] if self._whole.search(text) else self._cut.findall(text)

    def _tokenised(self, parts: Sequence[str]) -> Tokens:
        made = self._encoder.encode_batch(list(parts), add_special_tokens=False)
        counts = np.fromiter((len(e.ids) for e in made), dtype=np.int64, count=len(made))
        chars = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
        before = np.repeat(np.cumsum(chars) - chars, counts)
        ids = np.array([token for e in made for token in e.ids], dtype=np.int64)
        spans = np.array([span for e in made for span in e.offsets], dtype=np.int64).reshape(-1, 2)
        return Tokens(ids, spans[:, 0] + before, spans[:, 1] + before, counts, chars)

    def _forget(self) -> None:
        self._words.forget()
        if len(self._words) > MOST_WORDS:
            self._words = PieceTable()
        if len(self._parts) > MOST_WORDS:
            self._parts = PieceTable()

    def _agrees(self, text: str) -> bool:
        whole = self._encoder.encode(text, add_special_tokens=False)
        parts = [part for word in self._found([text])[0] for part in self._taken_apart(_text(word))]
        apart = [i for e in self._encoder.encode_batch(parts, add_special_tokens=False) for i in e.ids]
        return list(whole.ids) == apart


def _words(text: str) -> list[str]:
    """A text split at all its spaces; the first word has a mark unless a single space stands before it."""
    words = text.split(" ")
    if not words[0] and text[1:2].strip():
        return words[1:]
    words[0] = FIRST + words[0]
    return words


def _text(word: str) -> str:
    """A word as it stands in its text: with the space before it, which all but the first have."""
    return word[1:] if word.startswith(FIRST) else " " + word


def _glued(words: Sequence[str], places: Sequence[int]) -> list[int]:
    """The words that cannot be cut from the one before them, as white space stands beside the space between them.

    words: of a text that was split at all its spaces. places: of those that may begin or end with white space.
    """
    found, last = set(), len(words) - 1
    for place in places:
        word = words[place]
        if place and (not word or word[0].isspace()):
            found.add(place)
        if place < last and (not word or word[-1].isspace()):
            found.add(place + 1)
    return sorted(found)


def _groups(glued: Sequence[int]) -> list[tuple[int, int]]:
    """Spans of words that are one: each of the `glued` ones with those before it."""
    groups: list[tuple[int, int]] = []
    for place in glued:
        if groups and groups[-1][1] == place:
            groups[-1] = groups[-1][0], place + 1
        else:
            groups.append((place - 1, place + 1))
    return groups


def _joined(words: list[str], groups: Sequence[tuple[int, int]], joined: Sequence[str]) -> list[str]:
    """The words with each group of them replaced by its text."""
    found: list[str] = []
    done = 0
    for (start, end), text in zip(groups, joined, strict=True):
        found += words[done:start]
        found.append(text)
        done = end
    return [*found, *words[done:]]


def _of_groups(tokens: Tokens, sizes: Ints) -> Tokens:
    """The same tokens, of longer pieces: each of as many of the pieces as `sizes` says."""
    ends = np.cumsum(sizes)

    def summed(values: Ints) -> Ints:
        sums = np.concatenate([[0], np.cumsum(values)])
        of_group: Ints = sums[ends] - sums[ends - sizes]
        return of_group

    return tokens._replace(counts=summed(tokens.counts), chars=summed(tokens.chars))


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
