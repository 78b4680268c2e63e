"""Bad data files: each ends in one sentence that names it, or is read as it was meant. None hangs or fills the memory.

A case is a file (or several), the task that reads it, and what must be said; `None` means that the file is good.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import random
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from evals import registry
from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import Task
from evals.tasks.common import files
from evals.tasks.common.source import DataSource

SECONDS = 60
COUNT = int(os.environ.get("SHAREDLLM_FUZZ", "40"))
"""Random damages per format; `make fuzz` sets more."""
LONG = "A sentence of words. " * 60
ROW = {
    "input": "Which city is it?",
    "context": "The river flows through Paris. " * 20,
    "answers": ["Paris"],
    "length": 200,
    "dataset": "hotpotqa",
    "language": "en",
    "all_classes": None,
    "_id": "r1",
}
Write = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """say: a part of the sentence; None where the data are good."""

    name: str
    task: str
    say: str | None
    write: Write

    def __str__(self) -> str:
        return f"{self.task}: {self.name}"


def put(name: str, content: bytes | str) -> Write:
    """A file with some content."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


def lines(*rows: object) -> bytes:
    return b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def table(name: str, **columns: object) -> Write:
    return lambda folder: pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)


def damaged_table(change: Callable[[bytes], bytes]) -> Write:
    def write(folder: Path) -> None:
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"text": [f"{LONG} {i}" for i in range(50)]}), stream)
        (folder / "a.parquet").write_bytes(change(stream.getvalue()))

    return write


def archive(members: dict[str, bytes], change: Callable[[bytearray], object] = lambda raw: None, **options) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression=zipfile.ZIP_DEFLATED, **options) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    raw = bytearray(stream.getvalue())
    change(raw)
    return bytes(raw)


def in_headers(local: int, central: int, value: int) -> Callable[[bytearray], None]:
    """Writes two bytes at an offset of the local and of the central header of the first member."""

    def change(raw: bytearray) -> None:
        struct.pack_into("<H", raw, raw.index(b"PK\x03\x04") + local, value)
        struct.pack_into("<H", raw, raw.index(b"PK\x01\x02") + central, value)

    return change


def both(*writes: Write) -> Write:
    return lambda folder: [write(folder) for write in writes]


def pipe(name: str) -> Write:
    return lambda folder: os.mkfifo(folder / name)


def link(name: str, target: str) -> Write:
    return lambda folder: (folder / name).symlink_to(target)


def odd_name(folder: Path) -> None:
    """A file name that is not UTF-8."""
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "wb") as file:
        file.write(LONG.encode())


def unreadable(folder: Path) -> None:
    (folder / "a.txt").write_text(LONG)
    (folder / "a.txt").chmod(0)


