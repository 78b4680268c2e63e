"""What the machine is called."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch


def devices_name(devices: Sequence[torch.device]) -> str:
    """What a model runs on: the name of its device; of several `2 x NAME`, joined by + where they are unlike."""
    if len(devices) == 1:
        return device_name(devices[0])
    return " + ".join(f"{count} x {name}" for name, count in Counter(map(device_name, devices)).items())


def device_name(device: torch.device) -> str:
    """Name of the GPU, or of the processor where the device is the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@cache
def processor() -> str:
    """Name of the processor as Linux tells it, elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
