"""True use of context: how much worse a method predicts when it reads another document's context."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from evals.report.data import Data
from evals.report.plots.by_length import panel
from evals.report.plots.looks import looks
from evals.report.plots.style import drawn, legend, panels

METRIC = "use_of_context"
CAPTION = (
    "True use of context: loss with another document's context minus loss with the document's own context, in nats "
    "per token, with 95 % intervals. At 0 the method does not use its context."
)


def figures(data: Data) -> Iterator[tuple[str, str, Figure]]:
    """One figure, if the run measured the control at two lengths or more."""
    if METRIC not in data.summary:
        return
    rows = data.ended[data.ended["length"].notna()]
    scores = rows[METRIC].where(~rows["cell"].isin(data.ran_out))
    rows = rows.assign(score=scores, low=rows[f"{METRIC}_low"], high=rows[f"{METRIC}_high"], metric=METRIC)
    tasks = [t for t, r in rows[rows["score"].notna()].groupby("task", sort=False) if r["length"].nunique() > 1]
    if not tasks:
        return
    styles = drawn(looks(data.methods), rows[rows["task"].isin(tasks)], "score")
    figure, axes = panels(len(tasks), columns=2)
    for ax, task in zip(axes, tasks, strict=True):
        panel(ax, rows[rows["task"] == task].assign(higher_is_better=True), styles)
        ax.axhline(0, color="black", lw=0.6)
        ax.set_ylabel("nll(other) - nll(own)")
        ax.set_title(str(task))
    legend(figure, styles)
    yield "context_use", CAPTION, figure
