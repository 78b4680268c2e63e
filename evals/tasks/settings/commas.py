"""Settings with several values, written with commas."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator


def _split(value: object) -> object:
    """`--set depths=0,50,100` arrives as one string, `--set depths=50` as a number."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value if isinstance(value, (list, tuple)) else [value]


Commas = BeforeValidator(_split)
"""Lets a setting that is a tuple be written with commas."""
Numbers = Annotated[tuple[float, ...], Commas]
