"""In which regime SharedLLM can be 2 or 3 times as fast as its rivals: floors by arithmetic, no GPU needed.

    python benchmarks/regimes.py --output results/measured/regimes
    python benchmarks/regimes.py --matmul 790e12 --copy 4.3e12 --memory-gib 135 --output runs/regimes-h200

A floor is what no implementation of the same arithmetic can beat on a device: until the first token, the FLOPs of a
method (its `cost`) over the device's rate of matrix products; for each token after that, the bytes it must read over
the copy rate. Equally efficient implementations would show the ratio of two floors; a larger measured ratio says that
the rival's code is less efficient. If kernel launches determine the time per token, all methods decode equally fast;
--launch-ms gives the same ratios with a minimum time per token.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evals import registry
from evals.measure.device import Rates
from evals.methods import presets
from evals.methods.base import LongContextModel, Runtime
from evals.report.plots.looks import looks
from evals.report.plots.style import PAGE, STYLE, legend, length_axis, spread_axis
from evals.report.tables import Table
from evals.report.words import tokens

GIB = 1 << 30
SHARED = "SharedLLM"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    SHARED: ("sharedllm-7b", {}),
    "SharedLLM, M = 16": ("sharedllm-7b", {"lower_layers": 16}),
    "Activation Beacon": ("beacon-7b", {}),
    "StreamingLLM": ("streamingllm-7b", {}),
    "CEPE": ("cepe-7b", {}),
    "CEPE, keys kept": ("cepe-7b", {"cache_cross": "kv"}),
    "LongLLaMA": ("longllama-code-7b", {}),
    "dense, YaRN": ("full-7b", {}),
}
"""Name -> preset and settings. M is 4 in the paper's language modelling, 16 in its supervised fine-tuning. YaRN's
arithmetic is that of dense attention."""
TABLE_LENGTHS = [1 << power for power in range(13, 21)]
LENGTHS = sorted({round(2 ** (12 + step / 4) / 1024) * 1024 for step in range(33)})
"""Context lengths of plot and thresholds: 4K to 1M, four to the doubling."""
QUERY = 64
ANSWERS = (16, 128, 1024)
"""Tokens generated, for the thresholds."""
CLAIMED = (2.0, 3.0)
"""The paper's ratios: 2 against streaming methods, 3 against encoder-decoders."""


@dataclass(frozen=True)
class Floor:
    """Minimum seconds until the first token and per further token, and the bytes of weights and state."""

    prefill_s: float
    token_s: float
    nbytes: int

    def total(self, new_tokens: int, launch_s: float = 0.0) -> float:
        """Seconds of a whole request in which no token takes less than `launch_s`."""
        return self.prefill_s + new_tokens * max(self.token_s, launch_s)


def load(name: str) -> LongContextModel:
    """A model of MODELS as a shape without numbers."""
    preset, settings = MODELS[name]
    chosen = presets.load_preset(preset).override(settings)
    runtime = Runtime(device="meta", dtype="bfloat16", random_weights=True, offline=True)
    return registry.method(chosen.method).load(chosen, runtime)


def floors(rates: Rates) -> dict[str, dict[int, Floor]]:
    """Floors of every model at every length. A token is bound by its bytes, or by its FLOPs if these take longer."""
    found: dict[str, dict[int, Floor]] = {}
    for name in MODELS:
        model, found[name] = load(name), {}
        for length in sorted({*LENGTHS, *TABLE_LENGTHS}):
            cost = model.cost(length, QUERY)
            token = max(cost.decode_bytes / rates.copy_bytes, cost.decode_flops / rates.matmul_flops)
            prefill = cost.prefill_flops / rates.matmul_flops
            found[name][length] = Floor(prefill, token, cost.weight_bytes + cost.state_bytes)
    return found


def table(found: dict[str, dict[int, Floor]], new_tokens: int, launch_s: float, memory: float, where: str) -> Table:
    """One row per model and length; ratios are to SharedLLM's."""
    rows = []
    for length in TABLE_LENGTHS:
        shared = found[SHARED][length]
        for name, floor in ((name, lengths[length]) for name, lengths in found.items()):
            rows.append(
                {
                    "length": tokens(length),
                    "model": name,
                    "prefill s": floor.prefill_s,
                    "ms/token": 1000 * floor.token_s,
                    f"prefill + {new_tokens} tokens, s": floor.total(new_tokens),
                    "weights + state, GiB": floor.nbytes / GIB,
                    "fits": "yes" if floor.nbytes <= memory else "no",
                    "prefill ratio": floor.prefill_s / shared.prefill_s,
                    "token ratio": floor.token_s / shared.token_s,
                    "end-to-end ratio": floor.total(new_tokens) / shared.total(new_tokens),
                    f"same at {1000 * launch_s:g} ms per token": floor.total(new_tokens, launch_s)
                    / shared.total(new_tokens, launch_s),
                }
            )
    notes = [
        f"Floors at {where}; no time was measured. Ratios are to SharedLLM: above 1 SharedLLM is faster.",
        f"Fits: weights and state take at most {memory / GIB:g} GiB, which leaves a few of 80 GB for activations.",
    ]
    return Table("regimes", "Floors of a request, LLaMA-2-7B shape", pd.DataFrame(rows, dtype=object), notes)


