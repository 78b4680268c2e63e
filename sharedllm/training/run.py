"""One training run from files to adapter: what the command line calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharedllm.adapter import load_adapter, save_adapter
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.training import evaluate
from sharedllm.training.batches import Batch, LanguageModelling
from sharedllm.training.corpus import Corpus, open_corpus
from sharedllm.training.needles import Needles, Shape
from sharedllm.training.plot import plot_log
from sharedllm.training.settings import TrainSettings
from sharedllm.training.sft import FineTuning, read_examples
from sharedllm.training.trainer import Trainer

RECORD = "run.json"
WINDOWS = 8
"""Held-out windows of a file."""


@dataclass(frozen=True)
class Files:
    """What a run reads and where it writes."""

    base: str
    data: list[Path]
    weights: list[float]
    heldout: list[Path]
    init: Path | None
    output: Path


def run(
    settings: TrainSettings,
    files: Files,
    checkpoint_every: int,
    log_every: int,
    max_seconds: float | None,
    shard_bytes: int,
) -> dict[str, Any]:
    """Train, evaluate on the held-out texts, save the adapter; returns the summary that summary.json holds.

    Raises ValueError for settings or data that do not fit, and for an output folder of another run.
    """
    begin = time.monotonic()
    record = _record(settings, files)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"auto": torch.bfloat16 if device == "cuda" else torch.float32}.get(settings.dtype)
    dtype = dtype or getattr(torch, settings.dtype)
    tokenizer = AutoTokenizer.from_pretrained(files.base)
    base: Any = AutoModelForCausalLM.from_pretrained(files.base, dtype=dtype)
    base.to(device)
    if files.init is None:
        model = SharedLLMForCausalLM.from_base(base, **settings.method)
    else:
        model = load_adapter(files.init, base, **settings.method)
    make = batch_maker(settings, files, tokenizer, model.config.chunk_size)
    make(0, 0)  # settings that do not fit the data fail before the folder is taken
    heldout = held_out(settings, files, tokenizer, model.config.chunk_size)
    trainer = Trainer(model, make, settings, files.output, checkpoint_every, log_every, max_seconds)
    (files.output / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    finished = trainer.run()
    if not trainer.accelerator.is_main_process:
        return {}
    plot_log(trainer.log, files.output)
    save_adapter(model, files.output / "adapter", base_name=files.base, shard_bytes=shard_bytes)
    summary = {
        "finished": finished,
        "step": trainer.step,
        "seconds": round(time.monotonic() - begin, 1),
        "tokens_per_s": [e["tokens_per_s"] for e in trainer.log][-1:],
        "loss": trainer.log[-1]["loss"] if trainer.log else {},
        "evaluation": evaluation(model.train(False), tokenizer, heldout, settings) if finished else {},
    }
    (files.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return {"output": str(files.output), **summary}


def _record(settings: TrainSettings, files: Files) -> dict[str, Any]:
    """What decides the run.

    Raises ValueError where files are missing or the folder holds another run (`steps` may be changed).
    """
    for file in (*files.data, *files.heldout):
        if not file.is_file():
            raise ValueError(f"There is no data file {file}.")
    record = {
        "settings": json.loads(settings.model_dump_json()),
        "base": files.base,
        "data": [str(p) for p in files.data],
        "weights": files.weights,
        "init": None if files.init is None else str(files.init),
    }
    path = files.output / RECORD
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored["settings"]["steps"] = record["settings"]["steps"]
        if stored != record:
            raise ValueError(f"{files.output} holds a run with other settings or data: choose another --output.")
    files.output.mkdir(parents=True, exist_ok=True)
    return record


def _corpora(paths: list[Path], tokenizer: Any, output: Path) -> list[Corpus]:
    return [open_corpus(path, tokenizer, output / "tokens") for path in paths]


def batch_maker(settings: TrainSettings, files: Files, tokenizer: Any, chunk_size: int) -> Callable[[int, int], Batch]:
    """(micro step, rank) -> batch, the same whenever it is called."""
    if not files.data:
        raise ValueError("There is nothing to learn from: give --data.")
    if settings.mode == "sft":
        examples = [e for path in files.data for e in read_examples(path, tokenizer)]
        tune = FineTuning(examples, settings.sft_batch, chunk_size, settings.sft_max_chunks, settings.sft_running)
        return lambda step, rank: tune(np.random.default_rng([settings.seed, step, rank]))
    corpora = _corpora(files.data, tokenizer, files.output)
    lm = LanguageModelling(
        corpora,
        files.weights or [1.0] * len(corpora),
        settings.windows,
        settings.chunks,
        settings.running,
        chunk_size,
        settings.gap_share,
        settings.max_chunks,
        settings.drop_context,
        settings.repeat_share,
    )
    reach = max((n.chunks for n in settings.needles), default=0) * chunk_size
    long = [c for c in corpora if np.diff(c.starts).max() > reach]
    if not long:
        raise ValueError(f"No document of the data has {reach} tokens, which the longest needle windows take.")
    running = {stage.running or settings.needle_running for stage in settings.needles}
    needles = {
        room: Needles(tokenizer, long, chunk_size, room, settings.gap_share, settings.max_chunks) for room in running
    }

    def make(step: int, rank: int) -> Batch:
        rng = np.random.default_rng([settings.seed, step, rank])
        place = np.random.default_rng([settings.seed, step, 1 << 20]).random()  # every rank the same kind
        for stage in settings.needles:
            if place < stage.share:
                source = needles[stage.running or settings.needle_running]
                return source(rng, Shape(stage.windows, stage.chunks, stage.needles, stage.questions))
            place -= stage.share
        return lm(rng)

    return make


def held_out(settings: TrainSettings, files: Files, tokenizer: Any, chunk_size: int) -> list[Corpus]:
    """The held-out texts. Raises ValueError for those that `evaluation` could not use, before hours of training."""
    corpora = _corpora(files.heldout, tokenizer, files.output)
    for corpus in corpora:
        length = evaluate.window_length(corpus, settings.chunks[0], chunk_size, settings.running)
        evaluate.held_out_windows(corpus, length, WINDOWS, seed=0)
    if corpora and settings.needles:
        corpora[0].window(max(n.chunks for n in settings.needles) * chunk_size, np.random.default_rng(0))
    return corpora


def evaluation(model: Any, tokenizer: Any, corpora: list[Corpus], settings: TrainSettings) -> dict[str, Any]:
    """Language modelling with controls at the training length, and needles where they were trained."""
    if not corpora:
        return {}
    size, chunks, running = model.config.chunk_size, settings.chunks[0], settings.running
    result: dict[str, Any] = {
        "language modelling": evaluate.language_modelling(model, corpora, chunks, size, running, WINDOWS)
    }
    if settings.needles:
        lengths = sorted({n.chunks for n in settings.needles})
        source = evaluate.needle_source(tokenizer, corpora[:1], size, settings.needle_running)
        result["needles"] = {n: evaluate.needles(model, source, n, 4, 64, max(1, 64 // n)) for n in lengths}
    return result
