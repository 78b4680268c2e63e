"""What every launch of a Triton kernel needs."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def launches_on(x: torch.Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device)


def power(size: int) -> int:
    """The next power of two, which a block of Triton is."""
    return 1 << max(0, size - 1).bit_length()
