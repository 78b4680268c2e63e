"""Fixtures that many tests share: a tiny random Llama on disk, stand-ins under their entry points, the commands."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_result import Result
from folders import TESTS
from shapes import TINY_SHAPE


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in the hub's layout: a random Llama of 3 layers and a tokenizer of bytes (BOS 256, EOS 257)."""
    from evals.methods.base import Runtime
    from evals.methods.weights import byte_tokenizer, random_model, shape_config

    folder = tmp_path_factory.mktemp("tiny-llama")
    random_model(shape_config(TINY_SHAPE), Runtime()).save_pretrained(folder)
    byte_tokenizer(TINY_SHAPE["vocab_size"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_presets(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes preset files over the tiny Llama: tiny_presets("full", settings={...}) -> path."""
    folder = tmp_path_factory.mktemp("presets")

    def write(method: str, name: str = "", **fields: Any) -> Path:
        preset = {
            "name": name or f"{method}-tiny",
            "method": method,
            "description": "random weights, for tests",
            "weights": {"source": str(tiny_llama)},
            "shape": TINY_SHAPE,
            "max_context": TINY_SHAPE["max_position_embeddings"],
            **fields,
        }
        path = folder / f"{preset['name']}.yaml"
        path.write_text(yaml.safe_dump(preset), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for sys.path in which an installed package declares the method `toy` and the task `sum`."""
    from standins import write_plugins

    return write_plugins(tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def standins(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-ins, known to the registry of this process. Their runs get no plots, which take most of the time."""
    from evals import registry
    from evals.report import plots

    monkeypatch.setattr(plots, "draw", lambda data, folder: [])
    monkeypatch.syspath_prepend(str(plugins))
    monkeypatch.syspath_prepend(str(TESTS))
    registry._targets.cache_clear()
    yield
    registry._targets.cache_clear()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs `sharedllm-eval` in this process: command("--task", ...) -> Result."""
    from evals.cli.evaluate import main

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(exit_info.value.code or 0), out, err)

    return run


@pytest.fixture
def start(plugins: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `sharedllm-eval` as a process of its own, with the stand-ins installed."""

    def run(*arguments: object, code: str = "", **options: Any) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(plugins), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-c", f"{code}\nfrom evals.cli.evaluate import main\nmain()", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path) -> Any:
    """The tiny Llama's tokenizer of bytes."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random English words: words.txt, and two documents in rows.jsonl.xz and in others.jsonl.gz."""
    import random

    from sharedllm.training.vocabulary import ADJECTIVES, NOUNS

    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)
    words = [word.lower() for word in (*NOUNS, *ADJECTIVES)]
    (folder / "words.txt").write_text(" ".join(rng.choices(words, k=1500)), encoding="utf-8")
    rows = "".join(json.dumps({"text": " ".join(rng.choices(words, k=700))}) + "\n" for _ in range(2))
    with lzma.open(folder / "rows.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write(rows)
    with gzip.open(folder / "others.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(rows)
    return folder
