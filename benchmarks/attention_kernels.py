"""Compares attention kernels at the shapes that the methods run with a base of 7B parameters.

    python benchmarks/attention_kernels.py --output results/measured/kernels.json

For each shape the back ends of torch's scaled_dot_product_attention, and flash-attn and flash-attn-4 where they are
installed: time, arithmetic and traffic per second, and the largest error against float32 as a share of the largest
output. A kernel that needs a new plan for every length is slow when lengths grow, so for such shapes the time of calls
with growing keys is measured too, and counts. At the end: how far each order of back ends (the first that accepts a
shape runs it) is from the best kernel of every shape. `--attn auto` follows that (evals/methods/kernels.py).
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from evals.measure.device import measure_rates
from evals.measure.request import Clock, synchronize
from evals.methods.kernels import BACKENDS
from evals.packages import version

TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Largest error of a correct kernel: a share of the largest output."""
SCORES = 1 << 32
"""The plain kernel is left out where its scores, in float32, would take more bytes than this."""
SECONDS = 0.15
"""Spent on a kernel and shape, roughly."""
CALLS = 16
"""Calls with keys that grow from one to the next."""
KERNELS = 6
"""At most; a plan that one has made for a length would serve another."""


@dataclass(frozen=True)
class Case:
    """One attention call. mask: none, causal (from the first key), lower right (causal, queries last) or boolean,
    which is the same as a tensor, or for one query a cache that is not full. grows: keys added at every call."""

    name: str
    batch: int
    queries: int
    keys: int
    mask: str = "none"
    grows: int = 0
    heads: int = 32
    width: int = 128

    @property
    def pairs(self) -> float:
        """Visible pairs of a query and a key, per head and row."""
        full = float(self.queries * self.keys)
        return full if self.mask == "none" or self.queries == 1 else full - self.queries * (self.queries - 1) / 2

    @property
    def flops(self) -> float:
        return 4.0 * self.batch * self.heads * self.width * self.pairs

    def nbytes(self, itemsize: int) -> int:
        """Queries, keys, values and outputs."""
        return 2 * itemsize * self.batch * self.heads * self.width * (self.queries + self.keys)


K = 1024
CASES = [
    Case("dense prefill 8K", 1, 8 * K, 8 * K, "causal"),
    Case("dense prefill 32K", 1, 32 * K, 32 * K, "causal"),
    Case("dense, 64 after 32K", 1, 64, 32 * K + 64, "lower right"),
    Case("dense, 256 after 32K", 1, 256, 32 * K + 256, "lower right"),
    Case("SharedLLM nodes of 512", 128, 512, 512, "causal"),
    Case("SharedLLM nodes of 256", 128, 256, 256, "causal"),
    Case("SharedLLM nodes of 128", 256, 128, 128, "causal"),
    Case("SharedLLM cross, 2048", 1, 2 * K, 16 * K),
    Case("SharedLLM cross, 1", 1, 1, 16 * K),
    Case("decode at 2K", 1, 1, 2 * K, "lower right", grows=1),
    Case("decode at 32K", 1, 1, 32 * K, "lower right", grows=1),
    Case("decode at 2K, static", 1, 1, 2 * K, "boolean"),
    Case("decode at 32K, static", 1, 1, 32 * K, "boolean"),
    Case("StreamingLLM chunk", 1, 2 * K, 4 * K, "lower right"),
    Case("Beacon window, ratio 8", 1, 1152, 3 * K, "lower right", grows=128),
    Case("LongLLaMA window", 1, 4 * K, 32 * K, "lower right", grows=4 * K),
    Case("CEPE encoder", 64, 256, 256, heads=16, width=64),
    Case("CEPE cross, 3840", 1, 3840, 28 * K),
    Case("CEPE cross, 1", 1, 1, 124 * K),
]


