"""`--model_args` of `sharedllm-lm-eval` that make no sense: one sentence and exit code 2, before anything is loaded."""

from __future__ import annotations

import sys

import pytest

from evals.lm_eval.command import main

REFUSED = {
    "a preset that is a number": ("preset=5", "Unknown model '5'"),
    "a preset that is a fraction": ("preset=1.5", "Unknown model '1.5'"),
    "a JSON object cut short": ("{bad json", "Invalid JSON: {bad json"),
    "a word for offline": ("preset=full-135m,offline=perhaps", "offline=perhaps is neither true nor false"),
    "a number for offline": ("preset=full-135m,offline=2", "offline=2 is neither true nor false"),
    "a word for random_weights": ("preset=full-135m,random_weights=maybe", "random_weights=maybe is neither"),
}


@pytest.mark.parametrize(("given", "says"), REFUSED.values(), ids=REFUSED)
def test_bad_model_args_are_one_sentence(given: str, says: str, monkeypatch, capsys) -> None:
    arguments = ("run", "--model", "sharedllm-eval", "--model_args", given, "--tasks", "arc_easy")
    monkeypatch.setattr(sys, "argv", ["sharedllm-lm-eval", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sharedllm-lm-eval: ")
    assert says in last


def test_a_checkpoint_whose_name_is_a_number_is_a_folder() -> None:
    from evals.lm_eval import arguments

    assert arguments.check(None, preset="full-135m", device="cpu", checkpoint=3).runtime.checkpoint == "3"
