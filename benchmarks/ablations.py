"""The paper's ablations (table 5) on a small base: every variant trained briefly with one budget, then compared.

    python benchmarks/ablations.py --base BASE --data TRAIN.jsonl ... --heldout TEXTS.jsonl ... --output DIR
    python benchmarks/ablations.py ... --variants height=2,beta=1 --steps 120 --needles --set lower_layers=4

A variant is the reference with one setting of the method changed. All start from the base, as the identity, and see the
same batches in the same order on one device, one after the other in one process. DIR/ablation.json holds the budget and
what each variant gave; variants that are in it are not run again, so the same command goes on where it stopped. Tables
(CSV, Markdown, LaTeX) and bars lie beside it, published values beside ours. A variant that was cut off starts anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
import yaml
from scipy.stats import t as student
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.environment import environment
from evals.errors import UserError
from evals.report import published
from evals.report.plots.ablation import bars
from evals.report.plots.style import STYLE
from evals.report.tables import Table
from evals.stats import Interval
from sharedllm.configuration import SETTINGS
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.training import evaluate
from sharedllm.training.corpus import open_corpus
from sharedllm.training.needles import Needles
from sharedllm.training.run import Files, batch_maker
from sharedllm.training.settings import NeedleStage, TrainSettings, preset
from sharedllm.training.trainer import Trainer
from sharedllm.tree import entries_per_chunk, halving_ratios

REFERENCE = "reference"
PAPER_DEFAULT = "height=3"
"""A row of table 5 with nothing changed: height 3, beta 8, bottom, search, noise and chunk positions."""
METHOD = {
    "chunk_size": 1024,
    "ratios": halving_ratios(8, 3),
    "lower_layers": 15,
    "injection": "bottom",
    "policy": "last_token",
    "key_positions": "chunk",
    "split_noise": 0.0,
    "leaf_overlap": None,
}
"""The reference: the paper's method without noise, which changes shapes at every step and cannot be compiled. Half of a
30-layer base injects: a short run with M = 4 learns too little use of the context to tell variants apart."""
NEEDLES: dict[str, Any] = {"windows": 32, "needles": 8, "questions": 4, "share": 0.5}
"""Half of the steps with --needles, in windows of as many chunks as language modelling has."""
SCORES = {"use": "use of context (nats a token)", "own": "loss (nats a token)", "digits": "needle digits right"}


@dataclass(frozen=True)
class Variant:
    """What it changes in the reference, and between which rows of table 5 the paper shows the same change."""

    settings: dict[str, Any]
    paper: str | None = None
    paper_reference: str = PAPER_DEFAULT
    needles_only: bool = field(default=False, kw_only=True)


VARIANTS = {
    # variants of one tree follow each other: they share compiled graphs
    REFERENCE: Variant({}, PAPER_DEFAULT),
    "injection=top": Variant({"injection": "top"}, "injection=top"),
    "injection=interleaved": Variant({"injection": "interleaved"}, "injection=interleaved"),
    "key_positions=node": Variant({"key_positions": "node"}, "without chunk position"),
    "key_positions=node+chunk": Variant({"key_positions": "node+chunk"}),
    "policy=right": Variant({"policy": "right"}, "without retrieval", needles_only=True),
    "policy=maxsim": Variant({"policy": "maxsim"}, needles_only=True),
    **{f"height={h}": Variant({"ratios": halving_ratios(8, h)}, f"height={h}") for h in (2, 4)},
    **{f"beta={b}": Variant({"ratios": halving_ratios(b, 3)}, f"beta={b}") for b in (1, 4, 16)},
    "split_noise=0.2": Variant({"split_noise": 0.2}, PAPER_DEFAULT, "without noise"),
}


def select(names: Sequence[str] | None, needles: bool) -> list[str]:
    """Names of the variants to run, in the order of VARIANTS; the reference always, to compare with.

    Raises UserError for an unknown name, and for a search without needles: language modelling never searches.
    """
    for name in names or []:
        if name not in VARIANTS:
            raise UserError(f"There is no variant '{name}': choose from {', '.join(VARIANTS)}.")
        if VARIANTS[name].needles_only and not needles:
            raise UserError(f"{name} makes no difference to language modelling, which never searches: add --needles.")
    wanted = VARIANTS if names is None else {REFERENCE, *names}
    return [n for n, v in VARIANTS.items() if n in wanted and (needles or not v.needles_only)]


def budget(steps: int, needles: bool, changes: dict[str, Any]) -> TrainSettings:
    """Settings that all variants share, with the reference's method. changes: of training or of the method."""
    method = METHOD | {k: v for k, v in changes.items() if k in SETTINGS}
    training = {"compile": torch.cuda.is_available()} | {k: v for k, v in changes.items() if k not in SETTINGS}
    settings = preset("small", **training | {"steps": steps, "method": method})
    if needles and not settings.needles:
        stage = NeedleStage(chunks=settings.chunks[0], **NEEDLES)
        settings = settings.model_copy(update={"needles": [stage]})
    return settings


