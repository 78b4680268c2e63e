"""Checkpoints damaged at random: each file cut, flipped, emptied or with values of other kinds; never a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shapes import TINY_SHAPE

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.weights import identity, load_base

COUNT = int(os.environ.get("SHAREDLLM_FUZZ", "40"))
"""Damages that are tried; `make fuzz` sets more."""
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 1.5, 10**30, float("nan"), float("inf"), "", "x", "[/b]", "\ud800", [], [[]], {}, {"a": {}},
)  # fmt: skip


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 5, 50))):
        changed[rng.randrange(min(len(changed), 4000))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice((b"\0" * 20, b"\xff", b'"', b"{", b"]" * 500, b"1e999")) + data[at:]


def replace(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON file by one of another kind; other files are flipped."""
    try:
        root = json.loads(data)
    except ValueError:
        return flip(data, rng)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in list(items)[:40]:
            places.append((value, key))
            walk(item)

    walk(root)
    holder, key = rng.choice(places)
    holder[key] = rng.choice(VALUES)
    return json.dumps(root).encode("utf-8", "surrogatepass")


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (cut, flip, insert, replace, replace, replace)


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)
    assert all((folder / name).is_file() for name in FILES)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == TINY_SHAPE["hidden_size"]
    return folder


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_damaged_checkpoint_loads_or_is_one_sentence(seed: int, whole: Path, tmp_path: Path) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    name = rng.choice(FILES)
    path = folder / name
    path.write_bytes(rng.choice(DAMAGES)(path.read_bytes(), rng))
    weights = Weights(source=str(folder))
    for use in (lambda: identity(weights, Runtime(), None), lambda: load_base(weights, Runtime(), None)):
        try:
            use()
        except UserError as error:
            message = str(error)
            assert "\n" not in message, message
            assert len(message) < 1000, message