def tiny(case: Case) -> Case:
    """The same call on a shape for the CPU."""
    queries, keys = (-(-tokens // 512) for tokens in (case.queries, case.keys))
    batch, grows = min(2, case.batch), min(1, case.grows)
    return replace(case, batch=batch, queries=queries, keys=keys, grows=grows, heads=2, width=8)


class Inputs:
    """Random tensors of a case, in the memory layout of the methods: queries as projected, keys in a larger buffer."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.case = case
        self.step = max(case.grows, KERNELS)
        room = case.keys + self.step * (CALLS + 1)
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype)

        self.query = draw(case.batch, case.queries, case.heads, case.width).transpose(1, 2)
        self._keys, self._values = (draw(case.batch, case.heads, room, case.width) for _ in range(2))
        self.visible = self._visible(device)
        self.reference = self._reference()

    def keys_values(self, call: int = 0, kernel: int = 0) -> list[torch.Tensor]:
        """Keys and values of the `call`-th call, at lengths that no other kernel of that number has used."""
        more = self.step * call + kernel
        return [x[:, :, : self.case.keys + more] for x in (self._keys, self._values)]

    def _visible(self, device: torch.device) -> torch.Tensor | None:
        """Mask (1, 1, queries, keys) as a tensor, or None if every query sees all keys."""
        case = self.case
        if case.mask == "none" or (case.queries == 1 and case.mask == "lower right"):
            return None
        if case.queries == 1:
            return (torch.arange(case.keys, device=device) < case.keys - case.keys // 8)[None, None, None]
        last = torch.arange(case.keys - case.queries, case.keys, device=device)[-128:, None]
        rows = last if case.mask != "boolean" else torch.arange(case.keys, device=device)[-case.queries :, None]
        return (torch.arange(case.keys, device=device)[None] <= rows)[None, None]

    def _reference(self) -> torch.Tensor:
        """The last queries (at most 128) of the first row of the batch, in float32 with the plain kernel."""
        mask = None if self.visible is None else self.visible[:, :, -128:]
        query, key, value = (x[:1].float() for x in (self.query[:, :, -128:], *self.keys_values()))
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def error(self, out: torch.Tensor) -> float:
        """Largest difference from the reference over the largest output."""
        return float((out[:1, :, -128:].float() - self.reference).abs().max() / self.reference.abs().max())


def sdpa(inputs: Inputs, *lengths: int) -> torch.Tensor:
    """The attention call of a case as the methods make it."""
    key, value = inputs.keys_values(*lengths)
    mask: Any = inputs.visible if inputs.case.mask == "boolean" else None
    if inputs.case.mask == "lower right":
        mask = causal_lower_right(inputs.query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(
        inputs.query, key, value, attn_mask=mask, is_causal=inputs.case.mask == "causal"
    )


PACKAGES = {"flash-attn": "flash_attn", "flash-attn-4": "flash_attn.cute"}
"""Packages with kernels of their own, and the module in which each has `flash_attn_func`."""


def packaged(package: str, inputs: Inputs, *lengths: int) -> torch.Tensor:
    """The same with one of PACKAGES, whose causal mask is bottom-right."""
    if inputs.case.mask == "boolean":
        raise RuntimeError("takes no mask")
    parts = [x.transpose(1, 2) for x in (inputs.query, *inputs.keys_values(*lengths))]
    try:
        attend = importlib.import_module(PACKAGES[package]).flash_attn_func
        out = attend(*parts, causal=inputs.case.mask != "none")
    except Exception as refusal:  # each package and its compiler have their own errors for a shape they refuse
        raise RuntimeError(f"{type(refusal).__name__}: {refusal}") from refusal
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # version 4 also returns the log-sum-exp


def kernels() -> dict[str, tuple[Callable[..., torch.Tensor], list[SDPBackend]]]:
    """Every kernel by name: the call, and the back ends that it may use."""
    found: dict[str, tuple[Callable[..., torch.Tensor], list[SDPBackend]]] = {}
    found["torch's choice"] = (sdpa, list(BACKENDS.values()))
    found |= {name: (sdpa, [backend]) for name, backend in BACKENDS.items()}
    for package in PACKAGES:
        if version(package):
            found[package] = (partial(packaged, package), [SDPBackend.MATH])
    return found


def measure(inputs: Inputs, attend: Callable[..., torch.Tensor], kernel: int, dtype: torch.dtype) -> dict[str, Any]:
    """Milliseconds, error, and if keys grow milliseconds of such calls; or why the kernel-th kernel does not run."""
    device, case = inputs.query.device, inputs.case
    try:
        error = inputs.error(attend(inputs))
    except RuntimeError as refusal:
        return {"refused": str(refusal).splitlines()[0]}
    begin = time.perf_counter()
    attend(inputs)
    synchronize([device])
    repeats = int(min(max(SECONDS / (time.perf_counter() - begin), 3), 50))
    clock = Clock(device)
    clock.mark()
    for _ in range(repeats):
        attend(inputs)
        clock.mark()
    seconds = statistics.median(clock.spans())
    found: dict[str, Any] = {"ms": 1e3 * seconds, "error": error, "correct": error <= TOLERANCE[dtype]}
    found |= {"tflops": case.flops / seconds / 1e12, "gb_s": case.nbytes(dtype.itemsize) / seconds / 1e9}
    if case.grows:
        synchronize([device])
        begin = time.perf_counter()
        for call in range(1, CALLS + 1):
            attend(inputs, call, kernel)
        synchronize([device])
        found["growing_ms"] = 1e3 * (time.perf_counter() - begin) / CALLS
    return found


def run(cases: Sequence[Case], device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Runs all kernels on all cases and prints a line for each."""
    rows = []
    for case in cases:
        inputs, found = Inputs(case, device, dtype), dict[str, dict[str, Any]]()
        print(f"{case.name}: {case.batch} x {case.heads} heads, {case.queries} x {case.keys}, mask {case.mask}")
        for number, (name, (attend, backends)) in enumerate(kernels().items()):
            if name == "math" and 4 * case.batch * case.heads * case.queries * case.keys > SCORES:
                found[name] = {"refused": "its scores would take too much memory"}
            else:
                with torch.inference_mode(), sdpa_kernel(backends), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # reasons why other kernels cannot run
                    found[name] = measure(inputs, attend, number, dtype)
            print(f"  {name:15s} {line(found[name])}", flush=True)
        rows.append({**asdict(case), "flops": case.flops, "kernels": found})
    return rows


def line(found: dict[str, Any]) -> str:
    """The result of one kernel on one case, as text."""
    if "refused" in found:
        return f"- ({found['refused'][:80]})"
    grows = f", {found['growing_ms']:.3f} ms where keys grow" if "growing_ms" in found else ""
    wrong = "" if found["correct"] else "  WRONG"
    rate = f"{found['tflops']:7.1f} TFLOP/s {found['gb_s']:7.0f} GB/s"
    return f"{found['ms']:9.3f} ms {rate}  error {found['error']:.1e}{grows}{wrong}"


def cost(found: dict[str, Any]) -> float | None:
    """Milliseconds that count; None for a kernel that cannot be used."""
    return None if "refused" in found or not found["correct"] else found.get("growing_ms", found["ms"])


def orders(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Geometric mean over cases of time against the best back end of torch, for each order of them, best first.

    An order that would run a wrong kernel is omitted. The plain kernel comes last in all.
    """
    found = {}
    for order in itertools.permutations([name for name in BACKENDS if name != "math"]):
        ratios = []
        for row in rows:
            # torch's lower right masks ask for flash first, whatever the order
            asked = ("flash", "efficient") if row["mask"] == "lower right" else order
            taken = next((n for n in asked if "refused" not in row["kernels"][n]), "math")
            usable = {n: ms for n in BACKENDS if (ms := cost(row["kernels"][n])) is not None}
            if taken not in usable:
                break
            ratios.append(usable[taken] / min(usable.values()))
        else:
            found[", ".join((*order, "math"))] = math.exp(statistics.fmean(map(math.log, ratios)))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def gains(rows: Sequence[dict[str, Any]], package: str) -> dict[str, float]:
    """Speed-up of a package over torch's choice by case, if it was measured and correct."""
    found = {}
    for row in rows:
        own, other = (cost(row["kernels"].get(name, {"refused": ""})) for name in ("torch's choice", package))
        if own and other:
            found[row["name"]] = own / other
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("7b", "tiny"), default="7b" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--cases", help="only those whose name contains this")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    cases = [tiny(case) if chosen.shape == "tiny" else case for case in CASES if (chosen.cases or "") in case.name]
    begin, rates = time.perf_counter(), measure_rates(device, dtype)
    rows = run(cases, device, dtype)
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "dtype": str(dtype).removeprefix("torch."),
        "rates": asdict(rates),
        "own_order": [SDPBackend(i).name for i in torch._C._get_sdp_priority_order()],
        "orders": orders(rows),
        "packages": {p: {"version": version(p), "times as fast": gains(rows, p)} for p in PACKAGES if version(p)},
        "cases": rows,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(f"Torch's own order: {', '.join(result['own_order'])}")
    for order, ratio in result["orders"].items():
        print(f"{ratio:8.3f} x the best of every shape: {order}")
    for package, found in result["packages"].items():
        for case, ratio in found["times as fast"].items():
            print(f"{ratio:8.2f} x torch's choice: {package}, {case}")
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
