"""Damaged archives and compressed files of benchmarks: each is one sentence with its file."""

from __future__ import annotations

import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_rows import LONGBENCH, line, longbench, refuse


def encrypted(path: Path) -> None:
    """An archive whose member says that it needs a password."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/hotpotqa.jsonl", line(LONGBENCH))
    raw = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + at] |= 1
    path.write_bytes(bytes(raw))


def unknown_compression(path: Path) -> None:
    encrypted(path)
    raw = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + at] &= ~1
        raw[raw.index(mark) + at + 2] = 99
    path.write_bytes(bytes(raw))


def wrong_checksum(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/hotpotqa.jsonl", line(LONGBENCH) * 3)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"Ann sings", b"Eve sings", 1))


def without_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")


@pytest.mark.parametrize("damage", [encrypted, unknown_compression, wrong_checksum, without_members])
@pytest.mark.parametrize("named", [False, True], ids=["in the folder", "as the data folder"])
def test_archives(damage: Callable[[Path], None], named: bool, tmp_path: Path) -> None:
    damage(tmp_path / "data.zip")
    refuse(longbench("hotpotqa"), tmp_path / "data.zip" if named else tmp_path, "data.zip|hotpotqa.jsonl")


@pytest.mark.parametrize("name", ["hotpotqa.jsonl.gz", "hotpotqa.jsonl.xz"])
def test_compressed_files_that_end_early(name: str, tmp_path: Path) -> None:
    pack = gzip.compress if name.endswith("gz") else lzma.compress
    (tmp_path / name).write_bytes(pack(line(LONGBENCH))[:-6])
    refuse(longbench("hotpotqa"), tmp_path, f"{name} is broken")
