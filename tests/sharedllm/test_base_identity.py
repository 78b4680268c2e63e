"""An adapter takes its base at any precision, and no other base."""

from __future__ import annotations

import logging

import pytest
import torch
from shapes import base_model
from torch import nn

from sharedllm.base_identity import check_base, differences, fingerprint, sampled_values

gguf = pytest.importorskip("gguf")
FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16")


def copied(base: nn.Module, kind: str) -> nn.Module:
    """What a GGUF file of that kind keeps of a model: matrices in blocks, vectors as they are."""
    quants, of = gguf.quants, gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.ndim > 1:
                flat = torch.nn.functional.pad(parameter.flatten(), (0, -parameter.numel() % 32)).view(-1, 32)
                packed = quants.dequantize(quants.quantize(flat.numpy(), of), of).reshape(-1)[: parameter.numel()]
                parameter.copy_(torch.from_numpy(packed).view_as(parameter))
    return base


def check(base: nn.Module, name: str = "tiny") -> None:
    own = base_model()
    check_base(base, "FOLDER", name, fingerprint(own), sampled_values(own), [])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_copy_in_another_precision_is_taken_with_a_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(copied(base_model(), kind))
    assert "trained on another copy of tiny" in caplog.text


def test_the_base_itself_is_taken_silently(caplog: pytest.LogCaptureFixture) -> None:
    check(base_model().bfloat16())
    assert not caplog.text


def noisy(base: nn.Module, vectors: float, matrices: float) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in base.parameters():
            share = matrices if parameter.ndim > 1 else vectors
            parameter.add_(torch.randn_like(parameter) * share * parameter.square().mean().sqrt())
    return base


@pytest.mark.parametrize(
    "base",
    [
        noisy(base_model(), 0, 0.4),
        noisy(base_model(), 0.05, 0.05),
        noisy(base_model(), 2, 2),
        base_model("qwen2"),
    ],
    ids=["matrices", "vectors", "all", "another family"],
)
def test_another_base_is_refused(base: nn.Module) -> None:
    with pytest.raises(ValueError, match="The adapter in FOLDER was trained on tiny: this base has other weights"):
        check(base)


def test_an_adapter_without_values_takes_its_own_base_alone() -> None:
    base = base_model()
    check_base(base, "FOLDER", "tiny", fingerprint(base), {}, [])
    with pytest.raises(ValueError, match="other weights"):
        check_base(copied(base_model(), "Q8_0"), "FOLDER", "tiny", fingerprint(base), {}, [])
    assert differences(base, sampled_values(base)) == (0.0, 0.0)
