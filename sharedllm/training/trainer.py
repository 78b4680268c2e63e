"""The training loop: accelerate for devices and processes, checkpoints that a killed run resumes from exactly."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from sharedllm.errors import UserError
from sharedllm.files import write_text
from sharedllm.training.batches import Batch, stream
from sharedllm.training.checkpoint import FILE as CHECKPOINT
from sharedllm.training.checkpoint import LogEntry, read_checkpoint, write_checkpoint
from sharedllm.training.interruption import Interrupted, Interruption
from sharedllm.training.methods.base import TrainedMethod
from sharedllm.training.optimizer import MasterAdamW, learning_rate
from sharedllm.training.settings import TrainSettings

__all__ = ["CHECKPOINT", "Trainer", "learning_rate"]


class Objective(nn.Module):
    """Batch -> loss, as one module, so that data parallelism sees a forward call."""

    def __init__(self, method: TrainedMethod, compiled: bool) -> None:
        super().__init__()
        self.model, self.method, self.compiled = method.model, method, compiled

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.method.loss(batch, self.compiled)


class Trainer:
    """Runs `settings.steps` optimizer steps over batches that `make(step, rank)` gives.

    output: folder of checkpoint.pt, log.jsonl. A run finds its own checkpoint there and goes on from it; the result
    is that of an uninterrupted run. max_seconds: stop early with a checkpoint. `tokens` counts the text that was read.
    """

    def __init__(
        self,
        method: TrainedMethod,
        make: Callable[[int, int], Batch],
        settings: TrainSettings,
        output: Path,
        checkpoint_every: int,
        log_every: int,
        max_seconds: float | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        # a batch without context leaves the cross-attention out, on one process and not on another
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(gradient_accumulation_steps=1, kwargs_handlers=[unused])
        self.settings, self.make, self.output = settings, make, output
        self.checkpoint_every, self.log_every, self.max_seconds = checkpoint_every, log_every, max_seconds
        self.method = method
        method.model.to(self.accelerator.device).train()
        if settings.gradient_checkpointing:
            method.checkpoint_gradients()
        if settings.compile:  # a graph for each kind of batch, with and without gradients
            torch._dynamo.config.recompile_limit = 64
            method.compile()
        self.optimizer = MasterAdamW(method.trainable(settings.trainable), settings)
        self.objective = self.accelerator.prepare(Objective(method, settings.compile))
        self.interruption = interruption or Interruption()
        self.step = self.tokens = 0
        self.log: list[LogEntry] = []
        output.mkdir(parents=True, exist_ok=True)
        self._load()

    def run(self) -> bool:
        """Train to the end; False if `max_seconds` came first.

        Raises Interrupted after a signal, with a checkpoint of the last whole step, and UserError where the loss or
        the weights are no longer finite.
        """
        accumulate, rank = self.settings.accumulate, self.accelerator.process_index
        batches = stream(lambda i: self.make(i, rank), self.step * accumulate, self.settings.steps * accumulate)
        with self.interruption.after_the_step(), closing(batches):
            return self._run(batches)

    def _run(self, batches: Iterator[Batch]) -> bool:
        begin = last = time.monotonic()
        first_step, tokens = self.step, 0
        losses: dict[str, list[torch.Tensor]] = {}
        accumulate = self.settings.accumulate
        while self.step < self.settings.steps:
            read = 0
            for _ in range(accumulate):
                batch = next(batches).to(self.accelerator.device)
                batch.progress = self.step / self.settings.steps
                torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # split noise resumes exactly
                loss = self.objective(batch) / accumulate
                self.accelerator.backward(loss)
                losses.setdefault(batch.kind, []).append(loss.detach() * accumulate)
                read += self.method.tokens(batch) * self.accelerator.num_processes
            norm = self.optimizer.step(learning_rate(self.step, self.settings), self.settings.clip)
            self.step += 1
            tokens, self.tokens = tokens + read, self.tokens + read
            if self.step % self.log_every == 0 or self.step == self.settings.steps:
                size = float(norm)  # waits for the device, so that the time is that of finished steps
                now = time.monotonic()
                self._report(losses, size, tokens / (now - last), now - begin, first_step)
                last, tokens, losses = now, 0, {}
            if self.step % self.checkpoint_every == 0:
                self.save()
            over = self.max_seconds is not None and time.monotonic() - begin > self.max_seconds
            number, over = self._agreed(self.interruption.number or 0, over)
            if number:
                self.save()
                raise Interrupted(
                    number, f"Interrupted after step {self.step}, which is saved: the same command goes on from there."
                )
            if over:
                break
        self.save()
        return self.step >= self.settings.steps

    def _agreed(self, number: int, over: bool) -> tuple[int, bool]:
        """The signal and the end of time that any process has seen: one that stopped alone would leave the others
        waiting for its gradients."""
        if self.accelerator.num_processes == 1:
            return number, over
        seen = torch.tensor([[number, int(over)]], device=self.accelerator.device)
        most: list[int] = self.accelerator.gather(seen).amax(0).tolist()
        return most[0], bool(most[1])

    def _report(
        self, losses: dict[str, list[torch.Tensor]], norm: float, speed: float, elapsed: float, first_step: int
    ) -> None:
        means = {kind: round(float(torch.stack(values).mean()), 4) for kind, values in sorted(losses.items())}
        if not all(math.isfinite(v) for v in means.values()):
            raise UserError(f"The loss is not finite at step {self.step}: {means}. Lower the learning rate.")
        entry: LogEntry = {"step": self.step, "loss": means, "grad_norm": round(norm, 4), "tokens_per_s": round(speed)}
        self.log.append(entry)
        if not self.accelerator.is_main_process:
            return
        left = elapsed / (self.step - first_step) * (self.settings.steps - self.step)
        text = "  ".join(f"{kind} {value:.4f}" for kind, value in means.items())
        print(
            f"step {self.step}/{self.settings.steps}  loss {text}  {speed / 1e6:.2f}M tokens/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def save(self) -> None:
        """Write the checkpoint and the log, each in one move. Raises UserError for weights that are not finite."""
        masters = self.optimizer.masters
        if not all(bool(p.isfinite().all()) for group in masters.values() for p in group):
            raise UserError(f"The weights are not finite after step {self.step}: lower the learning rate.")
        if not self.accelerator.is_main_process:
            return
        state = self.optimizer.optimizer.state_dict()
        write_checkpoint(
            self.output,
            {"step": self.step, "tokens": self.tokens, "log": self.log, "masters": masters, "optimizer": state},
        )
        write_text(self.output / "log.jsonl", "".join(json.dumps(e) + "\n" for e in self.log))

    def _load(self) -> None:
        stored = read_checkpoint(self.output, self.accelerator.device)
        if stored is None:
            return
        try:
            self.optimizer.load(stored["masters"], stored["optimizer"])
        except UserError as error:
            raise UserError(
                f"{self.output / CHECKPOINT} does not fit, {error}: copy it back, or delete it to begin anew."
            ) from error
        self.step, self.log = stored["step"], stored["log"]
        self.tokens = stored.get("tokens", 0)
