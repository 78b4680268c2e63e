"""What a session of SharedLLM holds while it reads its context again."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, cast

import pytest
from method_cases import BOS, CASES, CONTEXT, OTHER_QUERY, QUERY, load

from evals.methods.base import Query
from evals.methods.sharedllm import SharedLLM
from sharedllm import CompressedContext, SharedLLMForCausalLM


@pytest.mark.parametrize("after", [OTHER_QUERY, replace(QUERY, question=None)])
def test_the_context_of_an_earlier_question_is_gone_before_the_next_is_compressed(
    after: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cast(SharedLLM, load(CASES["sharedllm-maxsim"]))
    made: list[weakref.ref[CompressedContext]] = []
    alive: list[int] = []
    compress = SharedLLMForCausalLM.compress

    def watched(self: SharedLLMForCausalLM, *args: Any, **kwargs: Any) -> CompressedContext:
        alive.append(sum(ref() is not None for ref in made))
        context = compress(self, *args, **kwargs)
        made.append(weakref.ref(context))
        return context

    monkeypatch.setattr(SharedLLMForCausalLM, "compress", watched)
    session = model.prefill(CONTEXT, BOS)
    session.generate(QUERY, 2)
    session.generate(after, 2)
    assert alive == [0, 0]
