"""Hashes of files: every byte counts, what was read is remembered, and a bad cache folder costs time alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from evals import hashing
from evals.errors import UserError
from evals.hashing import digest_of, digest_of_file, digest_of_tree, digests_of_files
from sharedllm.files import cache_folder

CONTENT = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is large and old enough to be remembered; an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "SETTLED_NS", -1)
    path = tmp_path / "weights.bin"
    path.write_bytes(CONTENT)
    return path


def test_the_digest_is_the_sha256_of_every_byte(large: Path) -> None:
    assert digest_of_file(large) == hashlib.sha256(CONTENT).hexdigest()
    for place in (0, len(CONTENT) // 3, len(CONTENT) - 1):
        content = bytearray(CONTENT)
        content[place] ^= 1
        large.write_bytes(content)
        assert digest_of_file(large) == hashlib.sha256(content).hexdigest()


def test_a_remembered_file_is_not_read_again(large: Path, monkeypatch) -> None:
    first = digest_of_file(large)
    monkeypatch.setattr(hashing.hashlib, "file_digest", None)  # reading would fail
    assert digests_of_files([large, large]) == [first, first]


def test_a_file_changed_in_place_with_its_old_time_is_read_again(large: Path) -> None:
    first, before = digest_of_file(large), large.stat()
    with large.open("r+b") as stream:
        stream.seek(1 << 20)
        stream.write(b"other")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert large.stat().st_mtime_ns == before.st_mtime_ns
    assert digest_of_file(large) != first


def test_a_file_that_has_just_changed_is_not_remembered(large: Path, monkeypatch) -> None:
    monkeypatch.setattr(hashing, "SETTLED_NS", 3600 * 10**9)
    digest_of_file(large)
    assert not (cache_folder() / hashing.NOTES).exists()


def test_damaged_notes_are_passed_over(large: Path) -> None:
    first = digest_of_file(large)
    notes = cache_folder() / hashing.NOTES
    line = notes.read_bytes()
    wrong = line.replace(first[:8].encode(), b"00000000")
    for damage in (b"\0\xff\n", line[:40], wrong, b'["a", 1, 2]\n', b"3\n", b"[[], {}, 0]\n"):
        notes.write_bytes(damage)
        assert digest_of_file(large) == first


@pytest.mark.parametrize("home", ["file", "", "missing/deep"])
def test_without_a_usable_cache_folder_the_file_is_read(large: Path, monkeypatch, home: str) -> None:
    (large.parent / "file").touch()
    if home:
        monkeypatch.setenv("XDG_CACHE_HOME", str(large.parent / home))
    else:  # nobody knows the home folder
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: Path("~/.cache/sharedllm"))
        with pytest.raises(UserError, match="XDG_CACHE_HOME"):
            cache_folder()
    assert [digest_of_file(large) for _ in range(2)] == [hashlib.sha256(CONTENT).hexdigest()] * 2


def test_notes_do_not_grow_without_end(large: Path, monkeypatch) -> None:
    monkeypatch.setattr(hashing, "MAX_NOTES_BYTES", 300)
    for i in range(20):
        large.write_bytes(CONTENT + bytes([i]))
        digest_of_file(large)
    assert (cache_folder() / hashing.NOTES).stat().st_size < 600


def test_a_tree_is_its_names_and_bytes_in_any_order(large: Path) -> None:
    other = large.with_name("other")
    other.write_text("x")
    tree = digest_of_tree(large.parent, [large, other])
    assert tree == digest_of_tree(large.parent, [other, large])
    assert tree != digest_of_tree(large.parent, [large])
    assert tree != digest_of_tree(large.parent, [large, other.rename(other.with_name("another"))])


def test_what_is_not_a_readable_file_is_a_sentence(large: Path) -> None:
    os.mkfifo(large.parent / "pipe")
    for path, message in ((large.parent / "none", "cannot be read"), (large.parent / "pipe", "not a regular file")):
        with pytest.raises(UserError, match=message):
            digest_of_file(path)


def test_parts_are_not_joined_into_each_other() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc")
    assert digest_of("\udcff")  # a name that is not UTF-8


def test_without_a_home_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="name a folder in XDG_CACHE_HOME"):
        cache_folder()
