"""Chinese word segmentation by jieba 0.42 with its own dictionary.

A tokenizer of our own is used, not jieba's module-wide one, so that words which other code adds to that one do
not move scores; its messages about building the dictionary stay off stderr.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Protocol, cast


class _Segmenter(Protocol):
    def cut(self, text: str, cut_all: bool) -> Iterable[str]: ...


@cache
def _segmenter() -> _Segmenter:
    import jieba  # takes a second, and only Chinese data sets need it

    jieba.setLogLevel(logging.WARNING)
    return cast(_Segmenter, jieba.Tokenizer())


def segment(text: str) -> list[str]:
    """Words of a text in accurate mode; joined, they are the text again."""
    return list(_segmenter().cut(text, cut_all=False))
