"""Weights over several GPUs of one machine, whole layers on each, for models that are larger than one GPU.

Layers follow each other on the GPUs in their order (accelerate's placement), and its hooks carry activations from one
to the next, so one GPU works at a time: this makes room, not speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods.base import Runtime

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GIB = 1 << 30
SHARE = 0.9
"""Of a GPU's free memory that weights may take, at most: contexts need the rest."""


def free_memory(runtime: Runtime) -> dict[int, int]:
    """Free bytes of each GPU that the load uses. Raises UserError where there are fewer GPUs than that."""
    import torch

    check_count(runtime.gpus, torch.cuda.device_count() if runtime.device.startswith("cuda") else 0)
    return {device.index: torch.cuda.mem_get_info(device)[0] for device in runtime.devices()}


def check_count(wanted: int, found: int, owner: str = "The model", place: str = "this run") -> None:
    """Raises UserError where a model needs more GPUs than there are. owner, place: for the message."""
    if wanted > max(found, 1) or (wanted > 1 and not found):
        has = {0: "no GPU", 1: "1 GPU"}.get(found, f"{found} GPUs")
        raise UserError(
            f"{owner} needs {wanted} GPUs of one machine, and {place} has {has}: use a machine with more of them, or "
            "--set gpus=1."
        )


def placement(model: PreTrainedModel, memory: Mapping[int, int]) -> dict[str, int]:
    """The GPU of every module, by name: layers in order, about equally many bytes on each GPU.

    model: on torch's meta device. memory: free bytes of each GPU. Raises UserError where the weights do not fit.
    """
    from accelerate.utils import get_balanced_memory, infer_auto_device_map

    whole = sorted(model._no_split_modules or [])
    room = {gpu: int(free * SHARE) for gpu, free in memory.items()}
    balanced = get_balanced_memory(model, max_memory=dict(room), no_split_module_classes=whole)
    for limits in (balanced, room):
        found: dict[str, int] = infer_auto_device_map(model, max_memory=limits, no_split_module_classes=whole)
        if set(found.values()) <= memory.keys():
            return found
    size = sum(p.nbytes for p in model.parameters())
    raise UserError(
        f"The weights take {size / GIB:.1f} GiB, and {SHARE:.0%} of the free memory of {len(memory)} GPUs is "
        f"{sum(room.values()) / GIB:.1f} GiB, for whole layers: raise gpus, or free memory."
    )


def device_map(build: Callable[[], PreTrainedModel], runtime: Runtime) -> str | dict[str, int]:
    """`device_map` of transformers for a model that `build` makes: one device, or the GPU of every module."""
    import torch

    if runtime.gpus == 1:
        return runtime.device
    memory = free_memory(runtime)
    with torch.device("meta"):
        model = build()
    return placement(model, memory)


def random_spread(build: Callable[[], PreTrainedModel], runtime: Runtime) -> PreTrainedModel:
    """A model with random weights over the GPUs of a runtime.

    All numbers are drawn on the first of them, module by module, so that they depend on the seed alone and not on where
    a layer ends up; they are others than those of a model on one GPU.
    """
    import torch

    memory = free_memory(runtime)
    with torch.device("meta"):
        model = build()
    return materialised(model, placement(model, memory), runtime.devices()[0], runtime.seed)


def materialised(
    model: PreTrainedModel, places: Mapping[str, int | str], first: torch.device, seed: int
) -> PreTrainedModel:
    """A model of torch's meta device with random weights, drawn on `first`, each module on its place."""
    import torch
    from accelerate import dispatch_model

    with torch.random.fork_rng(devices=[first] if first.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        for name, place in places.items():
            module = model.get_submodule(name)
            module.to_empty(device=first)
            module.apply(model._init_weights)
            module.to(place)
    model.tie_weights()
    spread: PreTrainedModel = dispatch_model(
        model, dict(places), skip_keys=model._skip_keys_device_placement, main_device=first
    )
    return spread
