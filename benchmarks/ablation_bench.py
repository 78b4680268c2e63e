"""The variants of the ablations: what each changes, and how one is trained and evaluated."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evals.errors import UserError
from evals.run.environment import environment
from sharedllm.inputs import ContextInputs
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.settings import SETTINGS
from sharedllm.training import evaluate
from sharedllm.training.corpus import Corpus, open_corpus
from sharedllm.training.files import Files
from sharedllm.training.loss import next_token_loss
from sharedllm.training.methods.sharedllm import SharedLLM
from sharedllm.training.mixture import batch_maker
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
"""The reference: the paper's method without noise. Half of a 30-layer base injects: a short run with M = 4 learns too
little use of the context to tell variants apart."""
WINDOWS = 8
"""LM windows a step: half of the preset's, for a training of minutes."""
NEEDLES: dict[str, Any] = {"windows": 12, "needles": 8, "questions": 4, "share": 0.5}
"""Half of the steps with --needles, in windows of as many chunks as language modelling has."""
NEEDLE_DRAWS, NEEDLE_WINDOWS = 8, 16
"""Draws of held-out windows with needles, and windows of each."""
CHECKPOINT_EVERY = 50


@dataclass(frozen=True)
class Variant:
    """Changes to the reference, and the rows of table 5 between which the paper shows the same change."""

    settings: dict[str, Any]
    paper: str | None = None
    paper_reference: str = PAPER_DEFAULT
    needles_only: bool = field(default=False, kw_only=True)


