"""A worker of a cluster, without the cluster: what it keeps from job to job, and what does not travel with one."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from standins import write_preset

pytest.importorskip("ray")
from evals.records.models import CellState
from evals.run.cluster.messages import Appended, Ended, Message
from evals.run.cluster.schedule import Job, jobs
from evals.run.cluster.worker import Worker
from evals.run.engine import Engine
from evals.run.grid import Cell, plan
from evals.run.spec import RunSpec
from evals.tasks.common import documents
from evals.tasks.perplexity.task import Perplexity


def spec(texts: Path, folder: Path) -> RunSpec:
    models = [str(write_preset(folder, name, settings={"factor": at + 1})) for at, name in enumerate("ab")]
    settings = {"scored": 16, "windows": 1, "min_tokens": 64}
    grid = {"tasks": ["perplexity"], "models": models, "lengths": [64, 96], "settings": settings}
    return RunSpec(**grid, data_dir=texts, random_weights=True, perf=False)


def made(cells: list[Cell]) -> list[Job]:
    states: dict[str, CellState] = {cell.id: cell.state() for cell in cells}
    return [Job(job.cells, job.cost, states={job.cells[0].id: states[job.cells[0].id]}) for job in jobs(cells, states)]


def told(worker: Worker) -> list[Message]:
    found: list[Message] = []
    while not (found and isinstance(found[-1], Ended)):
        found += worker.messages(10.0)
    return found


@pytest.mark.usefixtures("standins")
def test_a_worker_reads_the_texts_of_a_task_once(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = spec(texts, tmp_path)
    sent = [pickle.dumps(job) for job in made(plan(asked))]
    reads = []
    read = documents.documents
    monkeypatch.setattr(documents, "documents", lambda *source: (reads.append(source), read(*source))[1])
    worker = Worker(asked, str(tmp_path), threads=1)
    records = []
    for job in sent:
        worker.start(pickle.loads(job))
        records.append([record for each in told(worker) if isinstance(each, Appended) for record in each.records])
    assert len(sent) == 4
    assert all(records)
    assert len(reads) == 1


@pytest.mark.usefixtures("standins")
def test_one_thread_does_all_jobs(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = spec(texts, tmp_path)
    threads = []
    run_model = Engine.run_model
    monkeypatch.setattr(
        Engine, "run_model", lambda *job: (threads.append(threading.current_thread()), run_model(*job))[1]
    )
    worker = Worker(asked, str(tmp_path), threads=1)
    for job in made(plan(asked)):
        worker.start(job)
        told(worker)
    assert len(threads) == 4
    assert set(threads).isdisjoint([threading.main_thread()])
    assert len(set(threads)) == 1


@pytest.mark.usefixtures("standins")
def test_texts_do_not_travel_with_a_task(texts: Path, tmp_path: Path) -> None:
    (cell, *_) = plan(spec(texts, tmp_path))
    task = cell.task.task
    assert isinstance(task, Perplexity)
    before = pickle.dumps(cell)
    task.check()
    assert sum(len(document.text) for document in task._documents) > len(before)
    assert len(pickle.dumps(cell)) == len(before)


def test_processes_of_workers_start_before_the_driver_imports_torch() -> None:
    modules = "evals.cli.evaluate, evals.cli.way, evals.run.cluster.connect"
    code = f"import sys, {modules}; print({{'torch', 'transformers'}} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
