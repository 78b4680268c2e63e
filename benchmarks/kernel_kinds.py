"""What a profile of one call says: seconds by kind of kernel, the largest kernels, and how long the device was busy.

A kernel is a piece of work on the GPU. On the CPU, which has none, operations of torch take their place, each with the
time that it spends outside the operations that it calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = ("matmul", "attention", "elementwise", "copies", "other")
_MOVED = (
    "cat|clone|copy|embedding|expand|gather|index|index_put|index_select|permute|select|slice|slice_scatter|split|"
    "squeeze|stack|t|_?to_copy|transpose|unsqueeze|_?unsafe_view|view"
)
PATTERNS = (
    # what torch.compile fuses is named by the operations in it: first, since one of them may be any of the words below
    ("copies", rf"^triton_poi_fused_({_MOVED})(_({_MOVED}))*_\d+$"),
    ("elementwise", r"^triton_(poi|red|per|for)_"),
    # flash-attn-4's kernel is also named after CUTLASS
    ("attention", r"flash|fmha|sdpa|attention"),
    (
        "matmul",
        r"gemm|gemv|xmma|nvjet|cutlass|cublas|splitk|^triton_tem_|aten::(addmm|mm|bmm|baddbmm|mv|linear|matmul)$",
    ),
    ("copies", r"memcpy|memset|copy_kernel|batchedcopy|index_?(elementwise|select|func|put)|gpu_index|gather(?!topk)"),
    (
        "copies",
        r"scatter|aten::(copy_|_to_copy|clone|cat|stack|contiguous|embedding|index|index_\w+|gather|fill_|zero_)$",
    ),
    ("other", r"topk|sort"),
    ("elementwise", r"elementwise|reduce_kernel|softmax|norm|distribution|arange"),
    (
        "elementwise",
        r"aten::(add|sub|mul|div|neg|pow|mean|sum|amax|max|rsqrt|silu|gelu|exp|sin|cos|where|clamp\w*|masked_fill|eq|"
        r"lt|gt|le|ge|_?softmax|_?log_softmax|native_layer_norm|argmax|logical_\w+|bitwise_\w+)_?$",
    ),
)
"""Kind and what its kernels' names hold; the first that fits counts."""


def kind_of(name: str) -> str:
    """The kind of a kernel by its name, one of `KINDS`; `other` where no pattern fits."""
    return next((kind for kind, pattern in PATTERNS if re.search(pattern, name, re.IGNORECASE)), "other")


@dataclass
class Kernel:
    """All runs of the kernel of one name."""

    name: str
    runs: int = 0
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """See `kind_of`."""
        return kind_of(self.name)


@dataclass(frozen=True)
class Profile:
    """kernels: by name. busy_s: seconds in which at least one of them ran."""

    kernels: list[Kernel]
    busy_s: float

    @property
    def runs(self) -> int:
        """Kernels that ran."""
        return sum(kernel.runs for kernel in self.kernels)

    def seconds(self) -> dict[str, float]:
        """Seconds of each kind, summed over kernels: those that run at the same time count twice."""
        found = dict.fromkeys(KINDS, 0.0)
        for kernel in self.kernels:
            found[kernel.kind] += kernel.seconds
        return found

    def largest(self, count: int, kind: str | None = None) -> list[Kernel]:
        """The kernels that took longest, of one kind or of all."""
        of_kind = (kernel for kernel in self.kernels if kind in (None, kernel.kind))
        return sorted(of_kind, key=lambda kernel: -kernel.seconds)[:count]


def profiled(device: torch.device, call: Callable[[], object]) -> Profile:
    """The kernels that a call runs. On a GPU its operations on the host are not recorded, so that it stays fast."""
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as recorder:
        call()
        if gpu:
            torch.cuda.synchronize(device)
    if not gpu:
        rows = recorder.key_averages()
        operations = [Kernel(row.key, row.count, row.self_cpu_time_total / 1e6) for row in rows]
        return Profile(operations, sum(kernel.seconds for kernel in operations))
    # `recorder.events()` would build a Python tree of a hundred thousand events
    events = recorder.profiler.kineto_results.events()
    return collected(
        (event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == DeviceType.CUDA and not event.is_user_annotation()
    )


def collected(intervals: Iterable[tuple[str, int, int]]) -> Profile:
    """A profile of kernels given as name, start and end in nanoseconds, in any order."""
    kernels: dict[str, Kernel] = {}
    busy = until = 0
    for name, start, end in sorted(intervals, key=lambda interval: interval[1]):
        kernel = kernels.setdefault(name, Kernel(name))
        kernel.runs += 1
        kernel.seconds += (end - start) / 1e9
        busy += max(0, end - max(start, until))
        until = max(until, end)
    return Profile(list(kernels.values()), busy / 1e9)
