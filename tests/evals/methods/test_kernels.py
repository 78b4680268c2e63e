"""The order of SDPA's back ends that `--attn auto` chooses, and the benchmark that it rests on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import load
from not_empty import not_empty
from standins import Toy, write_preset
from torch.nn.attention import SDPBackend
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from evals.methods import kernels as attention
from evals.run.spec import Attention, Device, DType, resolve_runtime
from sharedllm.nn.attention import attend_last


@pytest.fixture(scope="module")
def script() -> Any:
    return load("attention_kernels")


def priority() -> list[int]:
    return list(torch._C._get_sdp_priority_order())


def test_an_order_holds_within_and_is_undone() -> None:
    before, query = priority(), torch.randn(1, 2, 4, 8)
    with attention.kernel_order(("math", "efficient", "flash")):
        assert priority()[:3] == [int(attention.BACKENDS[n]) for n in ("math", "efficient", "flash")]
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        scaled_dot_product_attention(query, query, query)
    assert priority() == before
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with attention.kernel_order(()):
        assert priority() == before


def test_auto_takes_the_order_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_runtime(Device.cpu, DType.auto, Attention.auto)["kernels"] == ()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(attention.MEASURED, (9, 0), ("cudnn", "flash"))
    auto = resolve_runtime(Device.cuda, DType.auto, Attention.auto)
    assert (auto["attn"], auto["kernels"]) == ("sdpa", ("cudnn", "flash"))
    assert resolve_runtime(Device.cuda, DType.auto, Attention.sdpa)["kernels"] == ()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (3, 5))
    assert resolve_runtime(Device.cuda, DType.auto, Attention.auto)["kernels"] == ()


def test_auto_names_flash_attn_4_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention.fastest("cuda") == ()
    assert attention.fastest("cpu") == ()
    monkeypatch.setattr(attention, "version", {"flash-attn-4": "4"}.get)
    assert attention.fastest("cuda") == ("flash-attn-4",)
    assert attention.fastest("cpu") == ()


@torch.inference_mode()
def test_flash_attn_4_takes_long_queries_behind_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in of the package's form: same numbers, and every other call stays with SDPA."""
    calls = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax_scale: float, causal: bool) -> Any:
        calls.append(query.shape[1])
        assert causal
        query, key, value = (x.transpose(1, 2).float() for x in (query, key, value))
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        out = scaled_dot_product_attention(query, key, value, mask, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2).bfloat16(), None

    monkeypatch.setattr(attention, "_flash_attn_func", lambda: attend)
    monkeypatch.setattr("sharedllm.nn.attention.KERNEL_ROWS", 128)

    def parts(queries: int, keys: int, dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
        torch.manual_seed(0)
        shapes = (1, 4, queries, 16), (1, 2, keys, 16), (1, 2, keys, 16)
        return [torch.randn(shape, dtype=dtype) for shape in shapes]

    wanted, before = attend_last(*parts(130, 200), 0.3), priority()
    with attention.kernel_order(("flash-attn-4",)):
        torch.testing.assert_close(attend_last(*parts(130, 200), 0.3), wanted, atol=1e-2, rtol=1e-2)
        assert calls == [130]
        assert priority() == before
        attend_last(*parts(8, 200))
        attend_last(*parts(130, 130))
        attend_last(*parts(130, 200, torch.float32))
        assert calls == [130]
        with attention.kernel_order(("math",)):
            assert priority()[0] == int(SDPBackend.MATH)
    attend_last(*parts(130, 200))
    assert calls == [130]


@pytest.mark.usefixtures("standins")
def test_a_run_uses_and_records_its_order(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "fastest", lambda device: ("math",))
    seen, fit = [], Toy.fit

    def watched(self: Toy, tokens: int) -> None:
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        fit(self, tokens)

    monkeypatch.setattr(Toy, "fit", watched)
    toy = write_preset(tmp_path, "toy")
    options = ("--task", "sum", "--model", toy, "--length", 64, "--random-weights", "--output", tmp_path / "run")
    assert command(*options).code == 0
    assert seen
    assert not any(seen)
    assert torch.backends.cuda.flash_sdp_enabled()
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["spec"]["kernels"] == ["math"]
    assert record["models"]["toy"]["fairness"] == {"kernel": "sdpa", "kernel order": ["math"]}
    own = command(*options, "--attn", "sdpa")
    assert own.code == 2
    assert "another" in own.err


def test_every_kernel_is_measured_on_every_shape(script: Any, tmp_path: Path) -> None:
    script.main(["--shape", "tiny", "--output", str(tmp_path / "kernels.json")])
    result = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert [case["name"] for case in result["cases"]] == [case.name for case in script.CASES]
    for case in result["cases"]:
        kernels = case["kernels"]
        assert kernels["math"]["correct"]
        assert kernels["flash"]["correct"]
        assert "refused" in kernels["cudnn"]
        assert ("growing_ms" in kernels["flash"]) == (case["grows"] > 0)
        assert kernels["flash"]["error"] < 1e-4
        assert kernels["flash"]["ms"] > 0
    assert len(result["orders"]) == 6
    assert min(result["orders"].values()) >= 1


def test_packaged_kernels_are_measured_where_they_are_installed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages as stand-ins: masks that count from the lower right, version 4 with a pair of outputs."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool) -> torch.Tensor:
        mask = causal_lower_right(query.shape[1], key.shape[1]) if causal else None
        parts = [x.transpose(1, 2) for x in (query, key, value)]
        return scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2)

    first, fourth = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    first.flash_attn_func = attend

    def attend_to_more(*parts: torch.Tensor, causal: bool) -> Any:
        assert parts[0].shape[1] > 1, "one query"
        return attend(*parts, causal=causal), None

    fourth.flash_attn_func = attend_to_more
    assert not {"flash-attn", "flash-attn-4"} & set(script.kernels())
    monkeypatch.setattr(script, "version", {"flash-attn": "2", "flash-attn-4": "4"}.get)
    monkeypatch.setitem(sys.modules, "flash_attn", first)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", fourth)
    rows = script.run([script.tiny(case) for case in script.CASES], torch.device("cpu"), torch.float32)
    for row in not_empty(rows):
        first, fourth = (row["kernels"][package] for package in ("flash-attn", "flash-attn-4"))
        assert "refused" in first if row["mask"] == "boolean" else first["correct"], row["name"]
        if row["mask"] != "boolean" and row["queries"] == 1:
            assert fourth["refused"] == "AssertionError: one query"
    assert set(script.gains(rows, "flash-attn-4")) == {r["name"] for r in rows if r["queries"] > 1}


