"""The training loop: accelerate for devices and processes, checkpoints that a killed run resumes from exactly."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.nn.layers import output_head
from sharedllm.training.batches import Batch, stream
from sharedllm.training.loss import next_token_loss
from sharedllm.training.settings import TrainSettings

CHECKPOINT = "checkpoint.pt"


class Objective(nn.Module):
    """Batch -> loss, as one module, so that data parallelism sees a forward call."""

    def __init__(self, model: SharedLLMForCausalLM, compiled: bool) -> None:
        super().__init__()
        self.model, self.compiled = model, compiled

    def forward(self, batch: Batch) -> torch.Tensor:
        hidden = self.model.decode(batch).hidden
        head = output_head(self.model).weight
        return next_token_loss(hidden, head, batch.labels, batch.weights, batch.rows, self.compiled)


def select_trainable(model: SharedLLMForCausalLM, groups: list[str]) -> dict[str, list[nn.Parameter]]:
    """Freeze everything but the named groups; returns the parameters that get `lr` and those that get `lr_base`.

    Groups: `cross_attention`; `top`, the upper model's layers above the injection (paper section 3.3); `lower`, the
    lower model's own copy. Raises ValueError for another name, or `lower` without config.own_lower.
    """
    lower = model.config.lower_layers
    prefixes = {
        "cross_attention": ("cross_attention.",),
        "top": tuple(f"base.model.layers.{i}." for i in range(lower, model.config.base_config.num_hidden_layers)),
        "lower": ("lower.",),
    }
    for group in groups:
        if group not in prefixes:
            raise ValueError(f"'{group}' cannot be trained: choose from {', '.join(prefixes)}.")
        if group == "lower" and not model.config.own_lower:
            raise ValueError("The lower model shares the base's layers: set own_lower to train a copy of them.")
    chosen = tuple(p for group in groups for p in prefixes[group])
    found: dict[str, list[nn.Parameter]] = {"lr": [], "lr_base": []}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(chosen))
        if parameter.requires_grad:
            found["lr" if name.startswith("cross_attention.") else "lr_base"].append(parameter)
    return found


class MasterAdamW:
    """AdamW on float32 copies of bfloat16 parameters: small updates would be rounded away otherwise."""

    def __init__(self, groups: dict[str, list[nn.Parameter]], settings: TrainSettings) -> None:
        self.parameters = [p for group in groups.values() for p in group]
        self.masters = {
            name: [p.detach().clone().float().requires_grad_() for p in group] for name, group in groups.items()
        }
        self.optimizer = torch.optim.AdamW(
            [
                {"params": group, "lr": getattr(settings, name), "base_lr": getattr(settings, name)}
                for name, group in self.masters.items()
                if group
            ],
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self.parameters[0].device.type == "cuda",
        )

    def step(self, factor: float, clip: float) -> torch.Tensor:
        """One update at `factor` times the learning rates; returns the gradient norm before clipping, on the device."""
        masters = [p for group in self.masters.values() for p in group]
        for parameter, master in zip(self.parameters, masters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(masters, clip)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(self.parameters, masters, strict=True):
                parameter.copy_(master)
        return norm

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"masters": self.masters, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        with torch.no_grad():
            for name, group in self.masters.items():
                for master, stored in zip(group, state["masters"][name], strict=True):
                    master.copy_(stored)
            masters = [p for group in self.masters.values() for p in group]
            for parameter, master in zip(self.parameters, masters, strict=True):
                parameter.copy_(master)
        self.optimizer.load_state_dict(state["optimizer"])


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then cosine down to `final_lr`, as a factor."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Trainer:
    """Runs `settings.steps` optimizer steps over batches that `make(step, rank)` gives.

    output: folder of checkpoint.pt, log.jsonl. A run finds its own checkpoint there and goes on from it; the result
    is that of an uninterrupted run. max_seconds: stop early with a checkpoint.
    """

    def __init__(
        self,
        model: SharedLLMForCausalLM,
        make: Callable[[int, int], Batch],
        settings: TrainSettings,
        output: Path,
        checkpoint_every: int = 500,
        log_every: int = 20,
        max_seconds: float | None = None,
    ) -> None:
        self.accelerator = Accelerator(gradient_accumulation_steps=1)
        self.settings, self.make, self.output = settings, make, output
        self.checkpoint_every, self.log_every, self.max_seconds = checkpoint_every, log_every, max_seconds
        self.model = model.to(self.accelerator.device).train()
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        if settings.compile:  # a graph for each kind of batch, with and without gradients
            torch._dynamo.config.recompile_limit = 64
            model.compile_layers()
        self.optimizer = MasterAdamW(select_trainable(model, settings.trainable), settings)
        self.objective = self.accelerator.prepare(Objective(model, settings.compile))
        self.step = 0
        self.log: list[dict[str, Any]] = []
        output.mkdir(parents=True, exist_ok=True)
        if (output / CHECKPOINT).exists():
            self._load()

    def run(self) -> bool:
        """Train to the end; False if `max_seconds` came first."""
        begin = last = time.monotonic()
        first_step, tokens, losses = self.step, 0, {}  # type: ignore[var-annotated]
        accumulate, rank = self.settings.accumulate, self.accelerator.process_index
        batches = stream(lambda i: self.make(i, rank), self.step * accumulate, self.settings.steps * accumulate)
        while self.step < self.settings.steps:
            for _ in range(accumulate):
                batch = next(batches).to(self.accelerator.device)
                torch.manual_seed(self.settings.seed * 1_000_003 + self.step)  # split noise resumes exactly
                loss = self.objective(batch) / accumulate
                self.accelerator.backward(loss)
                losses.setdefault(batch.kind, []).append(loss.detach() * accumulate)
                tokens += batch.tokens * self.accelerator.num_processes
            norm = self.optimizer.step(learning_rate(self.step, self.settings), self.settings.clip)
            self.step += 1
            if self.step % self.log_every == 0 or self.step == self.settings.steps:
                size = float(norm)  # waits for the device, so that the time is that of finished steps
                now = time.monotonic()
                self._report(losses, size, tokens / (now - last), now - begin, first_step)
                last, tokens, losses = now, 0, {}
            if self.step % self.checkpoint_every == 0:
                self.save()
            if self.max_seconds is not None and time.monotonic() - begin > self.max_seconds:
                break
        self.save()
        return self.step >= self.settings.steps

    def _report(
        self, losses: dict[str, list[torch.Tensor]], norm: float, speed: float, elapsed: float, first_step: int
    ) -> None:
        means = {kind: round(float(torch.stack(values).mean()), 4) for kind, values in sorted(losses.items())}
        if not all(math.isfinite(v) for v in means.values()):
            raise FloatingPointError(f"The loss is not finite at step {self.step}: {means}. Lower the learning rate.")
        entry = {"step": self.step, "loss": means, "grad_norm": round(norm, 4), "tokens_per_s": round(speed)}
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
        """Write the checkpoint and the log, each in one move."""
        if not self.accelerator.is_main_process:
            return
        partial = self.output / f"{CHECKPOINT}.partial"
        torch.save({"step": self.step, "log": self.log, **self.optimizer.state()}, partial)
        os.replace(partial, self.output / CHECKPOINT)
        (self.output / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in self.log), encoding="utf-8")

    def _load(self) -> None:
        state = torch.load(self.output / CHECKPOINT, map_location=self.accelerator.device, weights_only=True)
        self.step, self.log = state["step"], state["log"]
        self.optimizer.load(state)
