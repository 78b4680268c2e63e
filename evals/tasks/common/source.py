"""Where a task finds its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSource:
    """A folder named by the user, the hub (unless offline), or what ships with Python."""

    data_dir: Path | None = None
    offline: bool = False
