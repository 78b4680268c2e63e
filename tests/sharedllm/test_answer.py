"""`answer`: the same ids as the harness's prompts, the same answers as its sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evals import PromptBuilder, Runtime, Stop
from evals.methods.presets import Preset, Weights
from evals.methods.sharedllm import SharedLLM
from sharedllm.prompt import TEMPLATE, ask_about

TEXT = "Leaves lay on the path. " * 4 + "The number for Oslo is 41793. " + "Nobody swept them. " * 5
QUESTION, START = "What is the number for Oslo?", " The number for Oslo is"
SIZE = 64


@pytest.fixture(scope="module")
def method(tiny_llama: Path) -> SharedLLM:
    """A tiny SharedLLM of the harness, with a cross-attention that matters."""
    settings: dict[str, object] = {"chunk_size": SIZE, "ratios": [4, 2], "lower_layers": 2, "policy": "maxsim"}
    weights = Weights(source=str(tiny_llama))
    loaded = SharedLLM.load(
        Preset(name="tiny", method="sharedllm", description="", weights=weights, settings=settings), Runtime()
    )
    torch.manual_seed(1)
    for cross in loaded.model.cross_attention:
        nn.init.normal_(cross.o_proj.weight, std=0.5)
    return loaded


@pytest.mark.parametrize("length", [30, 150, len(TEXT)])
def test_the_prompt_is_that_of_the_harness(method: SharedLLM, length: int) -> None:
    text, after = TEXT[-length:], TEMPLATE.format(question=QUESTION)
    ours = ask_about(method.tokenizer, text, QUESTION, SIZE, answer_start=START)
    theirs = PromptBuilder.of(method.tokenizer).build("", text, after, question=QUESTION, answer=START)
    whole = len(theirs.context) // SIZE * SIZE
    assert [i for chunk in ours.chunks for i in chunk] == theirs.context[:whole]
    lead = [*theirs.prefix, *theirs.context[whole:]]
    assert ours.running == [*lead, *theirs.query]
    assert theirs.question is not None
    assert ours.question == (theirs.question[0] + len(lead), theirs.question[1] + len(lead))
    asked = ours.running[slice(*ours.question)]
    assert method.tokenizer.decode(asked).strip() == QUESTION


@pytest.mark.parametrize("text", [TEXT, TEXT[:20], ""], ids=["chunks", "less than a chunk", "no context"])
def test_an_answer_is_that_of_the_session(method: SharedLLM, text: str) -> None:
    after = TEMPLATE.format(question=QUESTION)
    prompt = PromptBuilder.of(method.tokenizer).build("", text or " ", after, question=QUESTION)
    session = method.prefill(prompt.context if text else [], prefix_ids=prompt.prefix)
    expected = session.generate(prompt.as_query(), 8, Stop(frozenset({method.tokenizer.eos_token_id})))
    answer = method.model.answer(method.tokenizer, text, QUESTION, max_new_tokens=8)
    assert answer == method.tokenizer.decode(expected, skip_special_tokens=True)


def test_the_context_decides_the_answer(method: SharedLLM) -> None:
    answers = {method.model.answer(method.tokenizer, TEXT[i:], QUESTION, 8) for i in (0, 30)}
    assert len(answers) == 2


def test_generation_options_pass(method: SharedLLM) -> None:
    def answer(**options: Any) -> str:
        return method.model.answer(method.tokenizer, TEXT, QUESTION, 8, **options)

    torch.manual_seed(0)
    assert answer(do_sample=True, temperature=5.0) != answer()
    assert len(answer(eos_token_id=list(range(256)))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "The question is empty"),
        ({"template": "Q: "}, "needs exactly one {question}"),
        ({"template": "{question} {question}"}, "needs exactly one {question}"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(method: SharedLLM, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method.model.answer(method.tokenizer, **{"context": TEXT, "question": QUESTION, **change})


def test_a_shipped_adapter_of_another_name_is_a_sentence() -> None:
    from sharedllm import load_shipped

    with pytest.raises(ValueError, match="No adapter 'smollm-135m' comes with sharedllm: did you mean smollm2-135m or"):
        load_shipped("smollm-135m")
