"""What a person can put right, as opposed to bugs: one class of error, and the borders where it is made.

The commands print a `UserError` as one sentence and exit with code 2; anything else keeps its traceback.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

MOST_NAMES = 30
"""Names that a message lists."""
LONGEST_REASON = 240
"""Characters of a library's message that are shown."""


class UserError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do about it."""


class UnfitError(UserError):
    """Settings that do not fit a model or each other, whatever its weights are."""


@contextmanager
def reading(what: object, advice: str) -> Iterator[None]:
    """Turn what a library raises inside into a UserError: `what` cannot be read (reason): `advice`.

    Only library calls belong inside. What says nothing about `what` passes: a stop, and a lack of memory, which is a
    result.
    """
    try:
        yield
    except BaseException as error:
        if _passes(error):
            raise
        advice = "install that package" if isinstance(error, ImportError) else advice
        raise UserError(f"{what} cannot be read ({reason(error)}): {advice}.") from error


def _passes(error: BaseException) -> bool:
    if not isinstance(error, Exception):
        return type(error).__name__ != "PanicException"  # of a Rust library, as tokenizers, over a strange file
    out_of_memory = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)  # torch's two
    return out_of_memory or isinstance(error, UserError | MemoryError)


def reason(error: BaseException) -> str:
    """The first words of a library's message, on one line."""
    text = (" ".join(str(error).split()) or type(error).__name__).rstrip(".:")
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rsplit(" ", 1)[0] + " ..."


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not among the `known` ones: the most similar names, or the first of them."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"known: {', '.join(names[:MOST_NAMES]) or 'none'}{more}."


def shown(value: object) -> str:
    """A value from outside for a message: short, whatever it is; true, false and null as YAML and JSON write them."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    try:
        return short.repr(value)
    except ValueError:  # Python does not write out integers of thousands of digits
        return "a number of thousands of digits"
