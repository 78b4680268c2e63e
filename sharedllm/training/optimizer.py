"""The optimizer of training: AdamW over float32 masters, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from sharedllm.errors import UserError
from sharedllm.training.settings import TrainSettings


class MasterAdamW:
    """AdamW on float32 copies of bfloat16 parameters: small updates would be rounded away otherwise."""

    def __init__(self, groups: Mapping[str, list[nn.Parameter]], settings: TrainSettings) -> None:
        self.parameters = [p for group in groups.values() for p in group]
        self.masters: dict[str, list[torch.Tensor]] = {
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

    def load(self, masters: Mapping[str, list[torch.Tensor]], state: dict[str, object]) -> None:
        """Continue from stored masters and AdamW's state. Raises UserError, unchanged, where they do not fit."""
        for name, group in self.masters.items():
            shapes = [list(t.shape) for t in masters.get(name, [])]
            if shapes != [list(t.shape) for t in group]:
                raise UserError(f"its weights of the group {name} have other shapes than the model")
            if not all(bool(t.isfinite().all()) for t in masters[name]):
                raise UserError(f"its weights of the group {name} are not finite")
        self._check_state(state)
        with torch.no_grad():
            for name, group in self.masters.items():
                for master, stored in zip(group, masters[name], strict=True):
                    master.copy_(stored)
            everything = [p for group in self.masters.values() for p in group]
            for parameter, master in zip(self.parameters, everything, strict=True):
                parameter.copy_(master)
        self.optimizer.load_state_dict(state)

    def _check_state(self, state: dict[str, object]) -> None:
        """Raise UserError for a state dict that is not AdamW's of these parameters."""
        own = self.optimizer.state_dict()
        groups, moments = state.get("param_groups"), state.get("state")
        names = [(sorted(g), g["params"]) for g in own["param_groups"]]
        found = groups if isinstance(groups, list) and all(isinstance(g, dict) for g in groups) else []
        if [(sorted(g), g.get("params")) for g in found] != names:
            raise UserError("its optimizer has other groups of parameters than the settings")
        if not isinstance(moments, dict) or not set(moments) <= set(range(len(self.parameters))):
            raise UserError("its optimizer has a state of other parameters")
        for index, moment in moments.items():
            if not isinstance(moment, dict) or set(moment) != {"step", "exp_avg", "exp_avg_sq"}:
                raise UserError("its optimizer has a state that is not AdamW's")
            for name, value in moment.items():
                shape = torch.Size([]) if name == "step" else self.parameters[index].shape
                if not isinstance(value, torch.Tensor) or value.shape != shape or not bool(value.isfinite().all()):
                    raise UserError(f"its optimizer has values of {name} that do not fit")


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then cosine down to `final_lr`, as a factor."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
