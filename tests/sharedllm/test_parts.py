"""Attention to memory and window in parts: that of one softmax, and where it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.longllama.modeling import attend
from sharedllm.nn import parts
from sharedllm.nn.attention import attend_last, bottom_right_kernel
from sharedllm.nn.parts import attend_in_parts, attend_newest, pays


def heads(windows: int, tokens: int = 64, size: int = 8, **form: object) -> list[torch.Tensor]:
    """Queries of the last window, and keys and values of all, with room after them as in the cache."""
    torch.manual_seed(windows)
    made = (torch.randn(1, n * tokens + 9, 3, size).to(**form).transpose(1, 2) for n in (1, windows, windows))  # type: ignore[call-overload]  # any form
    return [x[:, :, : n * tokens] for x, n in zip(made, (1, windows, windows), strict=True)]


@pytest.mark.parametrize("windows", [2, 3, 9, 10, 20])
def test_parts_are_one_softmax(windows: int) -> None:
    """With a memory of less than a block, of whole blocks, and of more."""
    q, keys, values = heads(windows)
    torch.testing.assert_close(attend_in_parts(q, keys, values, 0.4), attend_last(q, keys, values, 0.4))


@pytest.mark.parametrize("tokens", [64, 70, 130])
@pytest.mark.parametrize("before", [0, 5, 64, 128, 700, 1031])
def test_windows_that_do_not_fit_are_one_softmax(tokens: int, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many keys before as you like: less than a window of them, whole windows, blocks, and some more."""
    monkeypatch.setattr(parts, "WINDOW", 64)
    monkeypatch.setattr(parts, "ROWS", 32)
    seen: list[tuple[int, int]] = []
    call = parts._all

    def watched(q: torch.Tensor, keys: torch.Tensor, *rest: Any) -> Any:
        seen.append((q.shape[2], keys.shape[2]))
        return call(q, keys, *rest)

    monkeypatch.setattr(parts, "_all", watched)
    keys, values = (x[:, :, : before + tokens] for x in heads(20)[1:])
    q = keys[:, :, -tokens:] + 1
    got = attend_in_parts(q, keys, values, 0.4)
    torch.testing.assert_close(got, attend_last(q, keys, values, 0.4))
    assert got.shape == q.shape
    assert sum(count for _, count in seen) == before // 64 * 64
    assert all(rows % 32 == 0 and count % 64 == 0 for rows, count in seen), "cuDNN plans for few shapes"


def test_scores_far_apart_do_not_overflow() -> None:
    q, keys, values = heads(3)
    keys = keys * torch.tensor([300.0, 1.0, -300.0]).repeat_interleave(64)[:, None]
    torch.testing.assert_close(
        attend_in_parts(q, keys, values, 1.0), attend_last(q, keys, values, 1.0), atol=1e-3, rtol=1e-3
    )


def test_a_cpu_attends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    q, keys, values = heads(2, tokens=512)
    assert not pays(q, keys)
    monkeypatch.setattr(parts, "attend_in_parts", lambda *_: pytest.fail("in parts"))
    attend(q, keys, values, 0.4)


def test_a_kernel_that_was_chosen_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "pays", lambda *_: True)
    q, keys, values = heads(2, tokens=2048, size=16, dtype=torch.bfloat16)
    with torch.no_grad():
        got = attend_newest(q, keys, values, 0.4)
        torch.testing.assert_close(got, attend_last(q, keys, values, 0.4), atol=1e-2, rtol=1e-2)
        with bottom_right_kernel(lambda query, *_: query):
            assert attend_newest(q, keys, values, 0.4) is q
            assert attend_newest(q[:, :, :512], keys, values, 0.4) is not q


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [104, 128])
@pytest.mark.parametrize("windows", [2, 9, 20])
def test_gpu_parts_are_one_softmax(windows: int, size: int) -> None:
    """The 3B model's padded heads, and those of 7B, in half precision, with float32 as the measure."""
    q, keys, values = heads(windows, tokens=512, size=size, device="cuda", dtype=torch.bfloat16)
    wanted = attend_last(*(x.float() for x in (q, keys, values)), 0.1)
    with torch.inference_mode():
        if not pays(q, keys):
            pytest.skip("no cuDNN attention")
        got, plain = attend_in_parts(q, keys, values, 0.1), attend_last(q, keys, values, 0.1)
        assert not pays(q[:, :, 1:], keys)  # less than a block before it
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.float(), wanted, atol=2e-2, rtol=2e-2)
    # parts come from cuDNN rounded to 16 bits, and their sum is rounded again: twice the squared error at most
    assert (got.float() - wanted).square().mean() < 2 * (plain.float() - wanted).square().mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tokens", [1025, 1088])
@pytest.mark.parametrize("before", [16384, 30720, 31745])
def test_gpu_the_last_windows_of_longllama_attend_in_parts(tokens: int, before: int) -> None:
    """What is left of 32K tokens after windows of 2048: with the flash kernel alone they took 4 % of a read."""
    torch.manual_seed(before)
    lengths = tokens, before + tokens, before + tokens
    q, keys, values = (torch.randn(1, n, 32, 104, device="cuda").bfloat16().transpose(1, 2) for n in lengths)
    wanted = attend_last(q.float(), keys.float(), values.float(), 0.1)
    with torch.inference_mode():
        if not pays(q, keys):
            pytest.skip("no cuDNN attention")
        got, plain = attend_in_parts(q, keys, values, 0.1), attend_last(q, keys, values, 0.1)
    torch.testing.assert_close(got.float(), wanted, atol=2e-2, rtol=2e-2)
    assert (got.float() - wanted).square().mean() < 2 * (plain.float() - wanted).square().mean()
