"""Several checks as one, so that a person puts everything right at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from evals.errors import UserError


def all_of(checks: Iterable[Callable[[], object]]) -> None:
    """Raises one UserError with every sentence that the checks raise."""
    problems: dict[str, None] = {}
    for check in checks:
        try:
            check()
        except UserError as error:
            problems[str(error)] = None
    if problems:
        raise UserError(" ".join(problems))
