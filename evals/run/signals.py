"""SIGTERM, the way of job schedulers and `kill`, ends a run as Ctrl-C does: what was measured is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminable:
    """Whether this process was told to end. There is one of it, as there is one handler of a signal."""

    told = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Have SIGTERM raise KeyboardInterrupt while the block runs. Does nothing outside the main thread.

        KeyboardInterrupt, because libraries know it and let it pass: Ray makes a SystemError of any other exception
        that a handler raises while it waits.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._raise)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            self.told = False

    def check(self) -> None:
        """Raise again what got lost: Python drops what a handler raises in a finaliser, and a library may catch it."""
        if self.told:
            raise KeyboardInterrupt

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        raise KeyboardInterrupt


terminable = Terminable()
