"""What a process has started."""

from __future__ import annotations

import psutil


def workers_of(pid: int | None) -> list[psutil.Process]:
    """Its children, without the tracker of shared resources that multiprocessing starts beside them."""
    started = psutil.Process(pid).children()
    return [child for child in started if "resource_tracker" not in " ".join(child.cmdline())]