def test_pairs_are_those_that_a_mask_lets_through(script: Any) -> None:
    for case in map(script.tiny, script.CASES):
        inputs = script.Inputs(case, torch.device("cpu"), torch.float32)
        if inputs.visible is not None and case.queries > 1:
            assert case.pairs == int(inputs.visible.sum()), case.name
    full = script.Case("", 1, 3, 5)
    assert (full.pairs, full.flops) == (15, 4 * 15 * 32 * 128)


def test_a_kernel_that_masks_wrongly_is_found(script: Any) -> None:
    case = script.Case("", 2, 3, 7, "lower right", heads=2, width=8)
    inputs = script.Inputs(case, torch.device("cpu"), torch.float32)
    key, value = inputs.keys_values()
    assert inputs.error(script.sdpa(inputs)) < 1e-5
    upper_left = scaled_dot_product_attention(inputs.query, key, value, is_causal=True)
    assert inputs.error(upper_left) > 0.1


def test_an_order_is_judged_by_what_it_runs(script: Any) -> None:
    def row(mask: str = "none", **milliseconds: float | None) -> dict[str, Any]:
        kernels = {n: {"refused": ""} if ms is None else {"ms": ms, "correct": True} for n, ms in milliseconds.items()}
        return {"mask": mask, "kernels": kernels}

    rows = [
        row(flash=4.0, cudnn=2.0, efficient=8.0, math=80.0),
        row(flash=None, cudnn=9.0, efficient=3.0, math=30.0),
        row("lower right", flash=1.0, cudnn=50.0, efficient=2.0, math=None),
    ]
    found = script.orders(rows)
    assert next(iter(found)) == "flash, efficient, cudnn, math"
    assert found["flash, efficient, cudnn, math"] == pytest.approx(2 ** (1 / 3))
    assert found["cudnn, flash, efficient, math"] == pytest.approx(3 ** (1 / 3))
    rows[0]["kernels"]["flash"]["correct"] = False
    assert not any(order.startswith("flash") for order in script.orders(rows))
    rows[0]["kernels"]["cudnn"]["growing_ms"] = 20.0  # plans for every length: the time that counts
    assert script.orders(rows)["cudnn, efficient, flash, math"] == pytest.approx((20 / 8 * 3) ** (1 / 3))


def test_backends_are_those_of_torch() -> None:
    assert set(attention.BACKENDS.values()) <= set(SDPBackend.__members__.values())
    assert all(set(order) <= {*attention.BACKENDS, attention.FLASH_ATTN_4} for order in attention.MEASURED.values())
