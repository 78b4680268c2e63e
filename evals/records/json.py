"""JSON as this project writes it: strict, so that every reader can parse it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

Json = dict[str, Any]
"""A JSON object whose keys only its writer and its reader know (settings, meta, trace, environment)."""
_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair."""


def dumps(value: object, indent: int | None = None) -> str:
    """A value as JSON.

    NaN and infinities, which JSON does not have, become null; numpy numbers become numbers; what UTF-8 does not have
    becomes U+FFFD.
    """
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, default=_plain, indent=indent)
    return text if text.isascii() else str(well_formed(text))


def finite(value: object) -> object:
    """The value with NaN and infinities replaced by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def well_formed(value: object) -> object:
    """The value with half surrogate pairs, which UTF-8 does not have, replaced by U+FFFD, at any depth."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    return [well_formed(item) for item in value] if isinstance(value, list | tuple) else value


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)
