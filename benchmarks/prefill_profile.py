"""Why the first token of a method takes longer than its FLOPs need: where the time goes, by kind of kernel.

    python benchmarks/prefill_profile.py --model sharedllm-7b,beacon-7b --length 8k,32k,128k --output runs/profile

Random weights of the preset's shape. A request reads the context and 64 tokens of query, and ends at the first token.
It runs once as a warm-up, then timed (median of --repeats), then under the profiler. All times are in seconds:

    wall         without the profiler
    floor        FLOPs by formula over the rate of a large matrix product on this device, as in the task `efficiency`
    matmul, attention, elementwise (norms, rotations, activations, sums), copies (and gathers), other
                 kernels of that kind, summed
    idle         wall less the time in which a kernel ran: the device waited for the host
    rate         floor over matmul + attention: the share of that large product's rate which they reach together

So wall is about floor / rate + elementwise + copies + other + idle; below each row are the kernels that take longest.
The first line also says what that large product reaches when it goes on for a second: a GPU at its power limit lowers
its clock after some tens of milliseconds, and reads that last longer meet this lower rate. OUTPUT gets profile.csv with
the rows and profile.json, which also has both rates and names the kernels, after every row.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from kernel_kinds import KINDS, Profile, profiled

from evals import registry
from evals.errors import UserError
from evals.measure.device import MATMUL_SIZE, Rates, measure_rates
from evals.measure.efficiency import Efficiency, EfficiencySettings
from evals.measure.hardware import device_name
from evals.measure.request import cold, first_line, is_out_of_memory, request, synchronize
from evals.methods import kernels, presets
from evals.methods.base import LongContextModel
from evals.records.models import Measurement
from evals.run.identity import ModelChoice
from evals.run.spec import Attention, Device, DType, parse_length, resolve_runtime, runtime_from, split_list
from evals.tasks.base import DataSource
from sharedllm.files import writing

SHOWN = ("wall", "floor", *KINDS, "idle", "rate", "kernels")
LARGEST, LARGEST_OTHER, NAME_WIDTH = 5, 3, 90
SUSTAINED_S, PRODUCTS = 1.0, 16
"""Seconds of a product that goes on, and how many of them are timed together."""


def row(perf: Measurement, rates: Rates, found: Profile) -> dict[str, float]:
    """The columns `SHOWN` of a timed and a profiled request."""
    assert perf.ttft_s is not None
    assert perf.prefill_flops is not None
    seconds, floor = found.seconds(), perf.prefill_flops / rates.matmul_flops
    arithmetic = seconds["matmul"] + seconds["attention"]
    return {
        "wall": perf.ttft_s,
        "floor": floor,
        **seconds,
        "idle": perf.ttft_s - found.busy_s,
        "rate": floor / arithmetic if arithmetic else 0.0,
        "kernels": found.runs,
    }


def measure(model: LongContextModel, length: int, repeats: int, rates: Rates) -> dict[str, Any]:
    """A row, and under `largest` the kernels of it; or the status `oom`."""
    instance = Efficiency(None, EfficiencySettings(), DataSource()).instance(model.tokenizer, length, 0)
    perf = cold(model, instance, new_tokens=1, repeats=repeats)
    if perf.status != "ok":
        return {"status": perf.status, "error": perf.error}
    found = profiled(model.device, lambda: request(model, instance, 1))
    largest = found.largest(LARGEST) + found.largest(LARGEST_OTHER, "other")
    shown = {kernel.name: {"kind": kernel.kind, **asdict(kernel)} for kernel in largest}
    return {"status": "ok", **row(perf, rates, found), "largest": list(shown.values())}


def sustained_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the product of `measure_rates` in the second half of SUSTAINED_S."""
    size = MATMUL_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    marks = [time.perf_counter()]
    while marks[-1] - marks[0] < SUSTAINED_S or len(marks) < 3:
        for _ in range(PRODUCTS):
            torch.mm(left, right, out=product)
        synchronize([device])
        marks.append(time.perf_counter())
    later = marks[len(marks) // 2 :]
    return 2 * size**3 * PRODUCTS / statistics.median(b - a for a, b in pairwise(later))


def rows(choice: ModelChoice, lengths: Sequence[int], repeats: int, rates: Rates) -> Iterator[dict[str, Any]]:
    """One method at every length, the shortest first. After one that runs out of memory no longer one is tried."""
    head = {"model": choice.name}
    try:
        model = choice.method.load(choice.preset, choice.runtime)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        yield {**head, "status": "oom", "error": first_line(error)}
        return
    for length in sorted(lengths):
        found = measure(model, length, repeats, rates)
        yield {**head, "length": length, **found}
        if found["status"] == "oom":
            return


def shown(found: dict[str, Any]) -> str:
    """A row as a line of the table, and its kernels in lines below it."""
    start = f"{found['model']:18} {found.get('length', ''):>8}"
    if found["status"] != "ok":
        return f"{start}  {found['status']}: {found['error']}"
    cells = (f"{found[key]:12,}" if key == "kernels" else f"{found[key]:12.3f}" for key in SHOWN)
    lines = (
        f"    {k['seconds']:7.3f} s in {k['runs']:6,} x {k['kind']:12} {k['name'][:NAME_WIDTH]}"
        for k in found["largest"]
    )
    return "\n".join((start + "".join(cells), *lines))


def write(folder: Path, device: str, rates: dict[str, float], found: Sequence[dict[str, Any]]) -> None:
    """profile.json and profile.csv of all rows so far."""
    record = {"device": device, "torch": torch.__version__, "rates": rates, "rows": found}
    (folder / "profile.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with (folder / "profile.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["model", "length", "status", *SHOWN, "error"], extrasaction="ignore")
        table.writeheader()
        table.writerows(found)


def choices(options: argparse.Namespace) -> list[ModelChoice]:
    """The models to measure, each checked before the first is loaded. Raises UserError for one that does not fit."""
    decided = resolve_runtime(options.device, options.dtype, options.attn)
    runtime = runtime_from(decided, random_weights=True, offline=True)
    made = []
    for name in split_list([options.model]):
        preset = presets.load_preset(name)
        made.append(ModelChoice.of(preset, registry.method(preset.method), runtime))
        made[-1].check()
    return made


def check_profiler(device: torch.device) -> None:
    """Start the profiler once, before the first CUDA graph is captured, or it might not see the kernels in graphs.

    Raises UserError where it sees no kernels.
    """
    if not profiled(device, lambda: torch.ones(8, device=device).sum()).runs:
        raise UserError(
            "torch's profiler sees no kernels on this GPU: install the CUPTI library of torch's CUDA version, and end "
            "other profilers."
        )


def profile_all(options: argparse.Namespace) -> None:
    """Every model at every length. Raises UserError for what does not fit."""
    asked, lengths = choices(options), [parse_length(text) for text in split_list([options.length])]
    if not asked or not lengths or options.repeats < 1:
        raise UserError("There is nothing to measure: name a --model, a --length and --repeats of 1 or more.")
    if options.output:
        with writing(options.output):  # before minutes of measuring
            options.output.mkdir(parents=True, exist_ok=True)
    runtime = asked[0].runtime
    device = torch.device(runtime.device)
    rates = measure_rates(device, getattr(torch, runtime.dtype))
    check_profiler(device)
    sustained = sustained_flops(device, getattr(torch, runtime.dtype))
    both = f"{rates.matmul_flops / 1e12:.1f} TFLOP/s, {sustained / 1e12:.1f} after half a second"
    print(f"{device_name(device)}, {runtime.dtype}: {both}; times in seconds")
    print(f"{'model':18} {'length':>8}" + "".join(f"{key:>12}" for key in SHOWN), flush=True)
    found: list[dict[str, Any]] = []
    for choice in asked:
        with kernels.kernel_order(choice.runtime.kernel_order):
            for line in rows(choice, lengths, options.repeats, rates):
                found.append(line)
                print(shown(line), flush=True)
                if options.output:
                    write(options.output, device_name(device), asdict(rates) | {"sustained_flops": sustained}, found)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="names or YAML files of presets, separated by commas")
    parser.add_argument("--length", default="8k,32k,128k", help="tokens of context, separated by commas")
    parser.add_argument("--repeats", type=int, default=1, help="timed requests before the profiled one")
    parser.add_argument("--device", type=Device, choices=Device, default=Device.auto)
    parser.add_argument("--dtype", type=DType, choices=DType, default=DType.auto)
    parser.add_argument("--attn", type=Attention, choices=Attention, default=Attention.auto)
    parser.add_argument("--output", type=Path, help="folder for profile.json and profile.csv")
    try:
        profile_all(parser.parse_args(arguments))
    except UserError as error:
        print(f"prefill_profile.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
