"""Text to ids, and where each id stands in the text, for texts of any size."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import tokenizers

from evals.errors import UserError
from evals.tasks.common.token_ids import id_cache, passages, pieces
from evals.tasks.common.token_ids.id_lists import listed

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

BLOCK_CHARS = 1 << 20
"""Longer texts are tokenised in blocks: the tokenizer needs some hundred bytes of memory per character."""
OVERLAP_CHARS = 1 << 12
"""Text that two blocks in a row share at first; more where they do not agree on it."""
AGREED = 32
"""Tokens in a row that two blocks must give alike to be joined there."""
DEAR = 4
"""A text whose new words take more than one part in so many of the tokenizer's time is kept on disk."""
UNSPLIT_BLOCKS = 16
"""A text in which blocks never agree (one word without end) is tokenised at once up to this many blocks."""


@dataclass(frozen=True)
class Encoded:
    """ids of n tokens and the span of characters of each, (n, 2)."""

    ids: list[int]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, last: int | None = None) -> Encoded:
        """Tokens `first` to `last`."""
        return Encoded(self.ids[first:last], self.spans[first:last])

    def moved(self, chars: int) -> Encoded:
        """The same tokens `chars` characters later in the text."""
        return Encoded(self.ids, self.spans + chars)


class TextEncoder:
    """The tokenizer without what it adds to a text: special tokens, truncation, padding.

    Raises UserError for a tokenizer without character offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise UserError(f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer.")
        self.tokenizer = tokenizer

    @cached_property
    def _encoder(self) -> Tokenizer:
        """A copy, made where a text is to be tokenised: most models of a run find their prompts made."""
        encoder: Tokenizer = copy.deepcopy(self.tokenizer.backend_tokenizer)
        # A post-processor adds special tokens and, for byte-level vocabularies, trims white space off the
        # offsets; without it the spans of the tokens tile the text.
        encoder.post_processor = None
        encoder.no_truncation()
        encoder.no_padding()
        return encoder

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the tokenizer: models that share it share ids."""
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    @cached_property
    def _passages(self) -> passages.Passages:
        return passages.Passages(self._encoder)

    @cached_property
    def _cache(self) -> id_cache.IdCache:
        return id_cache.IdCache(f"{tokenizers.__version__} {self.fingerprint}")

    def fewest(self, text: str) -> int:
        """Tokens that a text has at least, found in a small part of their time; 0 where it is not known."""
        return self._passages.words.fewest(text) if self._passages.usable else 0

    def encode(self, text: str, after: str = "") -> list[int]:
        """Ids of a text without special tokens, as they are where it follows the text `after`."""
        return self.encode_with_spans(text, after).ids

    def encode_with_spans(self, text: str, after: str = "") -> Encoded:
        """As `encode`, with the span of characters of `text` that each id stands for."""
        blocks = list(self.encode_blocks(text, after))
        if len(blocks) == 1:
            return blocks[0]
        return Encoded([i for block in blocks for i in block.ids], np.concatenate([block.spans for block in blocks]))

    def encode_blocks(self, text: str, after: str = "", chars: int | None = None) -> Iterator[Encoded]:
        """`encode_with_spans` piece by piece, the same ids whatever the size of the blocks. chars: of a block.

        Neighbouring blocks overlap. They are joined in the middle of a row of tokens that both give alike, so a cut
        through the text is never felt. Raises UserError for a long text without such a row.
        """
        whole = after + text
        chars = chars or BLOCK_CHARS
        start, stop = 0, _cut(whole, chars)
        held = self._encode(whole, start, stop)
        while stop < len(whole):
            start, stop, held, done = self._next(whole, start, stop, held, chars)
            yield _own(done, len(after))
        yield _own(held, len(after))

    def _next(self, whole: str, start: int, stop: int, held: Encoded, chars: int) -> tuple[int, int, Encoded, Encoded]:
        """The block after that of the characters start to stop: its characters, its tokens from the joint on, and
        the tokens of `held` before the joint. Where there is none, a wider block in the place of that one.
        """
        overlap = OVERLAP_CHARS
        while overlap <= (stop - start) // 2:
            first = _cut(whole, stop - overlap)
            last = _cut(whole, first + chars)
            after = self._encode(whole, first, last)
            if first > start and last > stop and (joint := _joint(held, after, (first + stop) // 2)):
                return first, last, after.part(joint[1]), held.part(0, joint[0])
            overlap *= 4
        wider = 4 * (stop - start)
        if wider <= BLOCK_CHARS:
            first, last = start, _cut(whole, start + wider)
        elif len(whole) <= UNSPLIT_BLOCKS * BLOCK_CHARS:
            first, last = 0, len(whole)
        else:
            raise UserError(
                f"A text of {len(whole)} characters has no place at which to divide it for the tokenizer: is it text?"
            )
        done = int(held.spans[0, 0]) if len(held) else start
        rest = self._encode(whole, first, last)
        return first, last, rest.part(int(np.searchsorted(rest.spans[:, 0], done))), rest.part(0, 0)

    def _encode(self, whole: str, start: int, stop: int) -> Encoded:
        return self._encoded(whole[start:stop]).moved(start)

    def _encoded(self, text: str) -> Encoded:
        """The same ids by whatever is fastest: from known words, from the disk, or from the tokenizer."""
        if len(text) < pieces.SHORTEST:
            return _encoded(self._encoder.encode(text, add_special_tokens=False))
        kept = self._cache.get(text) if len(text) >= id_cache.SHORTEST else None
        if kept is not None:
            return Encoded(*kept)
        apart = self._passages.encode(text) if self._passages.usable else None
        made = Encoded(*apart) if apart else _encoded(self._encoder.encode(text, add_special_tokens=False))
        quick = apart is not None and DEAR * self._passages.words.learning < len(text)
        if len(text) >= id_cache.SHORTEST and not quick:
            self._cache.put(text, made.ids, made.spans)
        return made


def _encoded(encoding: Encoding) -> Encoded:
    return Encoded(
        listed(np.array(encoding.ids, dtype=np.int64)), np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    )


def _own(tokens: Encoded, start: int) -> Encoded:
    """Tokens that begin at character `start` or later, counted from there."""
    if not start:
        return tokens
    first = int(np.searchsorted(tokens.spans[:, 0], start))
    return tokens.part(first).moved(-start)


def _cut(text: str, at: int) -> int:
    """A place near `at`, before a white space if there is one within a few words before it."""
    if at >= len(text):
        return len(text)
    found = max(text.rfind(space, max(at - 200, 0), at) for space in " \n")
    return found if found > 0 else at


def _joint(left: Encoded, right: Encoded, middle: int) -> tuple[int, int] | None:
    """Indices of one token in both, in the middle of AGREED tokens in a row that are the same; after `middle` first."""
    if not left or not right:
        return None
    both = right.spans[: int(np.searchsorted(right.spans[:, 0], left.spans[-1, 1])), 0]
    begins = {int(begin): index for index, begin in reversed(list(enumerate(both)))}
    here = int(np.searchsorted(left.spans[:, 0], middle))
    lowest = int(np.searchsorted(left.spans[:, 0], right.spans[0, 0]))
    for i in [*range(here, len(left) - AGREED), *range(here - 1, lowest - 1, -1)]:
        j = begins.get(int(left.spans[i, 0]))
        if j is None or (i and left.spans[i - 1, 0] == left.spans[i, 0]):
            continue
        a, b = left.part(i, i + AGREED), right.part(j, j + AGREED)
        if len(a) == len(b) == AGREED and a.ids == b.ids and np.array_equal(a.spans, b.spans):
            return i + AGREED // 2, j + AGREED // 2
    return None
