"""Damaged files of published sets whose tasks are otherwise generated: each is one sentence with its file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmark_rows import BYTES, asked

from evals.errors import UserError
from evals.tasks.base import Task
from evals.tasks.common.source import DataSource
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.graphwalks.task import GraphWalks
from evals.tasks.mrcr.settings import MrcrSettings
from evals.tasks.mrcr.task import Mrcr
from evals.tasks.nolima.settings import NolimaSettings
from evals.tasks.nolima.task import Nolima


def graphwalks(folder: Path) -> Task:
    return GraphWalks("bfs", GraphWalksSettings(source="official"), DataSource(folder, offline=True))


def mrcr(folder: Path) -> Task:
    return Mrcr("2needle", MrcrSettings(source="official"), DataSource(folder, offline=True))


def nolima(folder: Path) -> Task:
    books = folder / "haystack" / "rand_shuffle"
    books.mkdir(parents=True)
    (books / "rand_book_1.txt").write_text("A line.\n" * 4000)
    return Nolima("onehop", NolimaSettings(source="official"), DataSource(folder, offline=True))


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (graphwalks, "graphwalks_128k_and_shorter.parquet"),
        (mrcr, "2needle/2needle_0.parquet"),
        (nolima, "needlesets/needle_set.json"),
    ],
    ids=["graphwalks", "mrcr", "nolima"],
)
def test_damaged_bytes_of_published_sets(
    make: Callable[[Path], Task], name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    task = make(tmp_path)
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        asked(task, 8192)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 500
