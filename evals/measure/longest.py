"""The longest context that fits: doubling until memory runs out, then bisection."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from evals.measure.request import PeakMemory, is_out_of_memory, request
from evals.methods.base import LongContextModel
from evals.tasks.base import Instance


def longest(fits: Callable[[int], bool], start: int, cap: int, step: int) -> int:
    """The largest multiple of `step`, at most `cap`, for which `fits` holds; 0 if there is none.

    fits: monotone. start: where doubling begins. Asks about log2(cap / start) + log2(result / step) times.
    """
    good, bad, probe = 0, cap // step + 1, max(1, min(start, cap) // step)
    while good + 1 < bad:
        if fits(probe * step):
            good = probe
        else:
            bad = probe
        unbounded = bad == cap // step + 1
        probe = min(2 * good, bad - 1) if unbounded and good else (good + bad) // 2
        probe = max(probe, good + 1)
    return good * step


def attempt(model: LongContextModel, instance: Instance, new_tokens: int) -> tuple[bool, int]:
    """Whether a request runs within memory, and its peak in bytes. Any other failure is raised."""
    memory = PeakMemory(model.devices)
    memory.start()
    try:
        request(model, instance, new_tokens)
        fits = True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    peak = memory.peak_bytes()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits, peak
