"""A worker process ends with its parent, even where the parent died before the worker had begun."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from sharedllm.processes import end_with_parent


def late(go: Path, alive: Connection) -> None:
    """Begin once the file `go` is there, then wait for ever. The other end of `alive` closes with this process."""
    while not go.exists():
        time.sleep(0.01)
    end_with_parent()
    while True:
        time.sleep(1)


def trainer(go: Path, tell: Connection) -> None:
    child = multiprocessing.get_context("fork").Process(target=late, args=(go, tell))
    child.start()
    tell.send(child.pid)
    time.sleep(600)


def test_a_worker_whose_parent_died_first_ends_too(tmp_path: Path) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)
    parent = multiprocessing.get_context("spawn").Process(target=trainer, args=(tmp_path / "go", send))
    parent.start()
    send.close()
    worker = psutil.Process(receive.recv())
    os.kill(parent.pid or 0, signal.SIGKILL)
    parent.join()
    assert worker.is_running()
    (tmp_path / "go").touch()
    try:
        assert receive.poll(30), "the pipe is open as long as the worker lives"
    finally:
        if worker.is_running():
            worker.kill()
