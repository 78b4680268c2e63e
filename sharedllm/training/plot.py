"""Loss curves of a training run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sharedllm.files import write_whole
from sharedllm.training.checkpoint import LogEntry


def plot_log(log: list[LogEntry], output: Path) -> None:
    """Write loss.png and loss.svg: one curve for every kind of batch against the step.

    Raises UserError for a folder that cannot be written to.
    """
    if not log:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    kinds = sorted({k for e in log for k in e["loss"]}, key=lambda k: (len(k), k))  # needle 6 before needle 24
    for kind, marker in zip(kinds, "osv^DPX*", strict=False):
        points = [(e["step"], e["loss"][kind]) for e in log if kind in e["loss"]]
        axes.plot(
            *zip(*points, strict=True), marker=marker, markevery=max(1, len(points) // 12), ms=4, lw=1, label=kind
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per target token)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    for suffix in ("png", "svg"):
        write_whole(output / f"loss.{suffix}", partial(figure.savefig, format=suffix, dpi=150))
    plt.close(figure)
