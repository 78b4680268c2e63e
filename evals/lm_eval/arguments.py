"""`--model_args`, checked before weights are loaded."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import torch

from evals import registry
from evals.errors import UserError, unknown
from evals.methods import presets
from evals.methods.base import Runtime
from evals.run.identity import ModelChoice
from evals.run.spec import Attention, Device, DType, resolve_runtime, runtime_from

log = logging.getLogger(__name__)

Choice = TypeVar("Choice", bound=StrEnum)

AUTO_BATCH = 64
"""Where `batch_size=auto` starts; it is halved whenever memory runs out."""


@dataclass(frozen=True)
class Arguments:
    """What the user asked of a model, in the types that the code needs. `AnyPreset` documents the fields."""

    preset: presets.Preset
    runtime: Runtime
    batch_size: int
    shrink_batches: bool
    query_tokens: int
    rolling_context: int
    max_gen_toks: int
    max_length: int | None
    prefix_token_id: int | None


def check(
    method: str | None,
    /,
    *,
    preset: str | int | float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "auto",
    batch_size: int | str = 1,
    max_batch_size: int | None = None,
    query_tokens: int = 512,
    max_length: int | None = None,
    rolling_context: int = 1,
    max_gen_toks: int = 256,
    prefix_token_id: int | None = None,
    random_weights: object = False,
    checkpoint: str | int | float | None = None,
    offline: object = False,
    seed: int = 0,
    **settings: Any,
) -> Arguments:
    """The arguments of a model whose preset must have `method` (None: any); a folder or hub repository gets it.

    Raises UserError for what does not fit.
    """
    if "method" in settings:
        raise UserError("The name behind --model is the method: name it there, and leave method=... out.")
    chosen = _preset(None if preset is None else str(preset), method).override(settings)
    auto = str(batch_size).startswith("auto")
    most = AUTO_BATCH if max_batch_size is None else whole("max_batch_size", max_batch_size, 1)
    longest = None if max_length is None else whole("max_length", max_length, 1)
    rolling = whole("rolling_context", rolling_context, 1)
    if longest is not None and rolling > longest:
        raise UserError(f"rolling_context={rolling} is more than max_length={longest} holds: choose a smaller one.")
    query, answer = whole("query_tokens", query_tokens, 0), whole("max_gen_toks", max_gen_toks, 1)
    runtime = runtime_from(
        on_device(device, _choice(DType, "dtype", dtype), _choice(Attention, "attn", attn)),
        random_weights=_truth("random_weights", random_weights),
        offline=_truth("offline", offline),
        checkpoint=None if checkpoint is None else str(checkpoint),
        seed=whole("seed", seed, 0),
    )
    runtime = ModelChoice.of(chosen, registry.method(chosen.method), runtime).runtime
    if runtime.gpus > 1 and runtime.device not in ("cuda", "cuda:0"):
        raise UserError(f"gpus={runtime.gpus} and device={runtime.device}: give device=cuda, which is all GPUs.")
    return Arguments(
        preset=chosen,
        runtime=runtime,
        batch_size=most if auto else whole("batch_size", batch_size, 1),
        shrink_batches=auto,
        query_tokens=query,
        rolling_context=rolling,
        max_gen_toks=answer,
        max_length=longest,
        prefix_token_id=None if prefix_token_id is None else whole("prefix_token_id", prefix_token_id, 0),
    )


def check_texts(chat_template_args: object, think_end_token: object) -> None:
    """Raises UserError for arguments of other types, which would end a run only when its first answer is there."""
    if not isinstance(chat_template_args, dict | None):
        raise UserError(f'chat_template_args={chat_template_args} is no object: write it as JSON, {{"name": value}}.')
    if not isinstance(think_end_token, str | None):
        raise UserError(f"think_end_token={think_end_token} is no text: give what the token reads, not its id.")


def _preset(name: str | None, method: str | None) -> presets.Preset:
    known = [n for n in presets.names() if method in (None, presets.load_preset(n).method)]
    if name is None:
        raise UserError(f"Name a preset: --model_args preset=NAME, NAME one of {', '.join(known) or 'yours'}.")
    preset = presets.load_preset(name) if method is None else presets.load_preset(name, method)
    if method not in (None, preset.method):
        raise unknown(f"preset of the method {method}", name, known)
    return preset


def on_device(device: str, dtype: DType, attn: Attention) -> dict[str, Any]:
    """`resolve_runtime` for a device as lm-eval names it: also `cuda:N`, which becomes torch's current device.

    Without a GPU, `cuda` and `cuda:0` are the CPU, since lm-eval asks for `cuda:0` where the user names no device.
    Raises UserError for another device that this machine does not have.
    """
    if device in ("cuda", "cuda:0") and not torch.cuda.is_available():
        log.warning("There is no CUDA GPU for device=%s (lm-eval's default is cuda:0): running on the CPU.", device)
        device = Device.cpu
    if device in list(Device):
        return resolve_runtime(Device(device), dtype, attn)
    numbered = re.fullmatch(r"cuda:([0-9]{1,9})", device)
    if not numbered:
        raise UserError(f"device={device} is unknown: choose one of {', '.join(Device)}, cuda:N.")
    index, count = int(numbered[1]), torch.cuda.device_count()
    if index >= count:
        raise UserError(f"device={device}: torch finds {count} CUDA GPUs, counted from 0; choose one of them or cpu.")
    torch.cuda.set_device(index)  # streams, graphs and compiled kernels follow the current device
    return resolve_runtime(Device.cuda, dtype, attn) | {"device": f"cuda:{index}"}


def whole(argument: str, value: object, least: int) -> int:
    """The value, which lm-eval may hand over as a float or text, as an integer. Raises UserError for any other."""
    number = re.fullmatch(r"([0-9]{1,19})(\.0)?", str(value))
    if not number or not least <= int(number[1]) < 1 << 63:
        raise UserError(f"{argument}={value} is not a whole number from {least} to 2**63 - 1: give one that is.")
    return int(number[1])


def _truth(argument: str, value: object) -> bool:
    """The value as true or false, also written 1 or 0. Raises UserError for any other."""
    if value not in (True, False):
        raise UserError(f"{argument}={value} is neither true nor false: give one of them.")
    return bool(value)


def _choice(options: type[Choice], argument: str, value: str) -> Choice:
    """The member of that name. Raises UserError for another one."""
    if value not in list(options):
        raise UserError(f"{argument}={value} is unknown: choose one of {', '.join(options)}.")
    return options(value)
