"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this worker process as soon as its parent is gone, `kill -9` included.

    The parent is watched through the pipe that multiprocessing opens before it starts a worker. Comparing process
    ids, as torch's own loader does, misses a parent that died before the worker looked for the first time: that
    worker would wait for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker process has a parent to watch"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
