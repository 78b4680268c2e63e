"""What runs are called beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.report.run_names import folder_names, labels


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["/a/one", "/a/<b>"], ["one", "b"]),
        (["/a/x/run", "/a/y/run"], ["x-run", "y-run"]),
        (["/a/run", "/b/RUN"], ["a-run", "b-RUN"]),
        (["/a/b?", "/a/b!"], ["b-1", "b-2"]),
        (["/a", "/a"], ["a-1", "a-2"]),
    ],
)
def test_folders_are_named_by_as_much_of_their_paths_as_tells_them_apart(paths: list[str], found: list[str]) -> None:
    assert folder_names(list(map(Path, paths))) == found


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["/a/one", "/a/<b>"], ["one", "<b>"]),
        (["/a/x/run", "/a/y/run"], ["x/run", "y/run"]),
        (["/run", "/a/run"], ["run", "a/run"]),
        (["/a/b", "/a/b"], ["b", "b"]),
    ],
)
def test_people_read_the_folders_themselves(paths: list[str], found: list[str]) -> None:
    assert labels(list(map(Path, paths))) == found
