"""A compressed context in host memory: the numbers of one on the device, and what the record says of it.

`test_spread.py` reads such contexts on devices that refuse whatever was not brought to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from method_cases import BOS, CASES, CONTEXT, QUERY, TARGET, load
from test_spread import answers, loaded, over_two
from two_devices import two_devices

from evals.methods.base import Session
from evals.methods.decoding import session as decoding
from evals.methods.sharedllm import SharedLLM
from evals.methods.sharedllm_session import SharedLLMSession
from evals.run.grid import plan
from evals.run.spec import RunSpec
from sharedllm import CompressedContext


def both(case: str) -> list[SharedLLM]:
    """The method of a case as it is, and with its context in host memory."""
    settings = CASES[case].settings
    return [
        cast(SharedLLM, load(replace(CASES[case], settings=more))) for more in (settings, settings | {"offload": True})
    ]


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("sharedllm")])
def test_numbers_and_bytes_are_the_same(case: str) -> None:
    def numbers(session: Session) -> list[Any]:
        scores = session.score(QUERY, TARGET), session.score(replace(QUERY, question=None), TARGET)
        return [session.generate(QUERY, 6), *(x.tolist() for x in scores), session.state_bytes, session.trace()]

    device, host = both(case)
    assert numbers(device.prefill(CONTEXT, BOS)) == numbers(host.prefill(CONTEXT, BOS))


def test_the_record_and_the_cost_say_where_the_context_is(monkeypatch: pytest.MonkeyPatch) -> None:
    device, host = both("sharedllm")
    assert host.fairness == device.fairness | {"context": "in host memory", "decode": "eager"}
    session = cast(SharedLLMSession, host.prefill(CONTEXT))
    assert session._compressed is not None
    cost = device.cost(len(CONTEXT), 0)
    assert host.cost(len(CONTEXT), 0) == replace(cost, bus_bytes=session._compressed.nbytes)
    assert cost.bus_bytes == 0
    monkeypatch.setattr(decoding, "GRAPH_DEVICES", frozenset({"cpu"}))  # as on a GPU
    steps: list[int] = []
    monkeypatch.setattr(SharedLLMSession, "_graph_step", lambda self, tokens: steps.append(tokens))
    session.generate(QUERY, 30)
    assert steps == []
    with pytest.raises(AttributeError):  # the method without it takes static steps
        device.prefill(CONTEXT).generate(QUERY, 30)
    assert len(steps) == 1


def test_what_is_read_where_it_lies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of `test_spread.py`."""
    over_two(monkeypatch)
    whole = CompressedContext.layer
    monkeypatch.setattr(CompressedContext, "layer", lambda self, i: whole(replace(self, read_on=None), i))
    with two_devices(), pytest.raises(RuntimeError, match="tensors of"):
        answers(loaded("sharedllm right in host memory"))


def test_a_context_on_the_device_is_the_default_of_a_cell(tiny_presets: Callable[..., Path]) -> None:
    def ids(**settings: Any) -> list[str]:
        spec = RunSpec(
            tasks=["needle"],
            models=[str(tiny_presets("sharedllm", settings={"chunk_size": 16, "ratios": [4, 2], "lower_layers": 2}))],
            lengths=[512],
            settings=settings,
            random_weights=True,
        )
        return [cell.id for cell in plan(spec)]

    assert ids() == ids(offload=False) != ids(offload=True)


def test_several_rows_and_copies_of_a_row_come_from_the_host() -> None:
    model = both("sharedllm")[1].model
    size = model.config.chunk_size
    ids = torch.arange(4 * size).view(2, 2, size) % 250
    with torch.inference_mode():
        context = model.compress(ids, torch.tensor([2, 1]))
        model.offload_context = False
        wanted = model.compress(ids, torch.tensor([2, 1]))
        for found, other in zip(context.repeat(2).layer(0)[:2], wanted.repeat(2).layer(0)[:2], strict=True):
            assert torch.equal(found, other)
    assert context.read_on is not None
    assert wanted.read_on is None