def threshold(rival: dict[int, Floor], shared: dict[int, Floor], ratio: float, answer: int, launch_s: float) -> int:
    """The length from which the rival takes at least `ratio` times as long; 0 if it never does."""
    reached = 0
    for length in reversed(LENGTHS):
        if rival[length].total(answer, launch_s) < ratio * shared[length].total(answer, launch_s):
            break
        reached = length
    return reached


def thresholds(found: dict[str, dict[int, Floor]], launch_s: float, where: str) -> Table:
    """The length from which each of the paper's ratios can hold."""
    rows = []
    for name, rival in found.items():
        for ratio in CLAIMED if name != SHARED else ():
            row: dict[str, Any] = {"against": name, "ratio": f"{ratio:g} x"}
            for launch in (0.0, launch_s):
                for answer in ANSWERS:
                    reached = threshold(rival, found[SHARED], ratio, answer, launch)
                    label = f"{answer} tokens" + (f", {1000 * launch:g} ms each" if launch else "")
                    row[label] = tokens(reached) if reached else "never"
            rows.append(row)
    notes = [
        f"Shortest context from which on SharedLLM's floor is that much lower, end to end ({where}), four lengths to "
        f"the doubling; 'never' is up to {tokens(LENGTHS[-1])}. Memory is not looked at."
    ]
    return Table("thresholds", "From which length a ratio can hold", pd.DataFrame(rows, dtype=object), notes)


def _method(name: str) -> str:
    """The method that a row stands for, as the registry names it."""
    word = name.split(",")[0].lower().replace(" ", "_")
    return "full" if word == "dense" else word


def plot(found: dict[str, dict[int, Floor]], new_tokens: int, launch_s: float, memory: float) -> Figure:
    """Ratios to SharedLLM against length: prefill, end to end, and end to end with launch-bound decoding."""
    titles = ("prefill", f"prefill + {new_tokens} tokens", f"the same at {1000 * launch_s:g} ms per token or more")
    settings = ((0, 0.0), (new_tokens, 0.0), (new_tokens, launch_s))
    figure = Figure(figsize=(PAGE, 2.6), layout="constrained")
    styles = {name: look for name, look in looks({name: _method(name) for name in found}).items() if name != SHARED}
    for ax, title, (answer, launch) in zip(figure.subplots(1, 3, sharey=True), titles, settings, strict=True):
        seen = []
        for name, look in styles.items():
            fitting = [length for length in LENGTHS if found[name][length].nbytes <= memory]
            ratios = [found[name][n].total(answer, launch) / found[SHARED][n].total(answer, launch) for n in fitting]
            ax.plot(fitting, ratios, color=look.colour, linestyle=look.dashes)
            marked = [(n, r) for n, r in zip(fitting, ratios, strict=True) if math.log2(n).is_integer()]
            ax.plot(*zip(*marked, strict=True), look.marker, color=look.colour)
            seen += ratios
        for ratio in CLAIMED:
            ax.axhline(ratio, color="#9a9a9a", lw=0.8, zorder=1)
        spread_axis(ax, "y", seen)
        length_axis(ax, TABLE_LENGTHS)
        ax.set_title(title)
    figure.axes[0].set_ylabel("time over SharedLLM's")
    claims = f"the paper's ratios, {CLAIMED[0]:g} and {CLAIMED[1]:g}"
    legend(figure, styles, [Line2D([], [], color="#9a9a9a", lw=0.8, label=claims)])
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Write tables (CSV, Markdown, LaTeX) and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matmul", type=float, default=748e12, help="FLOPs per second of a large matrix product")
    parser.add_argument("--copy", type=float, default=2.96e12, help="bytes per second, read plus written")
    parser.add_argument("--memory-gib", type=float, default=75.0, help="memory of the device, minus activations")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--launch-ms", type=float, default=25.0, help="time per token if launches take longest")
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    launch_s, memory = chosen.launch_ms / 1000, chosen.memory_gib * GIB
    where = f"{chosen.matmul / 1e12:g} TFLOP/s and {chosen.copy / 1e12:g} TB/s"
    found = floors(Rates(chosen.matmul, chosen.copy))
    for made in (table(found, chosen.new_tokens, launch_s, memory, where), thresholds(found, launch_s, where)):
        made.write(chosen.output)
        print(made.markdown())
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"backend": "agg"}):
        figure = plot(found, chosen.new_tokens, launch_s, memory)
        figure.savefig(chosen.output / "regimes.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(chosen.output / "regimes.png")


if __name__ == "__main__":
    main()
