"""Where a library reads what comes from outside: whatever it raises becomes one sentence with file and advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evals.errors import UserError

LONGEST_REASON = 240
"""Characters of a library's message that are shown."""


@contextmanager
def reading(what: object, advice: str) -> Iterator[None]:
    """Turn what a library raises inside into a UserError: `what` cannot be read (reason): `advice`.

    Only library calls belong inside. Out of memory stays what it is: a result of its own.
    """
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a Rust library is a BaseException
        if type(error).__name__ == "OutOfMemoryError":  # torch's: torch is not imported here
            raise
        raise UserError(f"{what} cannot be read ({reason(error)}): {advice}.") from error


def reason(error: BaseException) -> str:
    """The first words of a library's message, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    short = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rsplit(" ", 1)[0] + " ..."
    return short.rstrip(".:")
