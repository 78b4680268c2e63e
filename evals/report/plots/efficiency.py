"""The cost of a method: memory and latency against length, from cold requests."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from evals.report.data import Data
from evals.report.plots.looks import looks
from evals.report.plots.style import PAGE, drawn, headroom, legend, length_axis, out_of_memory, spread_axis

QUANTITIES = {
    "peak_gib": "peak memory (GiB)",
    "ttft_s": "time to first token (s)",
    "tpot_ms": "time per output token (ms)",
}
CAPTION = (
    "Peak memory, time to first token and time per output token against length, of cold requests of the task {task}: "
    "nothing is reused, and each point is the median of repeats. A cross stands where memory ran out."
)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure of three panels, if the run has cold measurements at two lengths or more."""
    rows = data.costs
    if rows.empty or rows[rows["ttft_s"].notna()]["length"].nunique() < 2:
        return
    styles = drawn(looks(data.methods), rows, "ttft_s")
    figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
    for ax, (quantity, label) in zip(figure.subplots(1, 3), QUANTITIES.items(), strict=True):
        lost = 0
        for model, look in styles.items():
            mine = rows[rows["model"] == model].sort_values("length")
            done = mine[mine["ttft_s"].notna() & mine[quantity].notna()]
            x, y = done["length"].to_numpy(float), done[quantity].to_numpy(float)
            ax.plot(x, y, color=look.colour, marker=look.marker, linestyle=look.dashes)
            gone = mine[mine["ttft_s"].isna() & (mine["status"] == "oom")]["length"].astype(float).tolist()
            out_of_memory(ax, gone, look, lost)
            lost += bool(gone)
        if quantity == "ttft_s":
            spread_axis(ax, "y", rows[quantity].dropna())
        if ax.get_yscale() == "linear":
            ax.set_ylim(0, 1.08 * rows[rows["ttft_s"].notna()][quantity].max())
        headroom(ax, lost)
        length_axis(ax, rows["length"].astype(float))
        ax.set_title(label)
    legend(figure, styles)
    yield "efficiency", CAPTION.format(task=rows["task"].iloc[0]), figure
