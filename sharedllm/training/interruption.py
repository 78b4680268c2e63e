"""Ctrl-C and SIGTERM: a training run ends after the step that it is in, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interrupted(KeyboardInterrupt):
    """A signal ended the run. Its message says how to go on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = EXIT_CODES[signal.Signals(number)]


class Interruption:
    """The signal that came, if any. Outside the training loop it ends the process at once, inside after the step."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. A second signal does not wait."""
        again, self.number = self.number is not None, number
        if not self.patient or again:
            raise Interrupted(number, "Interrupted: the same command goes on from the last checkpoint in --output.")

    @contextmanager
    def after_the_step(self) -> Iterator[None]:
        """Within it, the first signal is only noted."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False


@contextmanager
def watching() -> Iterator[Interruption]:
    """Watch for both signals in the main thread; the handlers before come back at the end."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption) for number in EXIT_CODES}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
