"""Settings of every method and task, as `--set` and presets give them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from evals import registry
from evals.errors import UserError
from sharedllm.validation import validate


def settings_models() -> list[type[BaseModel]]:
    """The declarations of all tasks, and of the methods whose packages are installed."""
    tasks = [registry.task(name).settings_model for name in registry.tasks()]
    methods = [registry.method(name).settings_model for name in registry.methods()]
    return sorted({model for model in (*tasks, *methods) if model is not None}, key=lambda model: model.__name__)


MODELS = settings_models()
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]
WORDS = ("Input", "should", "permitted", "required", "Value error")


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_true_and_nonsense_are_refused_in_our_words(model: type[BaseModel], name: str) -> None:
    kind = model.model_fields[name].annotation
    truth = bool in (kind, *get_args(kind)) or name == "thinking"  # YAML's `on` is true
    text = {str, Path} & {kind, *get_args(kind)}
    values: list[object] = [float("nan"), [[["x"]]]]
    values += [] if truth else [True, [True]]
    values += [] if text else ["no such value"]
    for value in values:
        with pytest.raises(UserError, match=f"The setting {name}.* does not fit: |do not fit together: ") as error:
            validate(model, {name: value}, "it")
        assert not any(words in str(error.value) for words in WORDS)
