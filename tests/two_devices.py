"""Two devices that a machine without GPUs does not have: tensors that say where they are, and refuse to be mixed.

A `Placed` tensor computes on the CPU and says that it is on `meta:0` or `meta:1`. As on GPUs, an operation on tensors
of two devices raises, unless it copies from one to the other or one of them is a number on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from transformers import PreTrainedModel

from sharedllm.nn.layers import decoder_of

DEVICES = (torch.device("meta", 0), torch.device("meta", 1))
COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
MAY_MIX = {
    *COPIES,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index.Tensor,
}
"""Operations that take tensors of the CPU among those of one GPU."""


class Placed(torch.Tensor):
    """A tensor of one of the two devices. inner: its values, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> Placed:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )

    def __init__(self, inner: torch.Tensor, device: torch.device) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class Places(TorchDispatchMode):
    """Within it, tensors that are made on one of the two devices, or sent there, have values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Values between Python and the two devices: `torch.tensor` and `tolist` do not ask a dispatch mode."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.tolist and isinstance(args[0], Placed):
            return args[0].inner.tolist()
        return function(*args, **kwargs)


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation, computed on the CPU. Raises RuntimeError where its tensors are on different devices."""
    leaves, form = tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    places = {x.device for x in tensors if isinstance(x, Placed)}
    strangers = [x for x in tensors if not isinstance(x, Placed) and x.ndim]
    if (len(places) > 1 and function not in COPIES) or (places and strangers and function not in MAY_MIX):
        raise RuntimeError(f"{function}: tensors of {sorted(map(str, {x.device for x in tensors}))}")
    lead = next((x for x in tensors if isinstance(x, Placed) or x.ndim), None)
    target = lead.device if isinstance(lead, Placed) else None
    asked = [x for x in leaves if isinstance(x, torch.device)]
    inner_args, inner_kwargs = tree_unflatten([_inner(x) for x in leaves], form)
    found = function(*inner_args, **inner_kwargs)
    if lead is not None and asked and lead.device != asked[0]:
        found = found.clone()  # as a copy between devices is, even where both are the CPU in truth
    target = asked[0] if asked else target
    if function._schema.is_mutable:
        return args[0]
    if target is None or target.type != "meta":
        return found
    return tree_map(lambda x: Placed(x, target) if isinstance(x, torch.Tensor) else x, found)


def _inner(x: Any) -> Any:
    """What a leaf of an operation's arguments is on the CPU."""
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.inner if isinstance(x, Placed) else x


def spread(model: PreTrainedModel, first: int) -> PreTrainedModel:
    """A model of the CPU over both devices, with accelerate's hooks. first: the first layer on the second device."""
    places: dict[str, torch.device] = {}
    decoder = decoder_of(model)
    names = {id(module): name for name, module in model.named_modules()}
    for module in (decoder.embed_tokens, decoder.rotary_emb, *decoder.layers[:first]):
        places[names[id(module)]] = DEVICES[0]
    for module in (*decoder.layers[first:], decoder.norm, model.get_output_embeddings()):
        places[names[id(module)]] = DEVICES[1]
    for name, device in places.items():
        for module in model.get_submodule(name).modules():
            for key, value in [*module._parameters.items(), *module._buffers.items()]:
                if value is None:
                    continue
                placed: torch.Tensor = Placed(value.detach(), device)
                if key in module._parameters:
                    module._parameters[key] = torch.nn.Parameter(placed, requires_grad=False)
                else:
                    module._buffers[key] = placed
    attach_align_device_hook_on_blocks(
        model,
        execution_device={**places, "": DEVICES[0]},
        offload=dict.fromkeys(places, False),
        skip_keys=model._skip_keys_device_placement,
    )
    model.hf_device_map = {name: device.index for name, device in places.items()}
    return model


@contextmanager
def two_devices() -> Iterator[None]:
    """A block in which the two devices exist."""
    with torch.inference_mode(), Places(), Literals():
        yield
