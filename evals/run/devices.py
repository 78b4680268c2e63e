"""What a device can do according to its maker, for the plan of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """flops: dense matrix products a second in 16-bit numbers, single: in float32. copy_bytes: memory traffic a
    second. Peaks of data sheets, which no program reaches."""

    name: str
    flops: float
    single: float
    copy_bytes: float

    def rate(self, dtype: str) -> float:
        """Peak FLOPs a second in a dtype."""
        return self.single if dtype == "float32" else self.flops


GPUS = {  # words of torch's name of the device; the first line that fits counts
    "B200": Device("B200", 2250e12, 75e12, 8.0e12),
    "H200": Device("H200", 989e12, 67e12, 4.8e12),
    "H100 PCIe": Device("H100 PCIe", 756e12, 51e12, 2.0e12),
    "H100": Device("H100 80 GB", 989e12, 67e12, 3.35e12),
    "A100": Device("A100 80 GB", 312e12, 19.5e12, 2.04e12),
    "L40S": Device("L40S", 362e12, 91.6e12, 0.864e12),
    "A10": Device("A10", 125e12, 31.2e12, 0.6e12),
    "4090": Device("RTX 4090", 165e12, 82.6e12, 1.008e12),
    "V100": Device("V100", 125e12, 15.7e12, 0.9e12),
}
REFERENCE = GPUS["H100"]
"""Takes the place of a GPU that is not here or not known. Shards are made for it wherever they are computed."""
BUS_BYTES = 5e10
"""From host memory to a GPU, a second: PCIe 5 with 16 lanes, by order of magnitude."""
CORE_FLOPS, CPU_COPY_BYTES = 1e11, 2e10
"""A CPU core and a CPU's memory, by order of magnitude."""


def this_device(kind: str) -> Device:
    """The device that a run uses. kind: `cpu` or `cuda`; a GPU that is not listed counts as REFERENCE."""
    if kind == "cpu":
        cores = os.cpu_count() or 1
        return Device(f"CPU, {cores} cores", cores * CORE_FLOPS, cores * CORE_FLOPS, CPU_COPY_BYTES)
    import torch

    if not torch.cuda.is_available():  # the GPUs are in the workers' machines
        return REFERENCE
    name = torch.cuda.get_device_name()
    return next((device for words, device in GPUS.items() if words in name), REFERENCE)