VARIANTS = {
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
    """Names of the variants to run, in the order of VARIANTS. The reference is always included.

    Raises UserError for an unknown name, and for a search without needles: language modelling never searches.
    """
    for name in names or []:
        if name not in VARIANTS:
            raise UserError(f"There is no variant '{name}': choose from {', '.join(VARIANTS)}.")
        if VARIANTS[name].needles_only and not needles:
            raise UserError(f"{name} makes no difference to language modelling, which never searches: add --needles.")
    wanted = VARIANTS if names is None else {REFERENCE, *names}
    return [n for n, v in VARIANTS.items() if n in wanted and (needles or not v.needles_only)]


def shared_settings(steps: int, needles: bool, changes: dict[str, Any]) -> TrainSettings:
    """Settings that all variants share, with the reference's method. changes: of training or of the method."""
    method = METHOD | {k: v for k, v in changes.items() if k in SETTINGS}
    training = {"windows": WINDOWS} | {k: v for k, v in changes.items() if k not in SETTINGS}
    settings = preset("small", **training | {"steps": steps, "method": method})
    if needles and not settings.needles:
        stage = NeedleStage(chunks=settings.chunks[0], **NEEDLES)
        settings = settings.model_copy(update={"needles": [stage]})
    return settings


def variant_settings(settings: TrainSettings, variant: Variant) -> TrainSettings:
    """The shared settings with a variant's method. Noise changes shapes at every step, so it is never compiled."""
    method = {**settings.method, **variant.settings}
    return settings.model_copy(
        update={"method": method, "compile": settings.compile and not method.get("split_noise", 0)}
    )


def longest_first(names: Sequence[str], settings: TrainSettings) -> list[str]:
    """The reference, then the longest variants, so that no worker is left alone with one; equal trees are adjacent."""

    def key(name: str) -> tuple[bool, bool, int]:
        method = variant_settings(settings, VARIANTS[name]).method
        return name != REFERENCE, not method["split_noise"], -entries(method)

    return sorted(names, key=key)


def entries(method: dict[str, Any]) -> int:
    """Compressed entries of a chunk."""
    return entries_per_chunk(method["chunk_size"], method["ratios"], method.get("sampling", "equidistant"))


@dataclass(frozen=True)
class Recipe:
    """What all variants share. settings: of training, as JSON. windows: held-out windows per file."""

    base: str
    data: tuple[Path, ...]
    heldout: tuple[Path, ...]
    output: Path
    settings: str
    windows: int

    @property
    def files(self) -> Files:
        return Files(self.base, list(self.data), [], list(self.heldout), None, self.output)

    def folder(self, name: str) -> Path:
        """Folder of a variant's log and, until it is finished, its checkpoint."""
        return self.output / "variants" / name


def tokenize(recipe: Recipe) -> None:
    """Fill the cache of token ids once, before several processes need it. Raises ValueError for a malformed row."""
    tokenizer = AutoTokenizer.from_pretrained(recipe.base)
    for path in (*recipe.data, *recipe.heldout):
        open_corpus(path, tokenizer, recipe.output / "tokens")


@functools.lru_cache(maxsize=1)
def bench(recipe: Recipe) -> Bench:
    """The bench of this process: the base is loaded once."""
    return Bench(recipe)


def train(recipe: Recipe, name: str) -> dict[str, Any]:
    """Train and evaluate a variant in this process; what it prints goes to its own log."""
    folder = recipe.folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        return bench(recipe).run(VARIANTS[name], folder)


class Bench:
    """Base, batches and held-out texts, the same for every variant."""

    def __init__(self, recipe: Recipe) -> None:
        self.settings, self.windows = TrainSettings.model_validate_json(recipe.settings), recipe.windows
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        auto = "bfloat16" if self.device == "cuda" else "float32"
        dtype = getattr(torch, auto if self.settings.dtype == "auto" else self.settings.dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(recipe.base)
        base: Any = AutoModelForCausalLM.from_pretrained(recipe.base, dtype=dtype)
        self.base = base.to(self.device)
        self.make = batch_maker(self.settings, recipe.files, self.tokenizer, self.settings.method["chunk_size"])
        self.heldout = [open_corpus(path, self.tokenizer, recipe.output / "tokens") for path in recipe.heldout]
        self.tree: Any = None

    def run(self, variant: Variant, folder: Path) -> dict[str, Any]:
        """Train one variant, or continue from its checkpoint in `folder`, and evaluate it. Returns its record."""
        settings = variant_settings(self.settings, variant)
        if settings.compile and settings.method["ratios"] != self.tree:
            torch._dynamo.reset()  # static graphs for each tree instead of dynamic ones for both
            self.tree = settings.method["ratios"]
        # a copy of the base: with `trainable=[..., top]` training changes it
        model = SharedLLMForCausalLM.from_base(copy.deepcopy(self.base), **settings.method)
        begin = time.monotonic()
        trainer = Trainer(SharedLLM(model), self.make, settings, folder, CHECKPOINT_EVERY, log_every=10)
        trainer.run()
        trained = time.monotonic()
        plain = SharedLLMForCausalLM.from_base(model.base, **settings.method)  # not compiled for another shape
        plain.load_state_dict(model.state_dict())
        scores = self.evaluate(plain.eval())
        return {
            "method": settings.method,
            "compiled": settings.compile,
            "steps": trainer.step,
            "entries": entries(settings.method),
            "train_s": round(trained - begin, 1),
            "evaluate_s": round(time.monotonic() - trained, 1),
            "log": trainer.log,
            "scores": scores,
            "environment": environment(self.device),
        }

    def evaluate(self, model: SharedLLMForCausalLM) -> dict[str, list[list[float]]]:
        """Values of each score on held-out windows, the same for all variants: one list per file, one for needles."""
        s, chunks = self.settings, self.settings.chunks[0]
        found = [losses(model, corpus, chunks, s.running, self.windows) for corpus in self.heldout]
        scores = {name: [file[name] for file in found] for name in found[0]}
        if s.needles:
            stage = s.needles[0]
            source = evaluate.needle_source(self.tokenizer, self.heldout[:1], model.config.chunk_size, s.needle_running)
            shape = (stage.chunks, stage.needles // 2, NEEDLE_WINDOWS, NEEDLE_WINDOWS)
            draws = [evaluate.needles(model, source, *shape, 1000 + draw)["digits"] for draw in range(NEEDLE_DRAWS)]
            scores["digits"] = [draws]
        return scores


@torch.no_grad()
def losses(
    model: SharedLLMForCausalLM, corpus: Corpus, chunks: int, running: int, windows: int
) -> dict[str, list[float]]:
    """Nats per token of the running text of each window, with its own context, another document's, and none.

    Windows come from all sufficiently long documents in turn. `use` is other - own. Raises ValueError if fewer than two
    documents are long enough, or fewer than two windows are requested.
    """
    size = model.config.chunk_size
    length = chunks * size + running
    documents = [i for i in range(corpus.documents) if len(corpus.document(i)) >= length]
    if len(documents) < 2 or windows < 2:
        raise ValueError(f"{corpus.name} has {len(documents)} documents of {length} tokens: evaluation needs two.")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(windows):
        document = corpus.document(documents[i % len(documents)])
        start = int(rng.integers(len(document) - length + 1))
        rows.append(document[start : start + length].astype(np.int64))
    ids = torch.from_numpy(np.stack(rows)).to(model.device)
    text, own = ids[:, -running:], ids[:, :-running].unflatten(1, (chunks, size))
    neighbours = [*range(1, windows), windows - 2]
    result = {}
    for name, context in (("own", own), ("other", own[neighbours]), ("none", None)):
        hidden = model.decode(ContextInputs(input_ids=text, context_ids=context, use_cache=False)).hidden
        head: Any = model.get_output_embeddings()
        result[name] = [float(next_token_loss(hidden[i : i + 1], head.weight, text[i : i + 1])) for i in range(windows)]
    result["use"] = [other - own for other, own in zip(result["other"], result["own"], strict=True)]
    return result
