"""Hashes of text and files, the basis of the identity of weights and data.

Every byte of a file is hashed. A large file is read once: its hash is remembered in the cache folder under the file's
path, size, inode and times, so that a changed file is read again. Without a usable cache folder every call reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evals.errors import UserError, unreadable
from sharedllm.files import cache_folder

REMEMBERED_BYTES = 1 << 20
"""Smaller files are hashed faster than they are looked up."""
SETTLED_NS = 2_000_000_000
"""A file that changed this recently may change again within one tick of the file system's clock: not remembered."""
NOTES = "file-hashes.jsonl"
MAX_NOTES_BYTES = 4 << 20
"""The notes are reset beyond this size (about 15,000 files)."""


def digest_of(*parts: str) -> str:
    """sha256 (hex) of texts, in order."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of all bytes of a file. Raises UserError for one that cannot be read or is not a regular file."""
    return digests_of_files([path])[0]


def digests_of_files(paths: Sequence[Path]) -> list[str]:
    """`digest_of_file` of each, in parallel: hashlib releases the interpreter lock."""
    notes = _read_notes()
    with ThreadPoolExecutor(max_workers=min(len(paths), os.cpu_count() or 1) or 1) as pool:
        found = list(pool.map(lambda path: _digest(path, notes), paths))
    _write_notes(note for _, note in found if note)
    return [digest for digest, _ in found]


def digest_of_tree(root: Path, paths: Sequence[Path]) -> str:
    """sha256 (hex) of the names below `root` and all bytes of files, in any order."""
    ordered = sorted(paths)
    names = [path.relative_to(root).as_posix() for path in ordered]
    return digest_of(*(part for pair in zip(names, digests_of_files(ordered), strict=True) for part in pair))


def _digest(path: Path, notes: dict[str, str]) -> tuple[str, tuple[str, str] | None]:
    """The hash, and the note to keep if the file was read."""
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise UserError(f"{path} is not a regular file: remove it, or name another.")
        key = _key(path, before)
        if key in notes:
            return notes[key], None
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        after = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > SETTLED_NS
    worth = settled and after.st_size >= REMEMBERED_BYTES and key == _key(path, after)
    return digest, (key, digest) if worth else None


def _key(path: Path, found: os.stat_result) -> str:
    """Changes whenever the content of the file does."""
    facts = (os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return digest_of(*map(str, facts))


def _read_notes() -> dict[str, str]:
    """Noted hashes by key. Truncated and damaged lines are skipped."""
    try:
        lines = (cache_folder() / NOTES).read_bytes().splitlines()
    except (OSError, UserError):
        return {}
    notes = {}
    for line in lines:
        try:
            key, digest, check = json.loads(line)
            if check == digest_of(key, digest)[:8]:
                notes[key] = digest
        except (ValueError, TypeError, AttributeError):
            continue
    return notes


def _write_notes(notes: Iterable[tuple[str, str]]) -> None:
    """Append. Concurrent processes are safe, since a line is one short write."""
    lines = [json.dumps([key, digest, digest_of(key, digest)[:8]]) + "\n" for key, digest in notes]
    if not lines:
        return
    try:
        path = cache_folder() / NOTES
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_NOTES_BYTES:
            path.unlink()
        with path.open("ab", buffering=0) as stream:
            for line in lines:
                stream.write(line.encode())
    except (OSError, UserError):
        return  # a full or read-only disk: the next call reads the file again
