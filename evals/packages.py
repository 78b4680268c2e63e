"""Which packages are installed."""

from __future__ import annotations

from importlib import metadata


def version(package: str) -> str | None:
    """The version of an installed package, None where it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
