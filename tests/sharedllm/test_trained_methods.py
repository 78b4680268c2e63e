"""The interface of trained methods: how one is found, and that runs and adapters of two methods never mix."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from not_empty import not_empty
from torch import nn
from trained_runs import OPTIONS, adapter, train
from transformers import AutoModelForCausalLM

from evals import registry as evals_registry
from evals.methods.base import Runtime
from evals.methods.presets import load_preset
from sharedllm.errors import UserError
from sharedllm.settings import SETTINGS
from sharedllm.training.batches import NO_CONTEXT, Batch, whole_text
from sharedllm.training.cli import main
from sharedllm.training.methods import registry
from sharedllm.training.methods.base import TrainedMethod
from sharedllm.training.methods.groups import select
from sharedllm.training.record import RunRecord, read_record
from sharedllm.training.settings import preset_in


def test_an_unknown_method_is_one_sentence(
    tiny_llama: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--base", tiny_llama, "--data", texts / "words.txt", "--output", tmp_path / "run", "--method", "windwo"]
    monkeypatch.setattr(sys, "argv", ["sharedllm-train", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == "sharedllm-train: There is no trained method 'windwo': did you mean window?"
    with pytest.raises(UserError, match=r"known: .*sharedllm, window"):
        registry.method("xyz")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--set steps=3 nonsense=2", "There is no setting nonsense:"),
        ("--set steps=3 windows=x", "windows"),
        ("--set running=1", "The setting running does not fit: expected 2 or more, found 1."),  # no target: a loss of 0
        ("word", "--set word is not key=value: write for instance --set depths=3."),
        ("--words", "No such option: --words"),
        ("--log-every x", "Invalid value for '--log-every': Input should be a valid integer"),
    ],
)
def test_a_command_line_that_does_not_fit_is_one_line(
    given: str, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Several settings may follow one --set, as in sharedllm-eval."""
    monkeypatch.setattr(sys, "argv", ["sharedllm-train", "--base", "b", "--output", "o", *given.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("sharedllm-train: ") and said in line


def test_a_method_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name, value = "theirs", "nowhere.at_all:Method"

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry] if "trained_methods" in group else [])
    registry.methods.cache_clear()
    try:
        assert set(registry.methods()) == {*registry.BUILT_IN, "theirs"}
        with pytest.raises(UserError, match=r"declared as nowhere\.at_all:Method, which cannot be imported"):
            registry.method("theirs")
    finally:
        registry.methods.cache_clear()


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_presets_of_a_method_fit_its_options(name: str) -> None:
    trained = registry.method(name)
    assert trained.name == name
    chosen = preset_in(trained.presets, trained.preset, {})
    trained.check(chosen.method)
    with pytest.raises(UserError, match="nonsense"):
        trained.check({"nonsense": 1})
    with pytest.raises(UserError, match="Unknown training preset 'big'"):
        preset_in(trained.presets, "big", {})


def test_runs_of_two_methods_never_share_a_folder(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    train("sharedllm", tiny_llama, texts, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored.pop("method") == "sharedllm"
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))  # as runs before there were other methods
    assert read_record(tmp_path / "run") == RunRecord(**stored)
    assert train("sharedllm", tiny_llama, texts, tmp_path / "run")["step"] == 2
    with pytest.raises(UserError, match="holds a run of the method 'sharedllm', not 'window': choose another --output"):
        train("window", tiny_llama, texts, tmp_path / "run")


