"""Tables in the paper's layout (1 to 5 and 9 to 12): what a run measured, published values beside it.

The paper's models are LLaMA-2-7B; a published row stands under the measured ones of the same method wherever a
column of both is the same data set at the same length, whatever base the run used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pandas as pd

from evals import registry
from evals.report import published
from evals.report.frames import Data
from evals.report.load import Record
from evals.report.plots import figure3
from evals.report.plots.style import tokens
from evals.report.stats import Interval
from evals.report.tables import Table, budgets
from evals.report.views import Scored, percent, view_intervals

DATASETS = {"pg19": "PG19", "proof-pile": "ProofPile", "codeparrot": "CodeParrot", "arxiv": "Arxiv"}
CATEGORIES = {
    "Single-Doc QA": "SD-QA",
    "Multi-Doc QA": "MD-QA",
    "Summarization": "Summ.",
    "Few-shot": "Few-shot",
    "Code": "Code",
}
VIEWS = {"infinitebench-sharedllm": 3, "longbench-sharedllm": 4}
"""Table of the paper that shows a view."""
PUBLISHED_BASE = "Published rows are of LLaMA-2-7B; they are comparable only for the same base and data."
OVERHEADS = {"M": 9, "beta": 10, "height": 11, "policy": 12}
"""Table of the paper for each part of SharedLLM that it varies."""


def paper_tables(data: Data) -> list[Table]:
    """Every table that the run has data for."""
    made = (perplexity(data), views(data), ablation(data), requests(data), overheads(data))
    return [table for tables in made for table in tables]


def methods(data: Data) -> list[str]:
    return list(dict.fromkeys(m["preset"]["method"] for m in data.run.models.values()))


def perplexity(data: Data) -> Iterator[Table]:
    """Tables 1 and 2: rows are models, columns data sets and lengths."""
    cells = data.summary[data.summary["task"] == "perplexity"]
    found: dict[str, dict[tuple[str, int], Any]] = {}
    measured = cells["length"].notna() & ((cells["n"] > 0) | (cells["status"] == "oom"))
    for row in cells[measured].to_dict("records"):
        columns = found.setdefault(row["model"], {})
        for dataset, metric in _datasets(row, data.run.cells[row["cell"]]):
            value = Interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
            columns[dataset, row["length"]] = "oom" if row["status"] == "oom" and not row["n"] else value
    if not found:
        return
    names = sorted({c for columns in found.values() for c in columns})
    keys = {(d, tokens(n)): f"{d} {tokens(n)}" for d, n in names}
    rows = [{"model": m, **{f"{d} {tokens(n)}": v for (d, n), v in columns.items()}} for m, columns in found.items()]
    notes = ["Perplexity, lower is better; in brackets the 95 % interval over documents."]
    beside = [r for n in (1, 2) for r in _published(n, methods(data), lambda r: keys.get((r["column"], r["length"])))]
    frame = pd.DataFrame([*rows, *beside], columns=["model", *keys.values()], dtype=object)
    yield Table(
        "table1-2-perplexity",
        "Perplexity (layout of tables 1 and 2)",
        frame,
        notes + [PUBLISHED_BASE] * bool(beside),
        budgets(data, list(found)),
    )


def views(data: Data) -> Iterator[Table]:
    """Tables 3 and 4, and every other view that a benchmark defines over its data sets; scores in percent."""
    scores = data.scores[data.scores["score"].notna()]
    for family, cells in scores.groupby("family", sort=False):
        task = registry.task(str(family))
        rows: dict[str, list[Record]] = {}
        titles: dict[str, str] = {}
        for (model, length), mine in cells.groupby(["model", cells["length"].fillna(0)], sort=False):
            found = {
                row["task"].partition(":")[2]: Scored(row["score"], row["metric"], data.run.scored(row["cell"]))
                for row in mine.to_dict("records")
            }
            for view, columns in view_intervals(task.views, found):
                shown = {CATEGORIES.get(c, c): percent(v) for c, v in columns.items()}
                titles[view.id] = view.title
                rows.setdefault(view.id, []).append(
                    {"model": model, "length": tokens(cast(float, length)) if length else "own", **shown}
                )
        for view_id, measured_rows in rows.items():
            yield _view(data, view_id, titles[view_id], measured_rows)


def _view(data: Data, view_id: str, title: str, rows: list[Record]) -> Table:
    number = VIEWS.get(view_id)
    columns = [c for c in rows[0] if c not in ("model", "length")]
    beside = (
        _published(number, methods(data), lambda r: r["column"] if r["column"] in columns else None) if number else []
    )
    frame = pd.DataFrame([*rows, *beside], columns=["model", "length", *columns], dtype=object)
    name = f"table{number}" if number else f"view-{view_id}"
    title += f" (layout of table {number})" if number else ""
    models = list(dict.fromkeys(r["model"] for r in rows))
    notes = ["Scores in percent; in brackets the 95 % interval over samples of the same data sets."]
    notes += [PUBLISHED_BASE] * bool(beside)
    return Table(name, title, frame, notes, budgets(data, models))


def ablation(data: Data) -> Iterator[Table]:
    """Table 5: variants of SharedLLM, each with the first metric of every task at its longest length."""
    names = variants(data)
    if len(names) < 3:
        return
    scores = data.scores[data.scores["model"].isin(names) & data.scores["score"].notna()]
    longest = scores[scores["length"].fillna(0) == scores.groupby("task")["length"].transform("max").fillna(0)]
    rows: dict[str, Record] = {n: {"model": n, "variant": v} for n, v in names.items()}
    for row in longest.to_dict("records"):
        at = "" if pd.isna(row["length"]) else f" {tokens(row['length'])}"
        rows[row["model"]][f"{row['task']}{at} {row['metric']}"] = Interval(row["score"], row["low"], row["high"])
    frame = pd.DataFrame(list(rows.values()), dtype=object)
    notes = ["The paper's ablations (its data and base) are in results/published/table5.csv."]
    yield Table("table5-ablation", "Ablation (layout of table 5)", frame, notes, budgets(data, list(names)))


def requests(data: Data) -> Iterator[Table]:
    """Figure 3: memory and time of whole requests by length, and the ratios to SharedLLM that the paper names."""
    rows = figure3.requests(data)
    rows = rows[rows["total_s"].notna() | (rows["status"] == "oom")] if len(rows) else rows
    if len({data.run.models[m]["preset"]["method"] for m in rows["model"]}) < 2:
        return
    lengths = {n: tokens(n) for n in sorted(set(rows["length"]))}
    claims, entries = published.speed_ratios(), []
    for model, mine in rows.groupby("model", sort=False):
        method = published.MODELS.get(data.run.models[str(model)]["preset"]["method"], "")
        for quantity, label in figure3.QUANTITIES.items():
            entry: Record = {"model": model, "quantity": label}
            for row in mine.to_dict("records"):
                lost = row["status"] == "oom" and quantity == "total_s"
                entry[lengths[row["length"]]] = "oom" if lost else row[quantity]
            entries.append(entry | ({"paper": claims.get(method)} if quantity == "ratio" else {}))
    frame = pd.DataFrame(entries, columns=["model", "quantity", *lengths.values(), "paper"], dtype=object)
    notes = [
        "Cold requests (context, query and answer), medians; where memory ran out, its peak until then.",
        "Paper: the ratios that it names for a method, of other hardware and without a length; it reports YaRN out of "
        "memory at 128K on one 80 GB GPU.",
    ]
    models = list(dict.fromkeys(rows["model"]))
    yield Table("figure3", "Memory and time against length (figure 3)", frame, notes, budgets(data, models))


def overheads(data: Data) -> Iterator[Table]:
    """Tables 9 to 12: time and memory of SharedLLM against each of its parts, at 8K or the nearest length.

    The time of a whole request where the run measured it (the task efficiency), else that to the first token.
    """
    costs = data.costs
    costs = costs[costs["model"].isin(variants(data)) & costs["ttft_s"].notna()]
    if costs.empty:
        return
    nearest = min(set(costs["length"]), key=lambda n: abs(n - 8192))
    chosen = costs[costs["length"] == nearest].set_index("model")
    whole = "total_s" in chosen and chosen["total_s"].notna().all()
    parts = {m: axes(data.run.models[m]["preset"]["settings"]) for m in chosen.index}
    reference = next(iter(parts.values()))
    for part, number in OVERHEADS.items():
        same = {m: p for m, p in parts.items() if all(p[k] == reference[k] for k in p if k != part)}
        if len({p[part] for p in same.values()}) < 2:
            continue
        rows = [
            {
                "variant": f"{part}={p[part]}",
                "time (s)": chosen.loc[m, "total_s" if whole else "ttft_s"],
                "memory (GiB)": chosen.loc[m, "peak_gib"],
                **({"first token (s)": chosen.loc[m, "ttft_s"]} if whole else {}),
            }
            for m, p in same.items()
        ]
        known = published.table(number)
        for variant in dict.fromkeys(known["variant"]):
            mine = {r["column"]: r["value"] for r in known[known["variant"] == variant].to_dict("records")}
            if "time_s" in mine:
                label = published.label(variant, number)
                rows.append({"variant": label, "time (s)": mine["time_s"], "memory (GiB)": mine["memory_gb"]})
            elif "added_time_percent" in mine:
                time_s, memory = (f"+{mine[f'added_{what}_percent']:g} %" for what in ("time", "memory"))
                label = published.label(variant, number)
                rows.append({"variant": label, "time (s)": time_s, "memory (GiB)": memory})
        yield Table(
            f"table{number}-{part.lower()}",
            f"Time and memory against {part} at {tokens(nearest)} tokens (layout of table {number})",
            pd.DataFrame(rows, dtype=object),
            [
                f"Measured: {'time of a whole cold request' if whole else 'time to first token'}, peak memory. "
                "Published: LLaMA-2-7B, its own hardware, a request that the paper does not describe: compare ratios."
            ],
            budgets(data, list(same)),
        )


def variants(data: Data) -> dict[str, str]:
    """The SharedLLM models of a run, and in which parts each differs from the first."""
    parts = {
        name: axes(model["preset"]["settings"])
        for name, model in data.run.models.items()
        if model["preset"]["method"] == "sharedllm"
    }
    reference = next(iter(parts.values()), {})
    return {
        name: ", ".join(f"{k}={v}" for k, v in mine.items() if v != reference[k]) or "default"
        for name, mine in parts.items()
    }


def axes(settings: Record) -> Record:
    """The parts of SharedLLM that the paper varies, from a preset's settings.

    beta = 1 / sum over levels of (share of the chunk that the level keeps / its ratio): a half, a quarter, ...,
    and both halves on the last level (paper section 3.2).
    """
    ratios = settings.get("ratios") or []
    shares = [0.5 ** (level + 1) for level in range(len(ratios))]
    if shares:
        shares[-1] *= 2
    kept = sum(share / ratio for share, ratio in zip(shares, ratios, strict=True))
    return {
        "M": settings.get("lower_layers"),
        "beta": round(1 / kept, 2) if kept else None,
        "height": len(ratios) or None,
        "injection": settings.get("injection"),
        "policy": settings.get("policy"),
        "key_positions": settings.get("key_positions"),
        "split_noise": settings.get("split_noise"),
    }


def _published(number: int, wanted: list[str], place: Any) -> list[Record]:
    """Rows of a published table whose cells `place` puts in a column of ours."""
    found: dict[str, Record] = {}
    for row in published.rows(number, wanted).to_dict("records"):
        column = place(row)
        if column is not None:
            name = row["model"] if row["version"] == published.FIRST else f"{row['model']}, {row['version']}"
            entry = found.setdefault(name, {"model": published.label(name, number), "length": row["length"]})
            entry[column] = published.value(row)
    return list(found.values())


def _datasets(row: Mapping[Any, Any], cell: Record) -> Iterator[tuple[str, str]]:
    """Name of a data set and the metric that holds its perplexity: the one set, or one a domain of the text."""
    metric = cell["metric"]
    domains = [c for c in row if str(c).startswith(f"{metric}/") and not str(c).endswith(("_low", "_high"))]
    dataset = cell["settings"].get("dataset")
    yield DATASETS.get(dataset, dataset) if dataset else "all", metric
    for column in domains:
        if not pd.isna(row[column]):
            domain = column.partition("/")[2]
            yield DATASETS.get(domain, domain), column
