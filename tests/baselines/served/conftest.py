"""A small server that behaves as a test asks, the method loaded from it, and runs with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer

from baselines.served.adapter import Served
from evals.methods import presets
from evals.methods.base import Runtime
from evals.report import plots


@pytest.fixture
def server(tokenizer: Any) -> Iterator[OpenAIServer]:
    with OpenAIServer(tokenizer) as running:
        yield running


@pytest.fixture
def load(server: OpenAIServer, tiny_presets: Callable[..., Path]) -> Callable[..., Served]:
    def loaded(**settings: object) -> Served:
        path = tiny_presets("served", settings={"url": server.url, "retries": 2, **settings})
        return Served.load(presets.load_preset(str(path)), Runtime())

    return loaded


@pytest.fixture
def run(command, tiny_presets, server, tmp_path, monkeypatch) -> Callable[..., Any]:
    monkeypatch.setattr(plots, "draw", lambda data, folder: [])  # plots take most of the time
    path = tiny_presets("served", settings={"retries": 1})

    def evaluate(*arguments: object, task: str = "needle", url: str = "", **settings: object) -> Any:
        pairs = [f"{key}={value}" for key, value in {"url": url or server.url, **settings}.items()]
        return command(
            "--task", task, "--model", path, "--length", 1024, "--limit", 4, "--output", tmp_path / "run",
            "--set", *pairs, *arguments,
        )  # fmt: skip

    return evaluate
