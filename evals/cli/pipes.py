"""Output that outlives its reader: `sharedllm-eval ... | head` must not end a run."""

from __future__ import annotations

import io
import os
from typing import IO, Any

from rich.console import Console


class PipeConsole(Console):
    """A console that falls silent where nobody reads it, and shows names that are not text with escapes."""

    def __init__(self, file: IO[str], **options: Any) -> None:
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="backslashreplace")
        super().__init__(file=file, **options)

    def on_broken_pipe(self) -> None:
        """The reader is gone: what follows goes nowhere."""
        silence(self.file)

    def write_line(self, text: str) -> None:
        """A line as it is, however wide the terminal."""
        try:
            self.file.write(text + "\n")
            self.file.flush()
        except BrokenPipeError:
            silence(self.file)


def silence(file: IO[str]) -> None:
    """Send a stream to nowhere, its buffer included: else the interpreter complains when it ends."""
    target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, file.fileno())
    os.close(target)
