"""Which base an adapter belongs to: the very weights it was trained on, or a copy of them at another precision."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from sharedllm.errors import UserError

log = logging.getLogger(__name__)

SAMPLES = 8
"""Values of each parameter that a record keeps."""
VECTOR_TOLERANCE, MATRIX_TOLERANCE = 0.01, 0.2
"""Largest relative difference (root mean square over the sampled values) between two copies of one base.

Quantised files keep vectors (norms, biases) whole, and 4-bit formats move matrices by 6 to 10 %. Bases that were
trained apart differ by more than 100 %.
"""


def fingerprint(base: nn.Module, without: Collection[str] = ()) -> str:
    """Hash of a base model's identity: names, shapes and the first values of all parameters, rounded to bfloat16.

    The rounding makes it the same for float32 and bfloat16 copies of one checkpoint. without: parameters to leave
    out, because the adapter has trained them and brings its own.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(base.named_parameters()):
        if name in without:
            continue
        head = parameter.detach().flatten()[:256].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + head.numpy().tobytes())
    return digest.hexdigest()


def sampled_values(base: nn.Module, without: Collection[str] = ()) -> dict[str, list[float]]:
    """By parameter, SAMPLES values at equal distances, rounded to bfloat16."""
    found = {}
    for name, parameter in sorted(base.named_parameters()):
        if name not in without:
            flat = parameter.detach().flatten()
            found[name] = flat[_places(len(flat)).to(flat.device)].to("cpu", torch.bfloat16).tolist()
    return found


def _places(count: int) -> torch.Tensor:
    """Of `count` values in a row, which ones a record keeps."""
    return torch.linspace(0, count - 1, SAMPLES, dtype=torch.float64).long()


def _stored_values(files: Sequence[Path], names: Collection[str]) -> dict[str, torch.Tensor]:
    """`sampled_values` of those of the named parameters that safetensors files hold as floating-point numbers, shaped
    (SAMPLES, 1, ...) with the parameter's number of dimensions. Nothing else of the files is read but their headers."""
    found = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in set(names) & set(stored.keys()):
                part = stored.get_slice(name)
                if part.get_dtype() in ("F32", "F16", "BF16") and part.get_shape():
                    found[name] = _sampled(part)
    return found


def _sampled(part: Any) -> torch.Tensor:
    """part: what `get_slice` of safetensors gives, which has no type."""
    shape = torch.Size(part.get_shape())
    rows = zip(*(i.tolist() for i in torch.unravel_index(_places(shape.numel()), shape)), strict=True)
    return torch.cat([part[tuple(slice(i, i + 1) for i in row)] for row in rows]).to(torch.bfloat16)


def differences(base: nn.Module, values: Mapping[str, Sequence[float]]) -> tuple[float, float] | None:
    """Relative difference of vectors and of matrices from `sampled_values`; None where the parameters are others."""
    here = sampled_values(base, {name for name, _ in base.named_parameters()} - set(values))
    return _apart(here, values, {name for name, parameter in base.named_parameters() if parameter.ndim > 1})


def _apart(
    here: Mapping[str, Sequence[float]], values: Mapping[str, Sequence[float]], matrices: Collection[str]
) -> tuple[float, float] | None:
    """`differences`. matrices: names of the parameters that are not vectors."""
    if not values or here.keys() != values.keys() or any(len(values[n]) != SAMPLES for n in values):
        return None
    vectors = values.keys() - set(matrices)
    return _relative(here, values, vectors), _relative(here, values, values.keys() - vectors)


def _relative(
    here: Mapping[str, Sequence[float]], there: Mapping[str, Sequence[float]], names: Collection[str]
) -> float:
    if not names:
        return 0.0
    a, b = (torch.tensor([source[name] for name in sorted(names)]) for source in (here, there))
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def check_base(
    base: nn.Module,
    adapter: object,
    name: str,
    hashed: str,
    values: Mapping[str, Sequence[float]],
    own: Collection[str],
) -> None:
    """Refuse a base that an adapter was not trained on, with a UserError; warn where it is a copy at other precision.

    adapter: where it lies. name: what people call its base. hashed: the base's `fingerprint`. values: its
    `sampled_values`, empty in older adapters. own: parameters of the base that the adapter brings itself.
    """
    if fingerprint(base, own) == hashed:
        return
    found = _one_model(differences(base, values), adapter, name)
    log.warning(
        "The adapter in %s was trained on another copy of %s: the matrices of this one differ by %.1f %%, as copies of "
        "one model in different precision do. Expect slightly other numbers.",
        adapter,
        name,
        100 * found[1],
    )


def check_stored_base(files: Sequence[Path], adapter: object, name: str, values: Mapping[str, Sequence[float]]) -> None:
    """`check_base` of a base that is not loaded, as far as its safetensors files tell.

    They tell nothing where they lack a parameter or hold it quantised, nor do older adapters, which have no values.
    """
    here = _stored_values(files, values)
    if values and here.keys() == values.keys():
        flat = {name: tensor.flatten().tolist() for name, tensor in here.items()}
        _one_model(_apart(flat, values, {name for name, tensor in here.items() if tensor.ndim > 1}), adapter, name)


def _one_model(found: tuple[float, float] | None, adapter: object, name: str) -> tuple[float, float]:
    """The `differences`, if they are small. Raises UserError otherwise."""
    if found is None or found[0] > VECTOR_TOLERANCE or found[1] > MATRIX_TOLERANCE:
        raise UserError(
            f"The adapter in {adapter} was trained on {name}: this base has other weights, choose an adapter of it."
        )
    return found
