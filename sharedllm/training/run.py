"""One training run from files to adapter: what the command line calls."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.files import sha256_of, write_text
from sharedllm.model_card import CARD, rows_of
from sharedllm.trained_adapter import check_method
from sharedllm.training import evaluate
from sharedllm.training.checkpoint import FILE as CHECKPOINT
from sharedllm.training.corpus import Corpus, open_corpus
from sharedllm.training.files import TOKENS, Files, check_files, only_writer
from sharedllm.training.interruption import Interruption
from sharedllm.training.loading import load_tokenizer, load_whole_base, weights_hash
from sharedllm.training.methods.base import TrainedMethod
from sharedllm.training.methods.sharedllm import SharedLLM
from sharedllm.training.mixture import batch_maker
from sharedllm.training.plot import plot_log
from sharedllm.training.record import (
    RunRecord,
    check_same_run,
    init_hashes,
    printable,
    read_record,
    write_record,
)
from sharedllm.training.settings import TrainSettings
from sharedllm.training.trainer import Trainer

WINDOWS = 8
"""Held-out windows per file."""


@dataclass(frozen=True)
class Pace:
    """When a run writes and when it stops. shard_bytes: largest file of the adapter."""

    checkpoint_every: int = 500
    log_every: int = 20
    max_seconds: float | None = None
    shard_bytes: int = 2**30


def run(
    settings: TrainSettings,
    files: Files,
    pace: Pace,
    interruption: Interruption,
    trained: type[TrainedMethod] = SharedLLM,
) -> dict[str, object]:
    """Train, evaluate on the held-out texts, save the adapter; returns the summary that summary.json holds, and nothing
    in the other ones of several processes.

    Raises UserError for settings or data that do not fit, for an output folder of another run or another process,
    and Interrupted after a signal.
    """
    trained.check(settings.method)
    if settings.mode not in trained.modes:
        raise UserError(f"The method {trained.name} is not trained in the mode {settings.mode}: set mode=lm.")
    check_files(files, settings)
    if files.init is not None:
        check_method(trained.name, files.init)
    if pace.max_seconds is not None and not 0 <= pace.max_seconds < math.inf:
        raise UserError(f"--max-seconds is {pace.max_seconds}: give a number of seconds from 0 on.")
    with only_writer(files.output):
        return _run(settings, files, pace, interruption, trained)


def _run(
    settings: TrainSettings, files: Files, pace: Pace, interruption: Interruption, trained: type[TrainedMethod]
) -> dict[str, object]:
    begin = time.monotonic()
    stored = read_record(files.output)
    if stored is None and (files.output / CHECKPOINT).exists():
        raise UserError(f"{files.output} has a checkpoint without its run.json: choose another --output.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    auto = "bfloat16" if device == "cuda" else "float32"
    dtype = torch.bfloat16 if (auto if settings.dtype == "auto" else settings.dtype) == "bfloat16" else torch.float32
    tokenizer = load_tokenizer(files.base)
    base = load_whole_base(files.base, dtype, tokenizer)
    record = _record(trained.name, settings, files, weights_hash(base))
    if stored is not None:
        check_same_run(files.output, stored, record)
    base.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides the signature
    torch.manual_seed(settings.seed)  # new parameters that start at random are the same in every run and process
    method = trained.build(base, settings.method, files.init)
    _check_windows(settings, method)
    make = batch_maker(settings, files, tokenizer, method.chunk_size)
    make(0, 0)  # settings that do not fit the data fail before the folder is taken
    heldout = held_out(settings, files, tokenizer, method.chunk_size)
    trainer = Trainer(
        method, make, settings, files.output, pace.checkpoint_every, pace.log_every, pace.max_seconds, interruption
    )
    if trainer.accelerator.is_main_process:
        write_record(files.output, record)
    finished = trainer.run()
    trainer.accelerator.end_training()  # NCCL warns of a process that ends without
    if not trainer.accelerator.is_main_process:
        return {}
    adapter = files.output / "adapter"
    method.save(adapter, printable(files.base), pace.shard_bytes)
    plot_log(trainer.log, files.output)
    summary: dict[str, object] = {
        "finished": finished,
        "step": trainer.step,
        "tokens": trainer.tokens,
        "seconds": round(time.monotonic() - begin, 1),
        "tokens_per_s": [e["tokens_per_s"] for e in trainer.log][-1:],
        "loss": trainer.log[-1]["loss"] if trainer.log else {},
        "evaluation": evaluation(method, tokenizer, heldout, settings) if finished else {},
    }
    write_text(files.output / "summary.json", json.dumps(summary, indent=1) + "\n")
    data = "\n".join(f"- {Path(name).name}" for name in record.data)
    card = method.card(adapter, f"ORG/{printable(files.output.name)}", data, list(rows_of(summary["evaluation"])))
    write_text(adapter / CARD, card)
    return {"output": str(files.output), **summary}


def _check_windows(settings: TrainSettings, method: TrainedMethod) -> None:
    """Raise UserError for windows that the method cannot learn from."""
    for chunks in settings.chunks:
        method.check_window("chunks", chunks, settings.running)
    for stage in settings.needles:
        method.check_window("needles", stage.chunks, settings.room(stage))


def _record(method: str, settings: TrainSettings, files: Files, base_weights: str) -> RunRecord:
    return RunRecord(
        method=method,
        settings=json.loads(settings.model_dump_json()),
        base=printable(files.base),
        base_weights=base_weights,
        data=[printable(p) for p in files.data],
        hashes=[sha256_of(p) for p in files.data],
        weights=files.weights,
        init=init_hashes(files.init),
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )


def held_out(
    settings: TrainSettings, files: Files, tokenizer: PreTrainedTokenizerBase, chunk_size: int
) -> list[Corpus]:
    """The held-out texts. Raises UserError for those that `evaluation` could not use, before hours of training."""
    corpora = [open_corpus(path, tokenizer, files.output / TOKENS) for path in files.heldout]
    names = [*(corpus.name for corpus in corpora), evaluate.MEAN]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"Two of the held-out results would be named '{twice[0]}', after their files ('{evaluate.MEAN}' is that of "
            "all): rename a file of --heldout."
        )
    for corpus in corpora:
        length = evaluate.window_length(corpus, settings.chunks[0], chunk_size, settings.running)
        evaluate.held_out_windows(corpus, length, WINDOWS)
    if corpora and settings.needles:
        corpora[0].places(max(settings.needle_running, *(n.chunks * chunk_size for n in settings.needles)))
        source = evaluate.needle_source(tokenizer, corpora[:1], chunk_size, settings.needle_running)
        for asked in _needles_asked(settings).values():
            for _ in evaluate.needle_batches(source, *asked):
                pass
    return corpora


def evaluation(
    method: TrainedMethod, tokenizer: PreTrainedTokenizerBase, corpora: list[Corpus], settings: TrainSettings
) -> dict[str, object]:
    """Language modelling with controls at the training length, and needles where they were trained."""
    if not corpora:
        return {}
    model, read = method.model.train(False), method.hidden
    size, chunks, running = method.chunk_size, settings.chunks[0], settings.running
    result: dict[str, object] = {
        "language modelling": evaluate.language_modelling(model, corpora, chunks, size, running, WINDOWS, read=read)
    }
    if settings.needles:
        source = evaluate.needle_source(tokenizer, corpora[:1], size, settings.needle_running)
        asked = _needles_asked(settings)
        result["needles"] = {n: evaluate.needles(model, source, *asked[n], read=read) for n in asked}
    return result


def _needles_asked(settings: TrainSettings) -> dict[int, tuple[int, int, int, int]]:
    """By the chunks of a window: chunks, needles, windows and windows at a time, as `evaluate.needles` takes them."""
    return {n: (n, 4, 64, max(1, 64 // n)) for n in sorted({stage.chunks for stage in settings.needles})}
