"""Run folders that are damaged, hostile or nonsense: `sharedllm-report` works on what is left, or says what is wrong
in one sentence that names the file.

Plots take most of the time and are drawn for a few cases. `make fuzz` draws them for all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.synthetic_run import write_run

from evals.cli.report import main
from evals.records.read import REPAIR

FULL, SHARED = "synthetic-full", "synthetic-sharedllm"
Edit = Callable[[Any], object]
HUGE = 10**30
ALL = "SHAREDLLM_FUZZ" in os.environ


def put(*path: Any, value: Any) -> Edit:
    """Set the value at a path; `*` stands for the first entry of an object."""

    def edit(record: Any) -> None:
        *parents, last = path
        for name in parents:
            record = record[next(iter(record))] if name == "*" else record[name]
        record[next(iter(record)) if last == "*" else last] = value

    return edit


def drop(*path: Any) -> Edit:
    """Remove the value at a path."""

    def edit(record: Any) -> None:
        *parents, last = path
        for name in parents:
            record = record[next(iter(record))] if name == "*" else record[name]
        del record[next(iter(record)) if last == "*" else last]

    return edit


CELL, MODEL = ("cells", "*"), ("models", "*")
RUN: dict[str, Edit] = {
    "no created": drop("created"),
    "created junk": put("created", value="yesterday"),
    "created int": put("created", value=5),
    "created far": put("created", value="9999-12-31T23:59:59+00:00"),
    "created without zone": put("created", value="2000-01-01"),
    "created empty": put("created", value=""),
    "format 2": put("format", value=2),
    "format text": put("format", value="1"),
    "cells list": put("cells", value=[]),
    "cells empty": put("cells", value={}),
    "models list": put("models", value=[]),
    "models empty": put("models", value={}),
    "command int": put("command", value=5),
    "environment list": put("environment", value=[1]),
    "environment nan": put("environment", value={"x": float("nan")}),
    "environment deep": put("environment", value={"x": [[[[[[[[[[1]]]]]]]]]]}),
    "spec null": put("spec", value=None),
    "resumed text": put("resumed", value="yes"),
    "timing text": put("timing", value="yes"),
    "merged int": put("merged", value=1),
    "unknown field": put("colour", value="blue"),
    **{f"cell no {name}": drop(*CELL, name) for name in (
        "model", "task", "length", "settings", "metric", "higher_is_better", "status", "task_version", "max_context",
    )},
    **{f"cell {name}={str(value)[:20]}": put(*CELL, name, value=value) for name, values in {
        "model": (1, [], None, "", "unknown", "\u202egnp", "a\x1b[31m", "x" * 5000, "[bold]", "{{7*7}}", "$x^_"),
        "task": (1, None, "", "needel", "needle:", "needle:x", "longbench:qasper", "\x00", "a" * 400),
        "length": ("x", 1.5, HUGE, -1, 0, 2**62, True, [], 1),
        "settings": (None, [], {"x": 1}, {"digits": "many"}, {"digits": HUGE}, 5),
        "metric": (None, 5, "", "unheard", "model", "n", "status", "length", "cell"),
        "higher_is_better": (None, "yes", 2, []),
        "status": (5, [], "fine", None, "oom", "failed", "pending"),
        "task_version": ("one", None, 1.5, HUGE),
        "max_context": ("big", -1, HUGE, [], 2**62),
        "error": (5, "\x1b[2J\u202e<b>", "x" * 100_000),
    }.items() for value in values},
    "cell is null": put("cells", "*", value=None),
    "cell is list": put("cells", "*", value=[]),
    "cell id strange": lambda run: run["cells"].update({"\u202e<b>\x1b": run["cells"].pop(next(iter(run["cells"])))}),
    "model null": put("models", "*", value=None),
    "model no preset": drop(*MODEL, "preset"),
    "model preset null": put(*MODEL, "preset", value=None),
    "model preset empty": put(*MODEL, "preset", value={}),
    "model method int": put(*MODEL, "preset", "method", value=5),
    "model method unknown": put(*MODEL, "preset", "method", value="nothing"),
    "model settings list": put(*MODEL, "preset", "settings", value=[1]),
    "model settings null": put(*MODEL, "preset", "settings", value=None),
    "model ratios junk": put(*MODEL, "preset", value={"method": "sharedllm", "settings": {"ratios": ["x"]}}),
    "model ratios zero": put(*MODEL, "preset", value={"method": "sharedllm", "settings": {"ratios": [0]}}),
    "model budget list": put(*MODEL, "budget", value=[]),
    "model no budget": drop(*MODEL, "budget"),
    "model budget nested": put(*MODEL, "budget", value={"x": {"y": [1, {"z": float("inf")}]}}),
    "model budget hostile": put(*MODEL, "budget", value={"\u202e\x1b<b>": "\u2066</script>"}),
    "model identity int": put(*MODEL, "identity", value=7),
}  # fmt: skip

LINE: dict[str, Edit] = {
    **{f"sample no {name}": drop(name) for name in (
        "cell", "sample", "status", "metrics", "output", "reference", "group", "meta", "audit", "prompt", "trace",
        "seconds", "error", "kind",
    )},
    **{f"sample {name}={str(value)[:20]}": put(name, value=value) for name, values in {
        "kind": ("other", 5, None),
        "cell": (5, None, [], "unknown", "\u202e"),
        "sample": (5, None, [], "", "\x1b]0;x\x07", "x" * 100_000),
        "status": ("fine", None, 5, "failed"),
        "metrics": (
            None, [], {}, {"exact_match": "x"}, {"exact_match": None}, {"exact_match": 10**400},
            {"exact_match": float("nan")}, {"exact_match": float("inf")}, {"exact_match": -float("inf")},
            {"exact_match": 1e308}, {"": 1}, {"model": 1.0}, {"ttft_s": 1.0}, {"cell": 1.0}, {"exact_match_low": 1.0},
            {"exact_match": True}, {"\u202e": 1.0}, {"status": 2.0, "exact_match": 1.0},
        ),
        "output": (None, "text", {}, {"text": None, "tokens": 1}, {"text": "\ud800", "tokens": 1},
                   {"text": "\x00\x1b[31m\u202e</script>", "tokens": -5}, {"text": "x", "tokens": "many"}),
        "reference": (None, {"a": [1, {"b": None}]}, 5, "\ud800\u2067"),
        "group": (None, 5, [], "", "\u202e"),
        "meta": (None, [], {"depth": "x"}, {"depth": None}, {"depth": float("nan")}, {"depth": 1e300}, {"depth": -5},
                 {"depth": []}, {"token": 10**20}),
        "audit": (None, 5, {"tokens": "x"}, {"cut_at": "x"}),
        "prompt": (None, "text", {"head": 1}, {"head": "\u202e", "tail": "\x9b"}),
        "trace": (None, [], {"kept_full": "x"}, {"kept_full": [1, 2]}, {"kept_full": [{"start": "a"}]}),
        "seconds": (None, {"read": "x"}, {"read": -1}),
    }.items() for value in values},
}  # fmt: skip

PERF: dict[str, Edit] = {
    **{f"perf no {name}": drop(name) for name in ("status", "cell", "ttft_s", "peak_bytes")},
    **{f"perf {name}={str(value)[:20]}": put(name, value=value) for name in ("ttft_s", "tpot_ms", "peak_bytes")
       for value in ("x", [], None, float("nan"), float("inf"), -1, 0, 1e-300, 1e308, HUGE)},
}  # fmt: skip

RAW: dict[str, Callable[[bytes], bytes]] = {
    "empty line": lambda raw: b"\n" + raw,
    "no line": lambda raw: b"",
    "zeros": lambda raw: b"\0" * 4096 + b"\n" + raw,
    "not utf-8": lambda raw: raw.replace(b"Invented", b"Inv\xffnted", 1),
    "cut": lambda raw: raw[: len(raw) // 2],
    "deep": lambda raw: b"[" * 100_000 + b"\n" + raw,
    "long number": lambda raw: raw.replace(b'"tokens": ', b'"tokens": ' + b"9" * 6000, 1),
    "byte-order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "utf-16": lambda raw: raw.decode().encode("utf-16"),
    "carriage returns": lambda raw: raw.replace(b"\n", b"\r\n"),
    "numbers": lambda raw: b"1\n2\n" + raw,
    "null": lambda raw: b"null\n" + raw,
    "a page of html": lambda raw: b"<html>\n" * 50,
}
FILES: dict[str, Callable[[Path], object]] = {
    "samples folder": lambda f: (f / "samples.jsonl").unlink() or (f / "samples.jsonl").mkdir(),
    "samples missing": lambda f: (f / "samples.jsonl").unlink(),
    "samples loop": lambda f: (f / "samples.jsonl").unlink() or (f / "samples.jsonl").symlink_to("samples.jsonl"),
    "run folder": lambda f: (f / "run.json").unlink() or (f / "run.json").mkdir(),
    "run loop": lambda f: (f / "run.json").unlink() or (f / "run.json").symlink_to("run.json"),
    "run is a pipe": lambda f: (f / "run.json").unlink() or os.mkfifo(f / "run.json"),
    "run is a device": lambda f: (f / "run.json").unlink() or (f / "run.json").symlink_to("/dev/zero"),
    "samples are a pipe": lambda f: (f / "samples.jsonl").unlink() or os.mkfifo(f / "samples.jsonl"),
    "run missing": lambda f: (f / "run.json").unlink(),
    "run empty": lambda f: (f / "run.json").write_bytes(b""),
    "run list": lambda f: (f / "run.json").write_bytes(b"[]"),
    "run huge int": lambda f: (f / "run.json").write_bytes(b'{"format": ' + b"1" * 6000 + b"}"),
    "run deep": lambda f: (f / "run.json").write_bytes(b'{"a":' * 50_000),
    "run byte-order mark": lambda f: (f / "run.json").write_bytes(b"\xef\xbb\xbf" + (f / "run.json").read_bytes()),
    "run latin-1": lambda f: (f / "run.json").write_bytes(b'{"format": 1, "x": "\xe9"}'),
    "report is a folder": lambda f: (f / "report.html").mkdir(),
    "plots is a file": lambda f: (f / "plots").write_bytes(b""),
    "tables is a file": lambda f: (f / "tables").write_bytes(b""),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_run(tmp_path_factory.mktemp("run"), samples=2, models=(FULL, SHARED), tasks=("needle", "perplexity"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(written: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[Path]:
    from evals.report import plots

    if not ALL and not request.function.__name__.startswith("test_plots"):
        monkeypatch.setattr(plots, "draw", lambda data, folder: [])
    run = tmp_path / "r"
    run.mkdir()
    for name, content in written.items():
        (run / name).write_bytes(content)
    return run


def edit_line(folder: Path, kind: str, edit: Edit) -> None:
    """Change the first record of a kind."""
    file = folder / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    edit(next(row for row in rows if row["kind"] == kind))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def behaves(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command: it ends with an exit code, at most one sentence where it is 2, and prints nothing unsafe."""
    with pytest.raises(SystemExit) as done:
        main([*arguments, str(folder)] if not arguments else [arguments[0], str(folder), *arguments[1:]])
    out, err = capsys.readouterr()
    code = done.value.code or 0
    assert code in (0, 1, 2)
    for stream in (out, err):
        assert not any(c in stream for c in "\x00\x1b\x07\x9b\u202e\u2066\u2067\ud800")
    if code == 2:
        notes = ("left out", "do not count")  # they come first
        assert len([line for line in err.strip().splitlines() if not any(n in line for n in notes)]) == 1, err
        assert any(name in err for name in (folder.name, "recorded task", "model", "task", "compared")), err
    else:
        json.loads(out.strip().splitlines()[-1])
    return int(code), err


