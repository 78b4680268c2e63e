"""Errors that the user can fix, as opposed to bugs.

The command line prints a `UserError` as one sentence and exits with code 2; anything else keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

from sharedllm.errors import UnfitError, UserError, nearest

__all__ = ["UnfitError", "UserError", "unknown", "unreadable"]


def unknown(kind: str, name: str, known: Iterable[str], shown_by: str | None = None) -> UnfitError:
    """The error for a name that is not in the list of `known` ones, with the nearest names as a hint.

    shown_by: options of `sharedllm-eval` that show all of them.
    """
    more = f" `sharedllm-eval {shown_by}` shows all." if shown_by else ""
    return UnfitError(f"Unknown {kind} '{name}': {nearest(name, known)}{more}")


def unreadable(what: object, error: OSError | UnicodeDecodeError) -> UserError:
    """The error for a file, or a part of one, that cannot be opened or is no UTF-8."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{what} is not UTF-8 (byte {error.start}): save the file as UTF-8.")
    return UserError(f"{what} cannot be read ({error.strerror}): make it readable, or remove it.")