def test_an_adapter_of_another_method_is_no_start(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    for name in ("sharedllm", "window"):
        train(name, tiny_llama, texts, tmp_path / name)
    for name, other in (("sharedllm", "window"), ("window", "sharedllm")):
        with pytest.raises(UserError, match=f"is of the method '{other}', not '{name}'"):
            train(name, tiny_llama, texts, tmp_path / "new", init=tmp_path / other / "adapter")
        for start, said in ((tmp_path, "one that"), (tmp_path / name, "itself: name")):
            with pytest.raises(UserError, match=f"There is no adapter in .* {said}"):
                train(name, tiny_llama, texts, tmp_path / "new", init=start)
    assert not (tmp_path / "new" / "run.json").exists()


@pytest.mark.parametrize("name", ["sharedllm", "window"])
def test_the_harness_says_what_does_not_fit_in_an_adapter(
    name: str, tiny_llama: Path, tiny_presets: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    other = {"sharedllm": "window", "window": "sharedllm"}[name]
    for each in (name, other):
        train(each, tiny_llama, texts, tmp_path / each)
    preset = load_preset(str(tiny_presets(name, f"{name}-damaged", adapter={"source": "nowhere"})))

    def load(folder: Path) -> None:
        evals_registry.method(name).load(preset, Runtime(checkpoint=str(folder)))

    load(tmp_path / name / "adapter")
    (record,) = (tmp_path / name / "adapter").glob("*_adapter.json")
    options = "options" if name == "window" else "settings"
    record.write_text(record.read_text().replace(f'"{options}": {{', f'"{options}": {{"nonsense": 1,'))
    for folder, said in {
        tmp_path: "There is no adapter in .* one that sharedllm-train has made",
        tmp_path / name: "There is no adapter in .* itself: name .*adapter",
        tmp_path / other / "adapter": f"is of the method '{other}', not '{name}'",
        tmp_path / name / "adapter": f"nonsense.*{name}|{record}.*nonsense",
    }.items():
        with pytest.raises(UserError, match=said):
            load(folder)


FIXED: dict[str, dict[str, object]] = {
    "sharedllm": {
        "attention": "joint",
        "rank": 4,
        "lower_layers": 1,
        "injection": "top",
        "injection_start": 1,
        "own_lower": True,
    },
    "window": {"rank": 4, "alpha": 3.0},
    "beacon": {},
    "cepe": {"encoder_layers": 2, "start": "copy"},
    "longllama": {"mem_layers": [0, 1]},
}
FREE: dict[str, dict[str, object]] = {
    "sharedllm": {
        "chunk_size": 32,
        "ratios": [4, 2],
        "policy": "right",
        "key_positions": "node",
        "query_position": "n+1",
        "sampling": "strided",
        "leaf_overlap": 2,
        "fine_chunks": 1,
        "fine_recent": 1,
        "nodes": "all",
        "split_noise": 0.1,
    },
    "window": {"chunk_size": 32, "rope": "yarn", "factor": 2.0, "window": 64},
    "beacon": {"chunk_size": 32, "window": 16, "ratios": [8]},
    "cepe": {"chunk_size": 32, "encoder_chunk": 16, "same_text": 0.0},
    "longllama": {"chunk_size": 32, "window": 24, "negatives": 1},
}
"""Other values of every option than those of OPTIONS: an adapter has the fixed ones for good."""


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_only_options_that_the_weights_do_not_depend_on_change_over_an_adapter(
    name: str, tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    train(name, tiny_llama, texts, tmp_path / "first", steps=1)
    trained, folder = registry.method(name), tmp_path / "first" / "adapter"

    def build(**options: object) -> TrainedMethod:
        return trained.build(AutoModelForCausalLM.from_pretrained(tiny_llama), options, folder)

    known = SETTINGS if name == "sharedllm" else trained.options_model.model_fields
    assert {*FIXED[name], *FREE[name]} == set(known)
    build(**OPTIONS[name])
    for option, value in FIXED[name].items():
        with pytest.raises(UserError, match=f"^{option} is .*, but the weights of the adapter in .* depend on it: use"):
            build(**{option: value})
    free = build(**FREE[name])
    held = free.model.config if name == "sharedllm" else free.options
    assert {option: getattr(held, option) for option in FREE[name]} == FREE[name]


def test_a_second_stage_keeps_what_the_first_one_trained(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    train("longllama", tiny_llama, texts, tmp_path / "first", lr=0.01)
    further = {"trainable": ["attention"], "init": tmp_path / "first" / "adapter", "lr": 0.01}
    train("longllama", tiny_llama, texts, tmp_path / "second", **further)
    first, second = adapter(tmp_path / "first"), adapter(tmp_path / "second")
    assert first.keys() == second.keys()
    assert {n for n in first if not torch.equal(first[n], second[n])} == {n for n in first if ".self_attn." in n}


def test_a_killed_run_of_another_method_resumes_to_the_same_adapter(
    tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    train("window", tiny_llama, texts, tmp_path / "whole", steps=60, lr=0.01)
    code = (
        "import sys; from pathlib import Path; from trained_runs import adapter, train;"
        "base, texts, output = map(Path, sys.argv[1:]); train('window', base, texts, output, steps=60, lr=0.01)"
    )
    folder = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_llama), str(texts), str(folder)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert 0 < torch.load(folder / "checkpoint.pt", weights_only=True)["step"] < 60
    train("window", tiny_llama, texts, folder, steps=60, lr=0.01)
    mine, expected = adapter(folder), adapter(tmp_path / "whole")
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[n], expected[n]) for n in not_empty(expected))


def test_a_checkpoint_of_another_method_is_refused(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    for name in ("beacon", "window"):
        train(name, tiny_llama, texts, tmp_path / name)
    shutil.copy(tmp_path / "window" / "checkpoint.pt", tmp_path / "beacon")
    with pytest.raises(UserError, match=r"checkpoint\.pt does not fit, its weights of the group lr have other shapes"):
        train("beacon", tiny_llama, texts, tmp_path / "beacon", steps=3)


def test_groups_are_frozen_but_for_those_that_are_named() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "abc"})
    known = {"first": lambda n: n.startswith("a"), "second": lambda n: n.startswith("b"), "none": lambda n: False}
    found = select(model, ["first", "second"], known, of_base=("second",))
    assert found["lr"] == [model["a"].weight]
    assert found["lr_base"] == [model["b"].weight]
    assert not model["c"].weight.requires_grad
    for group, says in (("third", "choose from first, second, none"), ("none", "nothing to train in 'none'")):
        with pytest.raises(UserError, match=says):
            select(model, [group], known)


def test_the_whole_text_of_a_window_is_context_then_running_text() -> None:
    context, running = torch.arange(6).view(1, 2, 3), torch.tensor([[6, 7]])
    batch = Batch(input_ids=running, labels=running, context_ids=context)
    assert whole_text(batch).tolist() == [list(np.arange(8))]
    dropped = Batch(input_ids=running, labels=running, context_ids=context[:, :1], kind=NO_CONTEXT)
    assert whole_text(dropped).tolist() == [[6, 7]]
