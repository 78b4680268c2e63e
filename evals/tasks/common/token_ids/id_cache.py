"""Ids of long texts on disk, for the next model, process and run that has the same tokenizer.

An entry is found by the hash of the text and of the whole tokenizer, holds a checksum, and is moved into its place when
it is complete; nobody waits for the disk. A damaged one is removed and made again. Without a usable cache folder
nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from evals.errors import UserError
from evals.tasks.common.token_ids.id_lists import listed
from sharedllm.files import cache_folder, write_whole

FOLDER = "token-ids"
SHORTEST = 1 << 15
"""Characters from which on a text is kept: shorter ones are tokenised as fast as they are found."""
MOST_BYTES = 2 << 30
"""Of all entries; the ones that were not used for the longest time are removed beyond that."""
CHECKED_EVERY = 32
"""Writes between two looks at the size of the folder."""
SUM = 16


class IdCache:
    """Entries of one tokenizer. identity: all that decides its ids."""

    def __init__(self, identity: str) -> None:
        self._identity = identity.encode()
        self._writes = 0

    def get(self, text: str) -> tuple[list[int], np.ndarray] | None:
        """ids and spans (n, 2) of a text, if they are kept."""
        try:
            path = self._path(text)
            content = path.read_bytes()
        except (OSError, UserError):
            return None
        payload = content[SUM:]
        if content[:SUM] != _checksum(payload) or len(payload) % 12:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        columns = np.frombuffer(payload, dtype="<u4").reshape(3, -1)
        return listed(columns[0]), np.ascontiguousarray(columns[1:].T.astype(np.int64))

    def put(self, text: str, ids: list[int], spans: np.ndarray) -> None:
        """Keep the ids and spans of a text. A full or read-only disk keeps nothing."""
        payload = np.concatenate([np.array([ids], dtype="<u4"), spans.T.astype("<u4")]).tobytes()
        try:
            path = self._path(text)
            if self._writes % CHECKED_EVERY == 0:
                _bound(path.parent.parent)
            self._writes += 1
            write_whole(path, lambda partial: partial.write_bytes(_checksum(payload) + payload), synced=False)
        except (OSError, UserError):
            return

    def _path(self, text: str) -> Path:
        key = hashlib.sha256(self._identity + b"\0" + text.encode("utf-8", "surrogatepass")).hexdigest()
        return cache_folder() / FOLDER / key[:2] / key[2:]


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:SUM]


def _bound(folder: Path) -> None:
    """Remove the entries that were not used for the longest time, where there are too many."""
    entries = []
    for path in folder.glob("*/*"):
        with suppress(OSError):  # another process removed it
            found = path.stat()
            entries.append((found.st_mtime_ns, found.st_size, path))
    excess = sum(size for _, size, _ in entries) - MOST_BYTES
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        with suppress(OSError):
            path.unlink()
        excess -= size
