"""What a run says while it goes on: to the terminal as much as was asked for, to `--log-file` everything."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evals.errors import UserError
from evals.safe_text import plain_text

OURS = ("evals", "sharedllm", "baselines")
LINE = "%(asctime)s %(levelname)s %(message)s"


@dataclass(frozen=True)
class Talk:
    """How much the terminal shows. quiet: only what went wrong. verbose: every sample too. file: takes everything.

    json: end with the JSON line on a terminal too.
    """

    quiet: bool = False
    verbose: bool = False
    file: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UserError("--quiet and --verbose exclude each other: leave one out.")

    @property
    def level(self) -> int:
        """Of our own messages on the terminal."""
        return logging.WARNING if self.quiet else logging.DEBUG if self.verbose else logging.INFO


class _Terminal(logging.Handler):
    """Lines above the progress bar. level: of our own messages; those of libraries are shown from a warning on."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self.console = console

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] in OURS or record.levelno >= logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(plain_text(self.format(record)), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def talking(talk: Talk, console: Console) -> Iterator[None]:
    """Send what is logged inside to the console and to the file. Raises UserError for a file that takes nothing."""
    handlers: list[logging.Handler] = [_Terminal(console, talk.level)]
    if talk.file is not None:
        handlers.append(_opened(talk.file))
    loggers = [logging.getLogger(name) for name in OURS]
    before = [logger.level for logger in loggers]
    root = logging.getLogger()
    for handler in handlers:
        root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _opened(path: Path) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(
            f"--log-file {path} cannot be written ({error.strerror or error}): name a file in an existing folder."
        ) from error
    handler.setFormatter(logging.Formatter(LINE))
    return handler