def both(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Report and compare, and the page is safe."""
    code, _ = behaves(folder, capsys)
    page = folder / "report.html"
    if code == 0:
        text = page.read_text(encoding="utf-8")
        assert not any(c in text for c in "\x00\x1b\u202e\u2066\ufffe")
    behaves(folder, capsys, "compare", "--model", f"{FULL},{SHARED}")


@pytest.mark.parametrize("name", RUN)
def test_a_strange_run_record(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "run.json").read_text())
    RUN[name](record)
    (folder / "run.json").write_text(json.dumps(record))
    both(folder, capsys)


@pytest.mark.parametrize("name", LINE)
def test_a_strange_sample(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_line(folder, "sample", LINE[name])
    both(folder, capsys)


@pytest.mark.parametrize("name", PERF)
def test_a_strange_measurement(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_line(folder, "perf", PERF[name])
    both(folder, capsys)


@pytest.mark.parametrize("name", RAW)
def test_a_strange_file_of_samples(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "samples.jsonl"
    file.write_bytes(RAW[name](file.read_bytes()))
    both(folder, capsys)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_something_else(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FILES[name](folder)
    behaves(folder, capsys)


@pytest.mark.parametrize("edit", [
    put("metrics", value={"exact_match": float("nan")}),
    put("metrics", value={"exact_match": 1e308}),
    put("meta", value={"depth": 1e300}),
    put("meta", value={"depth": "x"}),
])  # fmt: skip
def test_plots_of_strange_samples(edit: Edit, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_line(folder, "sample", edit)
    assert behaves(folder, capsys)[0] == 0


def test_plots_where_no_model_has_all_subsets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "run.json").read_text())
    for cell in record["cells"].values():
        if cell["task"] == "needle":
            cell["task"] = f"needle:{cell['model'][-4:]}"
    (folder / "run.json").write_text(json.dumps(record))
    assert behaves(folder, capsys)[0] in (0, 2)


@pytest.mark.parametrize("name", ["", "\u202egnp\x1b[31m", "$x^_", "{{7*7}}</svg><script>", "\ud800"])
def test_plots_of_strange_names(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((folder / "run.json").read_text())
    for cell in record["cells"].values():
        if cell["model"] == FULL:
            cell["model"] = name
    (folder / "run.json").write_text(json.dumps(record))
    code, _ = behaves(folder, capsys)
    assert code == (2 if name == "\ud800" else 0)
    plots = list((folder / "plots").glob("*.svg"))
    assert bool(plots) == (code == 0)
    for plot in plots:
        assert not any(c in plot.read_text() for c in ("\x1b", "\u202e", "<script>"))


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl"])
def test_a_run_does_not_wait_for_a_pipe_in_its_folder(name: str, tmp_path: Path, tiny_presets, start) -> None:
    os.mkfifo(tmp_path / name)
    arguments = ("--task", "needle", "--model", tiny_presets("full"), "--length", 512, "--limit", 1)
    process = start(*arguments, "--device", "cpu", "--offline", "--no-perf", "--output", tmp_path)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 2
    assert err == f"{tmp_path / name} is not a regular file: {REPAIR}.\n"
