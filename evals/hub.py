"""Whether the hub can be reached. Where it cannot, its client would retry each file for half a minute."""

from __future__ import annotations

from functools import cache

WAIT_S = 10.0
"""For the answer to one small request."""


@cache
def reachable() -> bool:
    """Whether the hub answers, with whatever status; False in its offline mode too. Asked once in a process."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=WAIT_S)
    except Exception:  # httpx's in some releases of the client and httpx2's in others: no answer, for whatever reason
        return False
    return True


def local_only(offline: bool) -> bool:
    """Whether only files of the hub's cache can be had. offline: no request is allowed, not even to find out."""
    return offline or not reachable()