MEMBER = lines(ROW)
SMALL = lines({"text": LONG}, {"text": LONG[::-1]})
HALF = '{"text": "x\\ud800y"}\n'
TEXTS = [
    ("nothing", "There is no", lambda folder: None),
    ("only other files", "There is no", both(put("a.csv", "x"), put("README.md", "x"), put(".DS_Store", "x"))),
    ("other files beside", None, both(put("a.txt", LONG), put("a.csv", b"\xff"), put("img.png", b"\x89PNG"))),
    ("folders beside", None, both(put("a.txt", LONG), lambda folder: (folder / "b.txt").mkdir())),
    ("byte-order mark", None, put("a.txt", b"\xef\xbb\xbf" + LONG.encode())),
    ("Windows line ends", None, put("a.txt", LONG.replace(" ", "\r\n"))),
    ("NUL characters", None, put("a.txt", LONG + "\0" * 50)),
    ("UTF-16", "is not UTF-8 (byte 0)", put("a.txt", LONG.encode("utf-16"))),
    ("Latin-1", "is not UTF-8", put("a.txt", ("é" + LONG).encode("latin-1"))),
    ("cut character", "is not UTF-8", put("a.txt", ("x" + "é" * 50).encode()[:-1])),
    ("surrogate bytes", "is not UTF-8", put("a.txt", b"x\xed\xa0\x80y")),
    ("empty text", "is empty: remove it", put("a.txt", "")),
    ("blank text", "is empty: remove it", put("a.txt", " \n\t\r\n")),
    ("only a mark", "is empty: remove it", put("a.txt", b"\xef\xbb\xbf")),
    ("one bad among good", "b.txt is not UTF-8", both(put("a.txt", "x"), put("b.txt", b"\xff\xff"))),
    ("pipe", "a.txt is not a regular file", pipe("a.txt")),
    ("pipe of rows", "a.jsonl is not a regular file", pipe("a.jsonl")),
    ("pipe of a table", "a.parquet is not a regular file", pipe("a.parquet")),
    ("pipe beside", None, both(put("a.txt", LONG), pipe("b"))),
    ("device", "a.txt is not a regular file", link("a.txt", "/dev/zero")),
    ("device as rows", "a.jsonl.gz is not a regular file", link("a.jsonl.gz", "/dev/urandom")),
    ("broken link", "a.txt cannot be read", link("a.txt", "missing")),
    ("link to itself", "a.txt cannot be read", link("a.txt", "a.txt")),
    ("name that is not UTF-8", None, odd_name),
    ("name with a line break", None, put("a\nb.txt", LONG)),
    ("empty rows", "a.jsonl has no rows", put("a.jsonl", "")),
    ("blank rows", "a.jsonl has no rows", put("a.jsonl", "\n\n \n")),
    ("rows with a mark", None, put("a.jsonl", b"\xef\xbb\xbf" + SMALL)),
    ("rows with Windows line ends", None, put("a.jsonl", SMALL.replace(b"\n", b"\r\n"))),
    ("rows in UTF-16", "a.jsonl, line 1 is not UTF-8", put("a.jsonl", SMALL.decode().encode("utf-16"))),
    ("two rows on a line", "line 1 is not JSON", put("a.jsonl", SMALL.replace(b"\n", b""))),
    ("array", "line 1: the row does not fit", put("a.jsonl", json.dumps([{"text": LONG}]))),
    ("a number", "line 1: the row does not fit", put("a.jsonl", "17\n")),
    ("null", "line 1: the row does not fit", put("a.jsonl", "null\n")),
    ("no text", "line 1 has no field `text` or `content` (it has body)", put("a.jsonl", lines({"body": LONG}))),
    ("text of null", "line 1: text does not fit", put("a.jsonl", lines({"text": None}))),
    ("text of a list", "line 1: text does not fit", put("a.jsonl", lines({"text": ["x"]}))),
    ("empty row", "line 1: text does not fit", put("a.jsonl", lines({"text": ""}))),
    ("half a character", "line 1 holds half a character", put("a.jsonl", HALF)),
    ("half a character elsewhere", "line 1 holds half", put("a.jsonl", '{"text": "x", "id": "\\uDFFF"}\n')),
    ("a whole pair", None, put("a.jsonl", lines({"text": "\N{GRINNING FACE}" + LONG}))),
    ("deep row", "too deep a nesting", put("a.jsonl", b'{"text": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    ("long number", "too long a number", put("a.jsonl", b'{"text": "x", "a": ' + b"9" * 10_000 + b"}")),
    ("NaN", None, put("a.jsonl", b'{"text": "' + LONG.encode() + b'", "score": NaN}\n')),
    ("equal keys", "has the key 'text' twice", put("a.jsonl", b'{"text": 1, "text": "' + LONG.encode() + b'"}\n')),
    ("row too long", "line 1 is longer than", put("a.jsonl", b"x" * 600_000)),
    ("text too long", "is larger than", put("a.txt", b"x " * 300_000)),
    ("blank lines without end", "blank lines", put("a.jsonl", b"\n" * 3000)),
    ("zeros in gz", "line 1 is longer than", put("a.jsonl.gz", gzip.compress(bytes(1 << 20)))),
    ("blank lines in gz", "blank lines", put("a.jsonl.gz", gzip.compress(b"\n" * (1 << 20)))),
    ("gz", None, put("a.jsonl.gz", gzip.compress(SMALL))),
    ("gz under another name", "a.jsonl, line 1 is not UTF-8", put("a.jsonl", gzip.compress(SMALL))),
    ("no gz", "is broken", put("a.jsonl.gz", SMALL)),
    ("empty gz", "has no rows", put("a.jsonl.gz", b"")),
    ("gz cut short", "is broken", put("a.jsonl.gz", gzip.compress(SMALL)[:-9])),
    ("gz without its check sum", "is broken", put("a.jsonl.gz", gzip.compress(SMALL)[:-4])),
    ("gz with a wrong check sum", "is broken", put("a.jsonl.gz", gzip.compress(SMALL)[:-8] + bytes(8))),
    ("gz with a tail", "is broken", put("a.jsonl.gz", gzip.compress(SMALL) + b"tail of other bytes")),
    ("long gz cut short", "is broken", put("a.jsonl.gz", gzip.compress(SMALL + os.urandom(3000))[:-500])),
    ("no xz", "is broken", put("a.jsonl.xz", SMALL)),
    ("xz cut short", "is broken", put("a.jsonl.xz", lzma.compress(SMALL)[:-30])),
    ("xz of gz", "is broken", put("a.jsonl.xz", gzip.compress(SMALL))),
    ("empty table", "a.parquet has no rows", table("a.parquet", text=pyarrow.array([], pyarrow.string()))),
    ("table of other columns", "has no column `text` or `content`", table("a.parquet", words=["x"])),
    ("table with null", "row 2: text does not fit", table("a.parquet", text=["x", None])),
    ("table of numbers", "row 1: text does not fit", table("a.parquet", text=[1, 2])),
    ("table of lists", "row 1: text does not fit", table("a.parquet", text=[["x"]])),
    ("table of bytes", "row 1: text does not fit", table("a.parquet", text=[b"x"])),
    ("no table", "cannot be read as Parquet", put("a.parquet", "text")),
    ("empty file as table", "cannot be read as Parquet", put("a.parquet", "")),
    ("table cut short", "cannot be read as Parquet", damaged_table(lambda raw: raw[:-100])),
    (
        "table with a wrong middle",
        "cannot be read as Parquet",
        damaged_table(lambda raw: raw[:60] + bytes(200) + raw[260:]),
    ),
    ("no arrow", "cannot be read as Arrow", put("a.arrow", "text")),
]
PAIRS = [
    ("no JSON", "line 2 is not JSON", put("a.jsonl", SMALL[: SMALL.index(b"\n") + 1] + b"{text: x}\n")),
    ("cut row", "line 2 is not JSON", put("a.jsonl", SMALL[:-20])),
    ("one document", "The control `other` needs two documents: add one", put("a.txt", LONG * 3)),
    ("the same twice", "all 2 are the same", both(put("a.txt", LONG * 3), put("b.txt", LONG * 3))),
    (
        "rows with one id",
        None,
        put("a.jsonl", lines(*({"id": "x", "text": f"{w} and {w} then {w}. " * 200} for w in ("one", "two")))),
    ),
    (
        "near copies",
        "share text with",
        both(*(put(f"{n}.txt", " ".join(f"w{i if i % 40 else i + n}" for i in range(900))) for n in (1, 2))),
    ),
    (
        "copies of another cut",
        "share text with",
        both(*(put(f"{n}.txt", " ".join(f"w{i}" for i in range(n, n + 900))) for n in (1, 50))),
    ),
]
ARCHIVES = [
    ("good archive", None, put("data.zip", archive({"data/hotpotqa.jsonl": MEMBER}))),
    ("no archive", "data.zip is not a zip archive", put("data.zip", b"hello")),
    ("empty archive file", "data.zip is not a zip archive", put("data.zip", b"")),
    ("archive without the set", "hotpotqa is not in", put("data.zip", archive({"data/trec.jsonl": MEMBER}))),
    (
        "archive cut short",
        "data.zip is not a zip archive",
        put("data.zip", archive({"data/hotpotqa.jsonl": MEMBER})[:-30]),
    ),
    ("encrypted", "is broken", put("data.zip", archive({"hotpotqa.jsonl": MEMBER}, in_headers(6, 8, 1)))),
    ("unknown compression", "is broken", put("data.zip", archive({"hotpotqa.jsonl": MEMBER}, in_headers(8, 10, 77)))),
    ("version of the future", "zip", put("data.zip", archive({"hotpotqa.jsonl": MEMBER}, in_headers(4, 6, 255)))),
    ("wrong check sum", "is broken", put("data.zip", archive({"hotpotqa.jsonl": MEMBER}, in_headers(14, 16, 77)))),
    ("zeros", "is longer than", put("data.zip", archive({"hotpotqa.jsonl": bytes(1 << 20)}))),
    ("blank lines", "blank lines", put("data.zip", archive({"hotpotqa.jsonl": b"\n" * (1 << 20)}))),
    ("member with a mark", None, put("data.zip", archive({"hotpotqa.jsonl": b"\xef\xbb\xbf" + MEMBER}))),
    (
        "central directory",
        "zip",
        put("data.zip", archive({"hotpotqa.jsonl": MEMBER}, lambda raw: raw.__setitem__(slice(-60, -40), bytes(20)))),
    ),
]
ROWS = [
    ("row with a mark", None, put("hotpotqa.jsonl", b"\xef\xbb\xbf" + MEMBER)),
    ("empty", "has no rows", put("hotpotqa.jsonl", "")),
    ("no JSON", "line 1 is not JSON", put("hotpotqa.jsonl", "hello\n")),
    ("no answers", "line 1: answers does not fit", put("hotpotqa.jsonl", lines({**ROW, "answers": []}))),
    ("answers of text", "line 1: answers does not fit", put("hotpotqa.jsonl", lines({**ROW, "answers": "Paris"}))),
    ("blank context", "line 1: context does not fit", put("hotpotqa.jsonl", lines({**ROW, "context": " "}))),
    ("length of text", "line 1: length does not fit", put("hotpotqa.jsonl", lines({**ROW, "length": "200"}))),
    ("half a character", "line 1 holds half", put("hotpotqa.jsonl", lines(ROW).replace(b"Paris", b"\\ud83d"))),
    ("xz cut short", "is broken", put("hotpotqa.jsonl.xz", lzma.compress(MEMBER)[:-20])),
    ("pipe", "hotpotqa is not in", pipe("hotpotqa.jsonl")),
]
CASES = [
    *(Case(name, "needle", say, write) for name, say, write in TEXTS),
    *(Case(name, "perplexity", say, write) for name, say, write in PAIRS),
    *(Case(name, "longbench:hotpotqa", say, write) for name, say, write in [*ARCHIVES, *ROWS]),
]
SETTINGS = {"perplexity": {"scored": 32}}


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bounds small enough for a test, and an end to whatever hangs."""
    monkeypatch.setattr(files, "LINE_BYTES", 1 << 19)
    monkeypatch.setattr(files, "BLANK_LINES", 1000)

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError(f"still reading after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def said(name: str, folder: Path) -> str | None:
    """The sentence about the data of a task; None where its prompts are made."""
    base, _, subset = name.partition(":")
    cls = registry.task(base)
    assert issubclass(cls, Task)
    task = cls(subset or None, cls.settings_model(**SETTINGS.get(base, {})), DataSource(data_dir=folder))
    try:
        task.check()
        assert list(task.instances(byte_tokenizer(300), 1024, 2, 0))
    except UserError as error:
        return str(error)
    return None


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 80
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_data_is_one_sentence_and_good_data_is_read(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "dd"
    folder.mkdir()
    case.write(folder)
    sentence = said(case.task, folder)
    if case.say is None:
        assert sentence is None
        return
    assert sentence is not None, "accepted"
    assert case.say in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500
    sentence.encode()  # can be printed and stored


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_one_sentence(tmp_path: Path) -> None:
    unreadable(tmp_path)
    assert "a.txt cannot be read" in str(said("needle", tmp_path))


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


MANY = lines(*({"text": f"{LONG} {n}"} for n in range(9)))
FORMATS = {
    "needle": {
        "a.txt": LONG.encode(),
        "a.jsonl": MANY,
        "a.jsonl.gz": gzip.compress(MANY),
        "a.jsonl.xz": lzma.compress(MANY),
        "a.parquet": saved(lambda out: pyarrow.parquet.write_table(pyarrow.table({"text": [LONG] * 20}), out)),
    },
    "longbench:hotpotqa": {"data.zip": archive({"data/hotpotqa.jsonl": MEMBER * 3})},
}


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, names in FORMATS.items() for name in names])
def test_damage_at_random_is_one_sentence_or_still_readable(task: str, name: str, tmp_path: Path) -> None:
    rng = random.Random(name)
    good = FORMATS[task][name]
    sentences = 0
    for _ in range(COUNT):
        raw = bytearray(good)
        for _ in range(rng.choice([1, 1, 3, 20])):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        if rng.random() < 0.3:
            del raw[rng.randrange(len(raw)) :]
        (tmp_path / name).write_bytes(raw)
        sentence = said(task, tmp_path)
        sentences += sentence is not None
        assert "\n" not in (sentence or "")
    assert sentences >= 5
