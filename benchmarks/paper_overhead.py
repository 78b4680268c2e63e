"""Tables 9 to 12 of the paper: what injection layers, compression, tree height and the search cost on 8K tokens.

    python benchmarks/paper_overhead.py --output results/measured/overhead
    python benchmarks/paper_overhead.py --tables 9 --output results/measured/injection-layers --device cuda

Every variant is the preset with one setting changed, measured by `sharedllm-eval --task efficiency` in a process of
its own. Options that are not listed below, such as `--set`, are passed to it, and the same command resumes. The run in
OUTPUT has the tables in the paper's layout. overhead.csv and overhead.svg beside it hold measured and published values
relative to one row of each table (M = 4, beta = 8, height 3, no search): the paper does not say what its seconds
comprise, so only ratios can be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
import yaml
from matplotlib.figure import Figure

from evals.cli.evaluate import main as evaluate
from evals.methods import presets
from evals.report import published
from evals.report.plots.style import STYLE
from sharedllm.tree import halving_ratios as ratios

REFERENCE = {9: "M=4", 10: "beta=8", 11: "height=3", 12: "policy=right"}
"""The row that the others of a table are compared with."""
PAPER = {"lower_layers": 4, "ratios": [16, 8, 4], "policy": "last_token"}
"""The paper's setting, written out in every preset so that tables can tell what a variant changes."""
QUANTITIES = {"total_s": "time_s", "peak_gib": "memory_gb"}
"""Column of the run's summary -> column of the published tables."""


@dataclass(frozen=True)
class Variant:
    """A row of a table: its name there and the settings that make it."""

    table: int
    name: str
    settings: dict[str, Any]


def variants(tables: Iterable[int]) -> list[Variant]:
    """The rows of the tables, in the paper's order."""
    rows: dict[int, list[tuple[str, dict[str, Any]]]] = {
        9: [(f"M={m}", {"lower_layers": m}) for m in (1, 2, 4, 8, 16)],
        10: [(f"beta={b}", {"ratios": ratios(b, 3)}) for b in (64, 32, 16, 8, 4, 2, 1)],
        11: [(f"height={h}", {"ratios": ratios(8, h)}) for h in (1, 2, 3, 4)],
        12: [(f"policy={p}", {"policy": p}) for p in ("right", "last_token", "maxsim")],
    }
    return [Variant(table, name, settings) for table in tables for name, settings in rows[table]]


def models(base: presets.Preset, rows: Sequence[Variant]) -> list[presets.Preset]:
    """One preset per variant, in their order. Variants that change nothing share the default, which keeps its name."""
    default = base.override({**PAPER, **base.settings})
    made = []
    for row in rows:
        changed = default.override(row.settings)
        same = changed.settings == default.settings
        made.append(default if same else changed.model_copy(update={"name": f"{base.name} {row.name}"}))
    return made


def write(made: Iterable[presets.Preset], default: str, folder: Path) -> list[Path]:
    """Preset files, each once, the default first: the tables of a run take their reference from the first model."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for preset in sorted(made, key=lambda preset: preset.name != default):
        files[preset.name] = folder / f"{preset.name.replace(' ', '-')}.yaml"
        files[preset.name].write_text(yaml.safe_dump(preset.model_dump(mode="json")), encoding="utf-8")
    return list(files.values())


def compare(rows: Sequence[Variant], made: Sequence[presets.Preset], summary: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: measured and published values, and both relative to the table's reference row."""
    measured = summary.set_index("model")
    model = {(row.table, row.name): preset.name for row, preset in zip(rows, made, strict=True)}
    compared = []
    for row in rows:
        mine, reference = model[row.table, row.name], model[row.table, REFERENCE[row.table]]
        entry: dict[str, Any] = {"table": row.table, "variant": row.name, "status": measured.loc[mine, "status"]}
        for ours in ("ttft_s", *QUANTITIES):
            entry[ours] = measured.loc[mine, ours]
            entry[f"{ours}_ratio"] = entry[ours] / measured.loc[reference, ours]
        for theirs in QUANTITIES.values():
            entry[f"paper_{theirs}"] = paper_value(row.table, row.name, theirs)
            entry[f"paper_{theirs}_ratio"] = paper_ratio(row.table, row.name, theirs)
        compared.append(entry)
    return pd.DataFrame(compared)


def paper_value(table: int, variant: str, column: str) -> float:
    """A published value; NaN where the paper has none."""
    found = published.table(table).set_index(["variant", "column"])["value"]
    return float(found.get((variant, column), float("nan")))


def paper_ratio(table: int, variant: str, column: str) -> float:
    """A published value over that of the reference row. Table 12 says only what its search (last token) adds."""
    if table == 12 and variant == "policy=last_token":
        return 1 + paper_value(12, "query-aware search", f"added_{column.partition('_')[0]}_percent") / 100
    return paper_value(table, variant, column) / paper_value(table, REFERENCE[table], column)


def plot(compared: pd.DataFrame) -> Figure:
    """One column of panels per table: time and memory relative to its reference row, measured and published."""
    tables = [
        (number, compared[compared["table"] == number]) for number in REFERENCE if number in set(compared["table"])
    ]
    figure = Figure(figsize=(2.3 * len(tables), 3.6), layout="constrained")
    panels = figure.subplots(2, len(tables), squeeze=False)
    for column, (table, mine) in enumerate(tables):
        names = mine["variant"].str.partition("=")[2].tolist()
        for line, (ours, theirs) in enumerate(QUANTITIES.items()):
            ax = panels[line][column]
            lines = {"measured": (ours, "o", "black"), "paper": (f"paper_{theirs}", "s", "0.6")}
            if ours == "total_s":
                lines["measured, first token"] = ("ttft_s", "^", "#0072B2")
            for label, (name, marker, colour) in lines.items():
                ax.plot(names, mine[f"{name}_ratio"], marker=marker, color=colour, label=label)
            ax.set_ylim(0, 1.1 * max(mine[f"{name}_ratio"].max() for name, *_ in lines.values()))
            ax.set_title(f"{('time', 'memory')[line]}, {REFERENCE[table]} is 1", fontsize=8)
            ax.set_xlabel(f"{REFERENCE[table].partition('=')[0]} (table {table})", fontsize=8)
            ax.tick_params(labelsize=7)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=min(3, len(tables)))
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then write the comparison. Returns the exit code of `sharedllm-eval`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", choices=sorted(REFERENCE), default=sorted(REFERENCE))
    parser.add_argument("--preset", default="sharedllm-7b", help="name or YAML file of the default")
    parser.add_argument("--length", default="8k", help="tokens of context")
    parser.add_argument("--output", type=Path, required=True)
    chosen, rest = parser.parse_known_args(arguments)
    base, rows = presets.load_preset(chosen.preset), variants(chosen.tables)
    made = models(base, rows)
    files = write(made, base.name, chosen.output / "presets")
    run = chosen.output / "run"
    command = ["--task", "efficiency", "--model", ",".join(map(str, files)), "--length", chosen.length]
    try:
        evaluate([*command, "--random-weights", "--output", str(run), *rest])
    except SystemExit as end:
        if end.code or "--dry-run" in rest:
            return int(end.code or 0)
    compared = compare(rows, made, pd.read_csv(run / "summary.csv"))
    compared.to_csv(chosen.output / "overhead.csv", index=False)
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"backend": "agg"}):
        figure = plot(compared)
        figure.savefig(chosen.output / "overhead.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(chosen.output / "overhead.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
