"""A grid in parts: every cell once, wherever it is computed, and the same records as in one run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standins import write_preset

from evals.cli.report import main as report_command
from evals.errors import UserError
from evals.records.read import read_answers, read_records, read_run
from evals.run.shards import Shard

pytestmark = pytest.mark.usefixtures("standins")
DERIVED = ("summary.csv", "summary.md")


@pytest.fixture
def grid(command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs two toy models at three lengths, six cells, or a shard of them: grid("--shard", "1/2") -> Result."""
    presets = ",".join(str(write_preset(tmp_path, name, settings={"factor": f})) for name, f in (("a", 1), ("b", 3)))

    def run(*arguments: object, output: str = "grid") -> Any:
        return command(
            "--task", "sum", "--model", presets, "--length", "64,128,256", "--random-weights", "--no-perf",
            "--device", "cpu", "--output", tmp_path / output, *arguments,
        )  # fmt: skip

    return run


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `sharedllm-report`; returns its exit code and stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            report_command([str(argument) for argument in arguments])
        return int(done.value.code or 0), capfd.readouterr().err

    return run


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first sample of a run; the checksum goes, as in runs before 0.1.0."""
    first, *rest = (folder / "samples.jsonl").read_text().splitlines()
    value = json.loads(first)
    del value["crc"]
    change(value)
    (folder / "samples.jsonl").write_text("\n".join([json.dumps(value), *rest]) + "\n")


def test_shards_together_are_the_plain_run(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    assert grid(output="plain").code == 0
    cells = []
    for index in (1, 2, 3):
        result = grid("--shard", f"{index}/3")
        assert result.code == 0
        assert f"Shard {index} of 3: " in result.err
        cells += [cell["cell"] for cell in result.last["cells"]]
    plain = read_run(tmp_path / "plain")
    assert sorted(cells) == sorted(plain.cells)
    assert report(tmp_path / "grid") == (0, "")
    merged = tmp_path / "grid" / "merged"
    assert sorted(read_answers(merged)) == sorted(read_answers(tmp_path / "plain"))
    assert list(read_run(merged).cells) == list(plain.cells)
    for name in DERIVED:
        assert (merged / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert (merged / "report.html").exists()


def test_what_is_measured_does_not_move_a_cell(grid: Callable[..., Any], tmp_path: Path) -> None:
    grid("--shard", "2/2")
    before = list(read_run(tmp_path / "grid" / "shard-2-of-2").cells)
    grid("--shard", "1/2")
    result = grid("--shard", "2/2")
    assert result.code == 0
    assert [cell["cell"] for cell in result.last["cells"]] == before
    assert len(list(read_records(tmp_path / "grid" / "shard-2-of-2"))) == 6 * len(before)


def test_more_shards_than_cells_leave_some_empty(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    found = [grid("--shard", f"{index}/8") for index in range(1, 9)]
    assert [result.code for result in found] == [0] * 8
    assert sorted(len(result.last["cells"]) for result in found) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert report(tmp_path / "grid")[0] == 0


def test_the_plan_of_an_empty_shard_has_no_cells(grid: Callable[..., Any]) -> None:
    plan = grid("--shard", "7/7", "--dry-run", "--json")
    assert plan.code == 0
    assert plan.last["cells"] == []


def test_missing_and_unfinished_shards_are_named(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    grid("--shard", "2/4")
    grid("--shard", "3/4")
    record = tmp_path / "grid" / "shard-3-of-4" / "run.json"
    record.write_text(record.read_text().replace('"status": "ok"', '"status": "pending"', 1))
    code, err = report(tmp_path / "grid")
    assert code == 2
    assert "Shards 1, 4 of 4 are missing, with 4 cells" in err
    assert "Shard 3 of 4 is not finished (1 of 1 cells)" in err
    assert len(read_run(tmp_path / "grid" / "merged").cells) == 2


def test_the_merged_run_is_continued_by_the_plain_command(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    grid("--shard", "1/2")
    assert "Shard 2 of 2 is missing, with 3 cells" in report(tmp_path / "grid")[1]
    result = grid(output="grid/merged")
    assert result.code == 0
    assert result.last["failed"] == 0
    grid(output="plain")
    assert sorted(read_answers(tmp_path / "grid" / "merged")) == sorted(read_answers(tmp_path / "plain"))
    code, err = report(tmp_path / "grid")
    assert code == 2
    assert "went on after an earlier merge" in err
    assert sorted(read_answers(tmp_path / "grid" / "merged")) == sorted(read_answers(tmp_path / "plain"))


def test_the_same_cell_with_other_answers_is_refused(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    grid("--shard", "1/2")
    grid("--shard", "2/2")
    shards = [tmp_path / "grid" / f"shard-{index}-of-2" for index in (1, 2)]
    copy = tmp_path / "elsewhere"
    shutil.copytree(shards[0], copy)
    assert report(*shards, copy, "--output", tmp_path / "all")[0] == 0
    edit(copy, lambda record: record["metrics"].update(exact=0.5))
    code, err = report(*shards, copy, "--output", tmp_path / "all")
    assert code == 2
    assert "with different records" in err
    assert len(err.splitlines()) == 1


def test_a_shard_that_is_being_written_is_merged_up_to_its_last_line(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    for index in (1, 2):
        grid("--shard", f"{index}/2")
    assert report(tmp_path / "grid")[0] == 0
    whole = sorted(read_answers(tmp_path / "grid" / "merged"))
    with (tmp_path / "grid" / "shard-1-of-2" / "samples.jsonl").open("ab") as file:
        file.write(b'{"kind":"sample","cell":"')
    assert report(tmp_path / "grid")[0] == 0
    assert sorted(read_answers(tmp_path / "grid" / "merged")) == whole


def test_shards_of_different_splits_do_not_mix(
    grid: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    grid("--shard", "1/2")
    grid("--shard", "1/3")
    grid(output="plain")
    code, err = report(tmp_path / "grid")
    assert (code, "not parts of one split" in err) == (2, True)
    code, err = report(tmp_path / "grid" / "shard-1-of-2", tmp_path / "plain", "--output", tmp_path / "all")
    assert (code, "is a whole run, not a shard" in err) == (2, True)
    code, err = report(
        tmp_path / "grid" / "shard-1-of-2", tmp_path / "grid" / "shard-1-of-2", "--output", tmp_path / "plain"
    )
    assert (code, "holds another run" in err) == (2, True)


def test_another_limit_is_another_split(grid: Callable[..., Any]) -> None:
    assert grid("--shard", "1/2", "--limit", 2).code == 0
    result = grid("--shard", "1/2", "--limit", 2, "--seed", 1)
    assert (result.code, "seed was 0, now 1" in result.err) == (2, True)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/3/5", "-1/3", "1/9999999"])
def test_a_part_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="write I/N"):
        Shard.parse(text)
