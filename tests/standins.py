"""A method and a task made of arithmetic: they show what the machinery does, at once and without weights."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from evals.errors import UserError
from evals.methods.base import Cost, LongContextModel, Query, Runtime, Session, Stop
from evals.methods.presets import Preset
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import Instance, Output, Task, TaskSettings
from evals.tasks.common.prompt import Audit, Prompt

VOCABULARY = 258
SHAPE = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


class ToySession(Session):
    def __init__(self, model: Toy, ids: list[int]) -> None:
        self._model = model
        self._ids = ids

    def generate(
        self,
        query: Query,
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        ids = [*self._ids, *query.ids]
        self._model.fit(len(ids))
        new = []
        for _ in range(max_new_tokens):
            new.append((sum(ids) * self._model.factor + len(new)) % 256)
            if on_token:
                on_token(new[-1])
        return new

    def score(self, query: Query, target_ids: Sequence[int]) -> torch.Tensor:
        ids = [*self._ids, *query.ids]
        self._model.fit(len(ids) + len(target_ids))
        return -torch.tensor([float((sum(ids) + token) % 7) for token in target_ids])

    @property
    def state_bytes(self) -> int:
        return 8 * len(self._ids)

    def trace(self) -> dict[str, Any]:
        return {"read": len(self._ids)}


class ToySettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: int = 1
    room: int = 1 << 30
    shared: int = 0


@dataclass
class Toy(LongContextModel):
    """room: tokens that fit; more than that is out of memory."""

    settings_model = ToySettings
    factor: int = 1
    room: int = 0
    reads: int = 0

    @classmethod
    def load(cls, preset: Preset, runtime: Runtime) -> Toy:
        settings = ToySettings.model_validate(preset.settings)
        return cls(
            name=preset.name,
            tokenizer=byte_tokenizer(VOCABULARY),
            device=torch.device("cpu"),
            dtype=torch.float32,
            max_context=preset.max_context,
            fairness={"kernel": runtime.attn},
            factor=settings.factor,
            room=settings.room,
        )

    def fit(self, tokens: int) -> None:
        if tokens > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {tokens} tokens do not fit")

    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        self.reads += 1
        self.fit(len(prefix_ids) + len(context_ids))
        return ToySession(self, [*prefix_ids, *context_ids])

    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        return Cost(1.0, 1.0, 0, 8 * context_tokens, 8 * context_tokens)


class SumSettings(TaskSettings):
    """questions: asked of each context. available: tokens that the text offers. trouble: what goes wrong."""

    questions: int = 2
    contexts: int = 3
    available: int = 1 << 30
    trouble: str = ""
    pause: float = 0.0
    shared: int = 0


class Sum(Task):
    name = "sum"
    metric = "exact"
    lengths = (64,)
    settings_model = SumSettings

    def check(self) -> None:
        if self.settings.trouble == "no data":
            raise UserError("The data of sum are missing: put them into the folder that --data-dir names.")

    def instances(self, tokenizer: Any, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        if length > self.settings.available:
            raise UserError(f"The text has {self.settings.available} tokens, not {length}: ask for less.")
        every = self.settings.questions * self.settings.contexts
        for i in range(min(every, limit or every)):
            yield self._instance(i, length, seed)

    def _instance(self, i: int, length: int, seed: int) -> Instance:
        trouble = self.settings.trouble
        read, question = divmod(i, self.settings.questions)
        context = [(seed + read + k) % 256 for k in range(length - 8)]
        prompt = Prompt([256], context, [question, 1], question=(0, 1), audit=Audit(length - 5, bos=1))
        if trouble == "two bos":
            prompt = Prompt([256, 256], context, [1], audit=Audit(length - 5, bos=2))
        if trouble == "malformed" and i == 1:
            raise UserError("rows.jsonl line 2 is not valid JSON: fix the line.")
        if trouble == "long rows" and i in (1, 2):
            return Instance(f"{i:03}", Prompt([], [], []), refused=f"Row {i} is too long: choose a larger --length.")
        target = [question, 2, 3] if question % 2 else None
        name = "000" if trouble == "one id" else f"{i:03}"
        return Instance(name, prompt, target, max_new_tokens=3, reference=read, meta={"question": question})

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        time.sleep(self.settings.pause)
        if self.settings.trouble == "deadly" and len(instance.prompt) > 100:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.settings.trouble == "bug":
            raise ZeroDivisionError("a bug in the task")
        if output.logprobs:
            return {"nll": -sum(output.logprobs) / len(output.logprobs)}
        return {"exact": float(output.ids[0] % 2)}


def write_preset(folder: Path, name: str, **fields: Any) -> Path:
    """A preset file for the method `toy`, or another."""
    import yaml

    preset = {
        "name": name,
        "method": "toy",
        "description": "arithmetic",
        "weights": {"source": "nowhere"},
        "shape": SHAPE,
        **fields,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(preset), encoding="utf-8")
    return path


def write_plugins(folder: Path) -> Path:
    """A folder for sys.path in which an installed package declares the method `toy` and the task `sum`."""
    info = folder / "standins-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: standins\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[sharedllm.methods]\ntoy = standins:Toy\n\n[sharedllm.tasks]\nsum = standins:Sum\n", encoding="utf-8"
    )
    return folder
