"""Training with bad adapters and output folders: one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_runs import LAYER, Damage, Train, arguments, refused, tensors

# --- the adapter to start from ----------------------------------------------------------------------------------


def record(**fields: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "sharedllm_adapter.json"
        stored = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in stored.items() if v is not None}))

    return damage


def adapter(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        (path,) = folder.glob("*.safetensors")
        found = load_file(path)
        change(found)
        save_file(found, path)

    return damage


NORM, HEAD = "cross_attention.0.norm.weight", "base.lm_head.weight"
INITS: dict[str, tuple[Damage, str]] = {
    "list": (lambda f: (f / "sharedllm_adapter.json").write_text("[]"), "not the record of an adapter"),
    "empty": (lambda f: (f / "sharedllm_adapter.json").write_text(""), "not valid JSON"),
    "deep": (lambda f: (f / "sharedllm_adapter.json").write_text("[" * 9999), "not valid JSON"),
    "no record": (lambda f: (f / "sharedllm_adapter.json").unlink(), "There is no adapter in"),
    "no settings": (record(settings=None), "at settings"),
    "no fingerprint": (record(base_fingerprint=None), "at base_fingerprint"),
    "other format": (record(format=2), "at format"),
    "other base": (record(base_fingerprint="0" * 64, base_values={}), "this base has other weights"),
    "list of settings": (record(settings=[1]), "at settings"),
    "unknown setting": (record(settings={"rations": 1}), "no setting 'rations'"),
    "huge setting": (record(settings={"chunk_size": 10**30}), "chunk_size: expected 1048576 or less"),
    "trained a number": (record(trained_base_parameters=[3]), "at trained_base_parameters"),
    "trained nothing known": (record(trained_base_parameters=["base.nope"]), ""),
    "cut": (lambda f: [os.truncate(p, 99) for p in f.glob("*.safetensors")], "not a whole safetensors file"),
    "no tensors": (lambda f: [p.unlink() for p in f.glob("*.safetensors")], "no adapter-*.safetensors"),
    "another name": (lambda f: [p.rename(f / "adapter-x.safetensors") for p in f.glob("*.safetensors")], "not named"),
    "one of two": (
        lambda f: [p.rename(f / "adapter-01-of-02.safetensors") for p in f.glob("*.safetensors")],
        "has no adapter-02-of-02.safetensors",
    ),
    "missing tensor": (adapter(lambda t: t.pop(NORM)), f"lacks {NORM}"),
    "replaced head": (
        adapter(lambda t: t.update({"base.lm_head.weight": torch.zeros(258, 32)})),
        "base.lm_head.weight",
    ),
    "other shape": (adapter(lambda t: t.update({NORM: torch.zeros(3)})), f"{NORM} of shape [3]"),
    "whole numbers": (adapter(lambda t: t.update({NORM: torch.zeros(32, dtype=torch.int64)})), NORM),
    "not a number": (adapter(lambda t: t[NORM].fill_(float("nan"))), f"values in {NORM} that are not finite"),
    "infinite": (adapter(lambda t: t[NORM].fill_(float("inf"))), f"values in {NORM} that are not finite"),
}


@pytest.mark.parametrize("kind", INITS)
def test_bad_adapters(kind: str, finished: Path, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    damage, says = INITS[kind]
    folder = shutil.copytree(finished / "adapter", tmp_path / "adapter")
    damage(folder)
    given = arguments(tiny_llama, texts / "words.txt", tmp_path / "run", "--init", str(folder))
    refused(train(*given), says)


# --- the output folder ------------------------------------------------------------------------------------------


def checkpoint(value: object) -> Damage:
    return lambda folder: torch.save(value, folder / "checkpoint.pt")


def change_checkpoint(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        stored = torch.load(folder / "checkpoint.pt", weights_only=True)
        change(stored)
        torch.save(stored, folder / "checkpoint.pt")

    return damage


def tokens(content: bytes) -> Damage:
    return lambda folder: [path.write_bytes(content) for path in (folder / "tokens").glob("*.npy")]


OUTPUTS: dict[str, tuple[Damage, str]] = {
    "record list": (lambda f: (f / "run.json").write_text("[]"), "not the record of a training run"),
    "record deep": (lambda f: (f / "run.json").write_text("[" * 99_999), "not valid JSON"),
    "record empty": (lambda f: (f / "run.json").write_text(""), "not valid JSON"),
    "record of an evaluation": (lambda f: (f / "run.json").write_text('{"cells": {}}'), "not the record of a training"),
    "record missing": (lambda f: (f / "run.json").unlink(), "a checkpoint without its run.json"),
    "truncated": (lambda f: os.truncate(f / "checkpoint.pt", 900), "checkpoint.pt cannot be read"),
    "empty": (lambda f: os.truncate(f / "checkpoint.pt", 0), "checkpoint.pt cannot be read"),
    "dict": (checkpoint({}), "not a checkpoint of training"),
    "list": (checkpoint([1]), "not a checkpoint of training"),
    "step text": (change_checkpoint(lambda c: c.update(step="1")), "step: expected a whole number"),
    "step negative": (change_checkpoint(lambda c: c.update(step=-1)), "step: expected 0 or more"),
    "step huge": (change_checkpoint(lambda c: c.update(step=10**12)), "step: expected 1000000000 or less"),
    "log of numbers": (change_checkpoint(lambda c: c.update(log=[1])), "log.0: expected names"),
    "no masters": (change_checkpoint(lambda c: c.update(masters={})), "have other shapes"),
    "not finite": (change_checkpoint(lambda c: c["masters"]["lr"][0].data.fill_(float("nan"))), "are not finite"),
    "no optimizer": (change_checkpoint(lambda c: c.update(optimizer={})), "other groups of parameters"),
    "other state": (change_checkpoint(lambda c: c["optimizer"].update(state={999: {}})), "of other parameters"),
    "state of text": (change_checkpoint(lambda c: c["optimizer"].update(state={0: "x"})), "is not AdamW's"),
    "tokens empty": (tokens(b""), "are damaged: delete them"),
    "tokens flipped": (tokens(bytes(2000)), "are damaged: delete them"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_bad_output_folders(
    kind: str, finished: Path, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train
) -> None:
    damage, says = OUTPUTS[kind]
    folder = shutil.copytree(finished, tmp_path / "run")
    damage(folder)
    refused(train(*arguments(tiny_llama, texts / "words.txt", folder, steps=4)), says)


def test_an_output_that_is_a_file(tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    (tmp_path / "run").write_text("")
    refused(train(*arguments(tiny_llama, texts / "words.txt", tmp_path / "run")), "is a file: name a folder")


@pytest.mark.parametrize("what", ["data", "base"])
def test_a_run_is_not_resumed_with_what_was_replaced(
    what: str, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train
) -> None:
    data, base = tmp_path / "d.txt", shutil.copytree(tiny_llama, tmp_path / "base")
    data.write_text(words := (texts / "words.txt").read_text())
    assert train(*arguments(base, data, tmp_path / "run"))[0] == 0
    before = data.stat()
    if what == "data":  # one letter of the middle, in a file of the same size and time
        data.write_text(words[:5000] + "#" + words[5001:])
        os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        tensors(lambda t: t[LAYER][0, -1].add_(1))(base)
    says = "d.txt has changed since the run" if what == "data" else "what differs: base_weights"
    refused(train(*arguments(base, data, tmp_path / "run", steps=4)), says)
