"""Long texts that every Python installation ships, for runs without data and without a network."""

from __future__ import annotations

import pydoc_data.topics
import re
import sysconfig
from functools import cache
from pathlib import Path

DOCUMENT_CHARS = 700_000
"""Size of an embedded document: above 128K tokens of the usual vocabularies."""
DOCSTRING = re.compile(r'^\s*[rR]?"""(.*?)"""', re.DOTALL | re.MULTILINE)


def topics() -> list[str]:
    """The reference topics of Python's help, in the order of their names."""
    return [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]


@cache
def texts() -> dict[str, list[str]]:
    """Texts of two domains: `python`, the source of the standard library's modules, and `docs`, the reference topics
    of Python's help and the docstrings of these modules (technical English).

    They change with the Python version, which every run records.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*.py"))]
    docstrings = [text for source in sources for text in DOCSTRING.findall(source)]
    return {"python": _joined(sources), "docs": _joined([*topics(), *docstrings])}


def _joined(pieces: list[str]) -> list[str]:
    """Pieces joined in order to texts of DOCUMENT_CHARS or a little more; a short rest goes to the last of them."""
    texts: list[list[str]] = [[]]
    size = 0
    for piece in pieces:
        if size >= DOCUMENT_CHARS:
            texts.append([])
            size = 0
        texts[-1].append(piece)
        size += len(piece)
    if size < DOCUMENT_CHARS and len(texts) > 1:
        rest = texts.pop()
        texts[-1].extend(rest)
    return ["\n\n".join(text) for text in texts]
