"""The harness itself at the size of a large sweep: cells and samples that cost nothing, through store and report.

    python benchmarks/many_samples.py --cells 10000 --samples 1000000 --output runs/many-samples
    python benchmarks/many_samples.py --cells 500 --samples 50000 --no-plots --output runs/some-samples

The records are invented, as large as those of the needle task, and no model is loaded. Each step runs in a process of
its own: `write` appends the first 20,000 through the store (one by one, with an fsync each, then in batches) and the
rest to its file, `resume` opens the run as a start of the same command does, `report` writes tables, plots and page.
Printed, and written to OUTPUT/many_samples.json: seconds, records a second, CPU time and largest resident memory of the
process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from evals.records.lines import CHECK, CHECK_SIZE, encode
from evals.records.models import Answer, CellState, ModelEntry, PromptEnds, SampleRecord
from evals.records.store import RunStore

MODELS, LENGTHS = 10, 50
SINGLE = 500
"""Records that are written one by one."""
BATCH = 1000
THROUGH_STORE = 20_000
"""Records that the store writes: enough for a rate. The others only have to be there."""
KEY = "many samples"
HEADER: dict[str, Any] = {"command": ["many_samples.py"], "spec": {}, "environment": {}, "identity_schema": 2}
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
WORDS = "An invented sentence of the haystack goes on and on until its end. "


def states(cells: int) -> dict[str, CellState]:
    """Cells of ten models and fifty lengths; further ones are needle tasks of other names."""
    found = {}
    for number in range(cells):
        place, model = divmod(number, MODELS)
        subset, length = divmod(place, LENGTHS)
        found[f"{number:016x}"] = CellState(
            model=f"model-{model}",
            task="needle" if not subset else f"needle:{subset}",
            length=1024 * (length + 1),
            settings={},
            task_version=2,
            metric="exact_match",
            higher_is_better=True,
        )
    return found


def places(cells: Sequence[str], samples: int) -> Iterator[tuple[str, int]]:
    """Cell and number of so many records, shared out to the cells in their order."""
    each, more = divmod(samples, len(cells))
    for position, cell in enumerate(cells):
        for number in range(each + (position < more)):
            yield cell, number


def is_right(cell: str, number: int) -> bool:
    return (number * 2654435761 + int(cell, 16)) % 97 < 60


def record(cell: str, number: int) -> SampleRecord:
    depth = DEPTHS[number % len(DEPTHS)]
    right = float(is_right(cell, number))
    return SampleRecord(
        cell=cell,
        sample=f"depth{depth:g}-sample{number // 5}-needle0",
        metrics={"exact_match": right, "digit_accuracy": right, "strict_match": right},
        output=Answer(text=" 4431653.", tokens=12),
        reference="4431653",
        group=f"depth{depth:g}-sample{number // 5}",
        meta={"depth": depth, "depth_percent": depth, "needle": 0, "key": "Cardiff", "token": 17},
        audit={"tokens": 1000, "cut_tokens": 0, "cut_at": None, "bos": 1, "template_sha256": None},
        prompt=PromptEnds(head=WORDS * 7, tail=WORDS * 14),
        seconds={"read": 0.01, "answer": 0.02},
    )


def append_directly(file: Path, wanted: Iterator[tuple[str, int]]) -> None:
    """The same lines as the store's, from one of each kind with another cell and checksum."""
    known: dict[tuple[int, bool], tuple[str, bytes]] = {}
    with file.open("ab") as lines:
        for cell, number in wanted:
            kind = number, is_right(cell, number)
            if kind not in known:
                known[kind] = cell, encode(record(cell, number))[: -CHECK_SIZE - 1]
            other, line = known[kind]
            body = line.replace(other.encode(), cell.encode(), 1)
            lines.write(b'%b%b%08x"}\n' % (body, CHECK, zlib.crc32(body + b"}")))


def write(folder: Path, cells: int, samples: int) -> dict[str, float]:
    known = states(cells)
    with RunStore(folder, KEY, HEADER) as store:
        for name in dict.fromkeys(state.model for state in known.values()):
            store.meta.models[name] = ModelEntry(preset={"name": name, "method": "full"}, fairness={"kernel": "none"})
        store.meta.cells.update(known)
        begin = time.perf_counter()
        store.save()
        save_s = time.perf_counter() - begin
        wanted = places(list(known), samples)
        begin = time.perf_counter()
        for place in islice(wanted, SINGLE):
            store.append(record(*place))
        single_s = time.perf_counter() - begin
        begin, batches = time.perf_counter(), (THROUGH_STORE - SINGLE) // BATCH
        for _ in range(batches):
            if batch := [record(*place) for place in islice(wanted, BATCH)]:
                store.append(*batch)
        batch_s = time.perf_counter() - begin
    append_directly(folder / "samples.jsonl", wanted)
    with RunStore(folder, KEY, HEADER) as store:
        for cell, state in store.meta.cells.items():
            state.status, state.samples = "ok", len(store.samples.get(cell, ()))
        store.save()
    return {
        "save_run_json_s": save_s,
        "records_per_s_one_by_one": SINGLE / single_s,
        f"records_per_s_in_batches_of_{BATCH}": batches * BATCH / batch_s,
        "samples_file_gb": (folder / "samples.jsonl").stat().st_size / 1e9,
    }


def resume(folder: Path, cells: int, samples: int) -> dict[str, float]:
    begin = time.perf_counter()
    with RunStore(folder, KEY, HEADER) as store:
        seconds = time.perf_counter() - begin
        assert sum(map(len, store.samples.values())) == samples
    return {"resume_s": seconds}


def report(folder: Path, cells: int, samples: int) -> dict[str, float]:
    from evals import report as reporting
    from evals.report.load import load

    begin = time.perf_counter()
    run = load(folder)
    load_s = time.perf_counter() - begin
    summary = reporting.write(run, folder)
    assert int(summary["n"].sum()) == samples
    page = (folder / "report.html").stat().st_size
    return {"load_s": load_s, "report_s": time.perf_counter() - begin, "report_html_mb": page / 1e6}


def report_without_plots(folder: Path, cells: int, samples: int) -> dict[str, float]:
    from evals.report import plots

    plots.draw = lambda data, folder: []
    return report(folder, cells, samples)


def measured(step: Callable[[Path, int, int], dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What a step returns, and its memory, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_with_memory, (step, *arguments))


def _with_memory(step: Callable[[Path, int, int], dict[str, float]], *arguments: Any) -> dict[str, float]:
    found = step(*arguments)
    return {**found, "cpu_s": time.process_time(), "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


STEPS = {"write": write, "resume": resume, "report": report}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps one after the other and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--steps", default="write,resume,report", help="which of them, in this order")
    parser.add_argument("--no-plots", action="store_true", help="a report without plots")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    chosen = parser.parse_args(arguments)
    found = {}
    for name in chosen.steps.split(","):
        step = report_without_plots if name == "report" and chosen.no_plots else STEPS[name]
        found[name] = measured(step, chosen.output, chosen.cells, chosen.samples)
        print(name, json.dumps({key: round(value, 3) for key, value in found[name].items()}), flush=True)
    text = json.dumps({"cells": chosen.cells, "samples": chosen.samples, **found}, indent=1)
    (chosen.output / "many_samples.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
