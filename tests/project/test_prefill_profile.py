"""benchmarks/prefill_profile.py: kernels are counted by kind, idle time is what no kernel covers, rows are written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from benchmark_scripts import load
from shapes import TINY_SHAPE

from evals.errors import UserError
from evals.measure.device import Rates
from evals.records.models import Measurement

kinds = load("kernel_kinds")
script = load("prefill_profile")

RECORDED = {
    "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT": "matmul",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off": "matmul",
    "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_32x6_tn": "matmul",
    "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>(Params)": "matmul",
    "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, float>(Params)": "matmul",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16>": "matmul",
    "triton_tem_fused_mm_3": "matmul",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0": "attention",
    "void pytorch_flash::flash_fwd_splitkv_kernel<pytorch_flash::Flash_fwd_kernel_traits<128, 64>>": "attention",
    "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass>)": "attention",
    "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__0": "attention",
    "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>>": "elementwise",
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>": "elementwise",
    "void (anonymous namespace)::softmax_warp_forward<float, float, float, 8, false, false>": "elementwise",
    "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0": "elementwise",
    "triton_poi_fused_add_cat_index_mul_neg_2": "elementwise",
    "triton_poi_fused__scaled_dot_product_cudnn_attention_mul_1": "elementwise",
    "triton_poi_fused__to_copy_cat_clone_1": "copies",
    "triton_poi_fused_index_put_0": "copies",
    "Memcpy DtoD (Device -> Device)": "copies",
    "Memset (Device)": "copies",
    "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda(at::Iter&)>": "copies",
    "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel<OpaqueType<2>>>": "copies",
    "void at::native::(anonymous namespace)::indexSelectLargeIndex<c10::Half, long, unsigned int, 2, 2>": "copies",
    "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int, long, long, long, long)": "copies",
    "void at::native::(anonymous namespace)::CatArrayBatchedCopy_vectorized<OpaqueType<2u>, unsigned int>": "copies",
    "void at::native::sbtopk::gatherTopK<float, unsigned int, 2, false>": "other",
    "void at_cuda_detail::cub::DeviceRadixSortSingleTileKernel<Policy900, true, float, long>": "other",
    "my_kernel": "other",
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_kernel_is_of_the_kind_that_its_name_says(name: str) -> None:
    assert kinds.kind_of(name) == RECORDED[name]


def test_kernels_at_the_same_time_are_busy_once() -> None:
    second = 10**9
    found = kinds.collected(
        [
            ("gemm", 2 * second, 5 * second),  # not in order
            ("gemm", 0, second),
            ("Memcpy DtoD", 3 * second, 4 * second),  # within the first
            ("flash", 4 * second, 6 * second),  # half after it
        ]
    )
    assert found.busy_s == 5
    assert found.runs == 4
    assert found.seconds() == {"matmul": 4, "attention": 2, "elementwise": 0, "copies": 1, "other": 0}
    assert [(k.name, k.runs) for k in found.largest(2)] == [("gemm", 2), ("flash", 1)]
    assert [k.name for k in found.largest(2, "copies")] == ["Memcpy DtoD"]


def test_a_row_says_where_the_time_went() -> None:
    profile = kinds.collected(
        [("gemm", 0, 3 * 10**9), ("flash", 3 * 10**9, 4 * 10**9), ("add_elementwise", 4 * 10**9, 5 * 10**9)]
    )
    found = script.row(Measurement(status="ok", ttft_s=6.0, prefill_flops=2e12), Rates(1e12, 1e12), profile)
    assert (found["wall"], found["floor"], found["idle"], found["kernels"]) == (6, 2, 1, 3)
    assert found["rate"] == 0.5, "2 s of arithmetic took 4"
    parts = found["floor"] / found["rate"] + found["elementwise"] + found["copies"] + found["other"] + found["idle"]
    assert parts == found["wall"]


def preset(folder: Path, method: str, **settings: Any) -> str:
    path = folder / f"{method}.yaml"
    fields = {"name": f"tiny {method}", "method": method, "description": "-", "weights": {"source": "nowhere"}}
    path.write_text(yaml.safe_dump({**fields, "settings": settings, "shape": TINY_SHAPE}), encoding="utf-8")
    return str(path)


def test_every_model_at_every_length_is_profiled_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "SUSTAINED_S", 0.05)
    models = [
        preset(tmp_path, "full"),
        preset(tmp_path, "sharedllm", chunk_size=64, ratios=[4, 2], lower_layers=2),
    ]
    script.main(["--model", ",".join(models), "--length", "256,128", "--device", "cpu", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
    assert set(record["rates"]) == {"matmul_flops", "copy_bytes", "sustained_flops"}
    assert all(rate > 0 for rate in record["rates"].values())
    assert [(row["model"], row["length"]) for row in record["rows"]] == [
        ("tiny full", 128),
        ("tiny full", 256),
        ("tiny sharedllm", 128),
        ("tiny sharedllm", 256),
    ]
    for row in record["rows"]:
        assert row["status"] == "ok"
        assert row["matmul"] > 0 and row["attention"] > 0 and row["elementwise"] > 0
        assert row["kernels"] > 0 and row["floor"] > 0 and row["rate"] > 0
        assert {kernel["kind"] for kernel in row["largest"]} <= set(kinds.KINDS)
    with (tmp_path / "profile.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["length"] for row in table] == ["128", "256", "128", "256"]
    assert float(table[0]["wall"]) == record["rows"][0]["wall"]
    assert capsys.readouterr().out.count("tiny full ") == 2


def test_out_of_memory_is_a_row_and_ends_a_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cold(*_: Any, **__: Any) -> Measurement:
        return Measurement(status="oom", error="CUDA out of memory")

    monkeypatch.setattr(script, "cold", cold)
    script.main(
        ["--model", preset(tmp_path, "full"), "--length", "128,256", "--device", "cpu", "--output", str(tmp_path)]
    )
    rows = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["length"], row["status"]) for row in rows] == [(128, "oom")]
    assert "CUDA out of memory" in capsys.readouterr().out


def test_a_wrong_model_is_named_before_any_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        script.main(["--model", f"{preset(tmp_path, 'full')},beacon-8b", "--length", "128", "--device", "cpu"])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert "beacon-8b" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "wrong", [["--model", ","], ["--length", ","], ["--repeats", "0"], ["--output", __file__]], ids=" ".join
)
def test_what_cannot_be_measured_or_written_is_an_error_before_anything_is_measured(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "measure_rates", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as end:
        script.main(["--model", str(preset(tmp_path, "full")), "--length", "128", "--device", "cpu", *wrong])
    assert end.value.code == 2
    assert ("cannot be written" if wrong[0] == "--output" else wrong[0]) in capsys.readouterr().err


def test_a_gpu_whose_kernels_cannot_be_seen_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "profiled", lambda device, call: kinds.collected([]))
    with pytest.raises(UserError, match="CUPTI"):
        script.check_profiler(torch.device("cuda"))
