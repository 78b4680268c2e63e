"""The paper's ablations (table 5) on a small base: every variant trained briefly with the same steps, then compared.

    python benchmarks/ablations.py --base BASE --data TRAIN.jsonl ... --heldout TEXTS.jsonl ... --output DIR --jobs 4
    python benchmarks/ablations.py ... --variants height=2,beta=1 --steps 120 --needles --set lower_layers=4

A variant is the reference with one setting of the method changed. All start from the base, as the identity, and see
the same batches in the same order; `--jobs` of them train at once on one device, in processes that load the base once
each. DIR/ablation.json holds the shared settings and the result of each variant. The same command resumes: finished
variants are not run again, others continue from their checkpoint in DIR/variants/NAME, which also has their log.
Tables (CSV, Markdown, LaTeX) and bars are written to DIR, with published values beside ours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TextIO

import torch
from ablation_bench import Recipe, longest_first, select, shared_settings, tokenize, train

from evals.errors import UserError
from sharedllm.plain_yaml import assignments
from sharedllm.processes import end_with_parent
from sharedllm.training.trainer import CHECKPOINT

REPORT_EVERY = 15.0
"""Seconds between two lines of progress."""
STEP = re.compile(r"^step (\d+)/", re.MULTILINE)


def open_record(recipe: Recipe) -> dict[str, Any]:
    """The record of earlier calls in DIR/ablation.json, or a new one. UserError if its shared settings differ."""
    if missing := [p for p in (*recipe.data, *recipe.heldout) if not p.is_file()]:
        raise UserError(f"There is no data file {missing[0]}.")
    wanted = {
        "settings": json.loads(recipe.settings),
        "base": recipe.base,
        "data": [p.name for p in recipe.data],
        "heldout": [p.name for p in recipe.heldout],
        "windows": recipe.windows,
    }
    path = recipe.output / "ablation.json"
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["budget"] != wanted:
            raise UserError(f"{path} holds variants with other settings: choose another --output.")
        return record
    return {"budget": wanted, "variants": {}}


def save(record: dict[str, Any], path: Path) -> None:
    """Write the record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def workers(jobs: int) -> Executor:
    """One variant at a time in this process, or several at once in processes of their own."""
    if jobs == 1:
        return ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=begin_worker, initargs=(threads,))


def begin_worker(threads: int) -> None:
    """Share the processor's cores, and exit with the parent.

    A worker whose parent was killed would otherwise keep training beside the one that a second call starts.
    """
    torch.set_num_threads(threads)
    end_with_parent()


def results(recipe: Recipe, names: Sequence[str], jobs: int, stream: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and record of each variant, as they finish; progress on `stream`.

    Raises UserError if a worker process died. An exception in a variant is raised here once the others have ended.
    """
    steps = json.loads(recipe.settings)["steps"]
    progress = Progress([recipe.folder(n) for n in names], steps, stream)
    executor = workers(min(jobs, len(names)))
    try:
        running = {executor.submit(train, recipe, name): name for name in names}
        while running:
            finished, _ = wait(running, REPORT_EVERY, FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
            progress.show(len(names) - len(running))
    except BrokenProcessPool:
        raise UserError(
            f"A worker process died, perhaps out of memory (logs: {recipe.output}/variants): run the same command "
            "again, with fewer --jobs."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


class Progress:
    """Counts the steps in the variants' logs and estimates the remaining time."""

    def __init__(self, folders: Sequence[Path], steps: int, stream: TextIO) -> None:
        self.folders, self.total, self.stream = folders, steps * len(folders), stream
        self.begin, self.before = time.monotonic(), self._steps()

    def show(self, finished: int) -> None:
        """One line: variants, share of all steps, time left at the speed so far."""
        done = self._steps()
        made, left = done - self.before, self.total - done
        eta = f", about {(time.monotonic() - self.begin) / made * left:.0f} s left" if made and left else ""
        line = f"[{finished}/{len(self.folders)}] {done}/{self.total} steps{eta}"
        print(line, file=self.stream, flush=True)

    def _steps(self) -> int:
        logs = [folder / "train.log" for folder in self.folders]
        found = [STEP.findall(log.read_text(encoding="utf-8")) for log in logs if log.exists()]
        return sum(int(steps[-1]) for steps in found if steps)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write table and bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or hub name")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help=".txt, .jsonl(.gz|.xz), .tokens.npz")
    parser.add_argument("--heldout", type=Path, nargs="+", required=True, help="at least two long documents per file")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variants", type=lambda text: text.split(","), help="all by default")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1, help="variants trained at once")
    parser.add_argument("--needles", action="store_true", help="also train and evaluate needles, and vary the search")
    parser.add_argument("--windows", type=int, default=6, help="held-out windows per file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="KEY=VALUE of training or method")
    chosen = parser.parse_args(arguments)
    try:
        ablate(chosen, sys.argv[1:] if arguments is None else list(arguments))
    except UserError as error:
        print(f"ablations.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def ablate(chosen: argparse.Namespace, arguments: list[str]) -> None:
    """Train and evaluate the variants that the record lacks."""
    if chosen.jobs < 1:
        raise UserError(f"--jobs {chosen.jobs} trains nothing: give 1 or more.")
    changes = assignments(chosen.set)
    settings = shared_settings(chosen.steps, chosen.needles, changes)
    names = select(chosen.variants, bool(settings.needles))
    files = (tuple(chosen.data), tuple(chosen.heldout), chosen.output)
    recipe = Recipe(chosen.base, *files, settings.model_dump_json(), chosen.windows)
    record = open_record(recipe)
    done = record["variants"]
    missing = longest_first([n for n in names if n not in done], settings)
    if missing:
        tokenize(recipe)
        path = chosen.output / "ablation.json"
        save(record, path)  # before training starts: DIR/variants belongs to these settings
        command = shlex.join(["python", "benchmarks/ablations.py", *arguments])
        output = sys.stdout  # a variant that trains in this process redirects it in the meantime
        for name, result in results(recipe, missing, chosen.jobs, sys.stderr):
            done[name] = {**result, "command": command}
            save(record, path)
            (recipe.folder(name) / CHECKPOINT).unlink()
            print(json.dumps({name: {k: result[k] for k in ("train_s", "evaluate_s")}}), file=output, flush=True)
    from ablation_report import write  # not at the top: every worker imports this file, and none of them draws

    write(record, chosen.output)


if __name__ == "__main__":
    main()
