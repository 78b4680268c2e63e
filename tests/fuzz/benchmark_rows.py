"""What the tests of damaged benchmark files share: a good row, bytes that are none, and how a refusal looks."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import Instance, Task
from evals.tasks.common.source import DataSource
from evals.tasks.longbench.task import LongBench
from evals.tasks.settings.official import OfficialSettings

Json = dict[str, Any]
LONGBENCH: Json = {
    "input": "Who sings?", "context": "Ann sings. " * 20, "answers": ["Ann"], "length": 40, "dataset": "hotpotqa",
    "language": "en", "all_classes": ["Ann", "Bob"], "_id": "a",
}  # fmt: skip
PLACE = r"(line|row) \d+|\.json|\.txt|\.csv|\.zip"


def line(row: object) -> bytes:
    return json.dumps(row).encode() + b"\n"


BYTES = {
    "cut in the middle": b'{"input": "Who',
    "single quotes": b"{'input': 'Who'}\n",
    "a comment": b"// rows\n",
    "not UTF-8": b'{"input": "\xff"}\n',
    "UTF-16": json.dumps(LONGBENCH).encode("utf-16"),
    "UTF-32": json.dumps(LONGBENCH).encode("utf-32"),
    "only blank lines": b"\n\n  \n",
    "empty": b"",
    "NUL bytes": b"\x00" * 100,
    "a NUL block after a row's start": b'{"input"\x00\x00\x00',
    "a list": b"[1, 2]\n",
    "a number": b"17\n",
    "null": b"null\n",
    "text": b'"text"\n',
    "true": b"true\n",
    "two values on a line": b"{}{}\n",
    "deep lists": b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
    "a number of 5000 digits": b'{"length": ' + b"9" * 5000 + b"}\n",
    "half a character": line(LONGBENCH).replace(b"Who", b"\\ud800"),
    "half a character in a name": b'{"\\udc00": 1}\n',
    "a key twice": line(LONGBENCH).replace(b'"length"', b'"input"'),
    "a key twice, deep inside": b'[{"data": {"a": 1, "a": 2}}]',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00",
    "a zip that is called jsonl": b"PK\x03\x04\x14\x00\x00\x00",
    "a gzip that is called jsonl": gzip.compress(b"{}"),
}


def longbench(dataset: str, kind: type[LongBench] = LongBench) -> Callable[[Path], Task]:
    return lambda folder: kind(dataset, OfficialSettings(), DataSource(folder, offline=True))


def asked(task: Task, length: int) -> list[Instance]:
    task.check()
    task.check_length(length)
    return list(task.instances(byte_tokenizer(258), length, 4, 0))


def refuse(make: Callable[[Path], Task], folder: Path, message: str, length: int = 8192) -> None:
    task = make(folder)
    with pytest.raises(UserError, match=message) as caught:
        asked(task, length)
    said = str(caught.value)
    assert re.search(PLACE, said), f"no place in: {said}"
    assert said.count("\n") == 0
    assert len(said) < 500
    assert said.endswith(".")


def changed(row: Json, fields: Json) -> Json:
    """The row with other fields; `...` leaves one out. Its _id is new."""
    merged = {**row, **({"_id": "b"} if "_id" in row else {}), **fields}
    return {name: value for name, value in merged.items() if value is not ...}