def variant_settings(settings: TrainSettings, variant: Variant) -> TrainSettings:
    """The budget with a variant's method. Noise changes shapes at every step, so that variant is not compiled."""
    method = {**settings.method, **variant.settings}
    return settings.model_copy(
        update={"method": method, "compile": settings.compile and not method.get("split_noise", 0)}
    )


class Bench:
    """What all variants share, loaded once: base, batches and held-out texts."""

    def __init__(self, files: Files, settings: TrainSettings, repeats: int, windows: int) -> None:
        self.settings, self.repeats, self.windows = settings, repeats, windows
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        auto = "bfloat16" if self.device == "cuda" else "float32"
        dtype = getattr(torch, auto if settings.dtype == "auto" else settings.dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(files.base)
        self.base: Any = AutoModelForCausalLM.from_pretrained(files.base, dtype=dtype).to(self.device)
        self.make = batch_maker(settings, files, self.tokenizer, settings.method["chunk_size"])
        self.heldout = [open_corpus(path, self.tokenizer, files.output / "tokens") for path in files.heldout]
        self.tree: Any = None

    def run(self, variant: Variant) -> dict[str, Any]:
        """Train and evaluate one variant; its record."""
        settings = variant_settings(self.settings, variant)
        if settings.compile and settings.method["ratios"] != self.tree:
            torch._dynamo.reset()  # static graphs for another tree, instead of dynamic ones for both
            self.tree = settings.method["ratios"]
        # a copy of the base: with `trainable=[..., top]` training changes it
        model = SharedLLMForCausalLM.from_base(copy.deepcopy(self.base), **settings.method)
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(model, self.make, settings, Path(folder), checkpoint_every=settings.steps)
            trainer.run()
        trained = time.monotonic()
        plain = SharedLLMForCausalLM.from_base(model.base, **settings.method)  # not compiled for one more shape
        plain.load_state_dict(model.state_dict())
        scores = [self._evaluate(plain.eval(), seed) for seed in range(self.repeats)]
        return {
            "method": settings.method,
            "compiled": settings.compile,
            "steps": trainer.step,
            "entries": entries_per_chunk(*(getattr(plain.config, n) for n in ("chunk_size", "ratios", "sampling"))),
            "train_s": round(trained - begin, 1),
            "evaluate_s": round(time.monotonic() - trained, 1),
            "log": trainer.log,
            "scores": scores,
        }

    def _evaluate(self, model: SharedLLMForCausalLM, seed: int) -> dict[str, float]:
        """One draw of held-out windows, the same for all variants."""
        s, chunks = self.settings, self.settings.chunks[0]
        found = evaluate.language_modelling(model, self.heldout, chunks, s.running, self.windows, seed)
        scores = dict(found["mean"])
        if s.needles:
            source = Needles(self.tokenizer, self.heldout[:1], model.config.chunk_size, s.needle_running, 0.0, 0)
            count = s.needles[0].needles // 2
            scores |= evaluate.needles(model, source, s.needles[0].chunks, count, 32, 16, seed + 1000)
        return scores


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean with its 95 % t interval."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(mean)
    se = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(student.ppf(0.975, len(values) - 1)) * se
    return Interval(mean, mean - reach, mean + reach, se)


def paired(done: dict[str, Any], name: str, score: str) -> Interval:
    """A variant's score minus the reference's on the same windows."""
    mine, reference = (np.array([row[score] for row in done[n]["scores"]]) for n in (name, REFERENCE))
    return mean_interval((mine - reference).tolist())


def paper_change(variant: Variant, column: str) -> tuple[float | None, float | None]:
    """The paper's value for a variant, and its change: of the logarithm (nats a token) where it is a perplexity."""
    known = published.table(5).set_index(["variant", "column"])["value"]
    value, reference = (known.get((row, column), np.nan) for row in (variant.paper, variant.paper_reference))
    if pd.isna(value):
        return None, None
    change = math.log(value / reference) if column == "Arxiv" else value - reference
    return float(value), None if variant.paper == variant.paper_reference else float(change)


def table(record: dict[str, Any]) -> Table:
    """One row a variant: ours with paired intervals, then the paper's."""
    done = record["variants"]
    rows = []
    for name in (n for n in VARIANTS if n in done):
        (ppl, nats), (qa, points) = (paper_change(VARIANTS[name], c) for c in ("Arxiv", "MD-QA"))
        means = {s: mean_interval([r[s] for r in done[name]["scores"]]).estimate for s in found_scores(done)}
        changes = {s: None if name == REFERENCE else paired(done, name, s) for s in means}
        ours = {k: v for s in means for k, v in ((SCORES[s], means[s]), (f"change of {SCORES[s]}", changes[s]))}
        theirs = {"paper: Arxiv ppl": ppl, "in nats, change": nats, "paper: MD-QA": qa, "MD-QA, change": points}
        rows.append({"variant": name, **ours, "entries a chunk": done[name]["entries"], **theirs})
    reference = ", ".join(f"{k}={v}" for k, v in done[REFERENCE]["method"].items())
    notes = [
        f"Ours: {record['budget']['settings']['steps']} steps each, same batches; reference: {reference}.",
        "Use of context: loss with another document's context minus loss with the own one. Changes are against the "
        "reference on the same held-out windows; in brackets their 95 % t interval over draws of windows from these "
        "documents, one training seed: it does not cover other documents or seeds.",
        "Paper (arXiv 2410.19318v1, table 5): LLaMA-2-7B at 32K, trained in full, changes against its default; its "
        "default has noise, so split_noise=0.2 stands beside its change from 'without noise' to the default.",
    ]
    return Table("ablation", "Ablations (layout of table 5)", pd.DataFrame(rows, dtype=object), notes)


def found_scores(done: dict[str, Any]) -> list[str]:
    """The scores that the runs have: needles only where they were asked for."""
    return [s for s in SCORES if s in done[REFERENCE]["scores"][0]]


def plot(done: dict[str, Any], folder: Path) -> None:
    """A figure a score: bars for what is better when higher, the paired change as dots for the loss."""
    names = [n for n in VARIANTS if n in done]
    with matplotlib.style.context(STYLE), matplotlib.rc_context({"backend": "agg"}):
        for score in found_scores(done):
            higher = score != "own"
            found = [mean_interval([r[score] for r in done[n]["scores"]]) for n in names]
            if not higher:
                found = [paired(done, n, score) for n in names]
            rows = pd.DataFrame({"model": names, "score": [i.estimate for i in found]})
            rows = rows.assign(low=[i.low for i in found], high=[i.high for i in found], higher_is_better=higher)
            label = SCORES[score] if higher else "change of loss, nats"
            figure = bars(rows.assign(metric=label), {n: n for n in names})
            figure.savefig(folder / f"ablation-{score}.svg", metadata={"Date": None, "Creator": None})
            figure.savefig(folder / f"ablation-{score}.png")


def open_record(path: Path, files: Files, settings: TrainSettings, repeats: int, windows: int) -> dict[str, Any]:
    """What earlier calls left in DIR/ablation.json, or a new record. Raises UserError for one of another budget."""
    if missing := [p for p in (*files.data, *files.heldout) if not p.is_file()]:
        raise UserError(f"There is no data file {missing[0]}.")
    wanted = {
        "settings": json.loads(settings.model_dump_json()),
        "base": files.base,
        "data": [p.name for p in files.data],
        "heldout": [p.name for p in files.heldout],
        "repeats": repeats,
        "windows": windows,
    }
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["budget"] != wanted:
            raise UserError(f"{path} holds variants of another budget: choose another --output.")
        return record
    return {"budget": wanted, "variants": {}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, rewrite table and plots after each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or hub name")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help=".txt, .jsonl(.gz|.xz), .tokens.npz")
    parser.add_argument("--heldout", type=Path, nargs="+", required=True, help="two long documents a file or more")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variants", type=lambda text: text.split(","), help="all by default")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--needles", action="store_true", help="train and evaluate needles too, vary the search")
    parser.add_argument("--repeats", type=int, default=8, help="draws of held-out windows")
    parser.add_argument("--windows", type=int, default=4, help="windows a draw and file")
    parser.add_argument("--set", nargs="+", action="extend", default=[], help="KEY=VALUE of training or method")
    chosen = parser.parse_args(arguments)
    try:
        ablate(chosen, sys.argv[1:] if arguments is None else list(arguments))
    except (ValueError, OSError) as error:  # as `sharedllm-train`: what it raises for settings, data and base
        print(f"ablations.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def ablate(chosen: argparse.Namespace, arguments: list[str]) -> None:
    """Train and evaluate the variants that the record lacks."""
    changes = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in chosen.set)}
    settings = budget(chosen.steps, chosen.needles, changes)
    names = select(chosen.variants, bool(settings.needles))
    files = Files(chosen.base, chosen.data, [], chosen.heldout, None, chosen.output)
    path = chosen.output / "ablation.json"
    record = open_record(path, files, settings, chosen.repeats, chosen.windows)
    bench = None
    for name in (n for n in names if n not in record["variants"]):
        bench = bench or Bench(files, settings, chosen.repeats, chosen.windows)
        print(f"{name}:", file=sys.stderr, flush=True)
        result = bench.run(VARIANTS[name])
        command = shlex.join(["python", "benchmarks/ablations.py", *arguments])
        record["variants"][name] = {**result, "command": command, "environment": environment(bench.device)}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        print(json.dumps({name: {s: round(paired(record["variants"], name, s).estimate, 5) for s in ("own", "use")}}))
    table(record).write(chosen.output)
    plot(record["variants"], chosen.output)


if __name__ == "__main__":
    main()
