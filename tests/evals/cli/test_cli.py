"""The command line contract: speed of --help and --list, the plan, and bad usage in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standins import write_preset

from evals import registry

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "datasets", "huggingface_hub", "lm_eval")
NOTHING_HEAVY = f"""
import atexit, sys
atexit.register(lambda: print(*(m for m in {HEAVY} if m in sys.modules), file=sys.stderr))
"""


@pytest.mark.parametrize("option", ["--help", "--list"])
def test_help_and_list_import_nothing_heavy(start: Callable[..., Any], option: str) -> None:
    process = start(option, code=NOTHING_HEAVY)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.strip() == ""
    if option == "--list":
        names = json.loads(out.splitlines()[-1])
        assert {"sum", "needle", "perplexity", "longbench"} <= set(names["tasks"])
        assert re.search(r"needle +find numbers in sentences", out)
        assert re.search(r"sum +of the package standins", out)
        assert "full-135m" in names["models"]
    else:
        for flag in ("--task", "--length", "--limit", "--data-dir", "--offline", "--checkpoint", "--dry-run"):
            assert flag in out


def test_list_says_what_every_built_in_task_asks() -> None:
    assert registry.ABOUT.keys() == registry.TASKS.keys()


@pytest.mark.parametrize("name", registry.TASKS)
def test_every_setting_of_a_task_has_a_meaning(name: str) -> None:
    fields = registry.task(name).settings_model.model_fields
    assert [key for key, field in fields.items() if not field.description] == []


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_setting_of_a_method_has_a_meaning(name: str) -> None:
    model = registry.method(name).settings_model
    without = [key for key, field in model.model_fields.items() if not field.description] if model else []
    assert without == [] or (name == "kvpress" and "arguments of presses" in str(model.__doc__))


@pytest.mark.usefixtures("standins")
def test_list_of_a_task_and_a_model_shows_their_settings(command: Callable[..., Any], tmp_path: Path) -> None:
    result = command("--list", "--task", "sum", "--model", write_preset(tmp_path, "a", settings={"factor": 7}))
    assert result.code == 0
    assert "questions" in result.out
    assert "room" in result.out
    assert "7" in result.out


def test_list_shows_what_an_adapter_was_trained_with(command: Callable[..., Any]) -> None:
    result = command("--list", "--task", "needle", "--model", "sharedllm-135m,sharedllm-7b")
    assert result.code == 0
    assert re.search(r"depths +\[0, 25, 50, 75, 100\] +percent of the haystack", result.out)
    assert re.search(r"context +\[own\] +with whose contexts each question is asked", result.out)
    assert re.search(r"thinking +null +off and on tell the chat template", result.out)
    shipped, paper = result.out.split("model sharedllm-7b")
    assert "[64, 32, 16, 1]" in shipped
    assert "[16, 8, 4]" in paper
    assert "tokens per chunk" in paper


def test_list_puts_null_settings_without_a_meaning_on_one_line(command: Callable[..., Any]) -> None:
    out = command("--list", "--model", "kvpress-135m").out
    assert re.search(r"press +snapkv +a press of kvpress", out)
    assert re.search(r"^null: window_size, kernel_size, ", out, re.M)


@pytest.mark.usefixtures("standins")
def test_a_dry_run_plans_and_touches_nothing(command: Callable[..., Any], tmp_path: Path) -> None:
    preset = write_preset(tmp_path, "a", weights={"source": "hub:nobody/nothing"})
    result = command(
        "--task", "sum", "--model", preset, "--length", "1k,2k", "--limit", 3, "--dtype", "bfloat16",
        "--output", tmp_path / "run", "--dry-run",
    )  # fmt: skip
    assert result.code == 0
    assert not (tmp_path / "run").exists()
    first, second = result.last["cells"]
    assert (first["status"], first["n"], first["tokens"]) == ("planned", 3, 3072)
    parameters = 2 * 258 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16
    assert first["weight_bytes"] == 2 * parameters
    assert first["dense_kv_bytes"] == 2 * 1024 * (2 * 2 * 16)
    assert second["dense_kv_bytes"] == 2 * first["dense_kv_bytes"]


@pytest.mark.usefixtures("standins")
@pytest.mark.parametrize(
    ("options", "tokens"),
    [((), 4 * (2 * 1024 + 512)), (("--context", "own"), 4 * 1024), (("--set", "running=300"), 4 * (2 * 1024 + 300))],
)
def test_a_plan_of_perplexity_counts_every_reading(
    command: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], tokens: int
) -> None:
    arguments = ("--task", "perplexity", "--model", write_preset(tmp_path, "a"), "--length", "1k", "--limit", 4)
    (cell,) = command(*arguments, *options, "--dry-run").last["cells"]
    assert (cell["n"], cell["tokens"]) == (4, tokens)


MISTAKES = {
    "nothing named": ((), "Name at least one --task and one --model"),
    "unknown task": (("--task", "neddle", "--model", "full-135m"), "did you mean needle"),
    "unknown model": (("--task", "sum", "--model", "full-135n"), "did you mean full-135m"),
    "unknown subset": (("--task", "sum:x", "--model", "full-135m"), "Unknown subset of sum 'x'"),
    "bad length": (("--task", "sum", "--model", "full-135m", "--length", "4q"), "--length 4q is not a length"),
    "no length": (("--task", "sum", "--model", "full-135m", "--length", ","), "--length names no length"),
    "bad number": (("--task", "sum", "--model", "full-135m", "--limit", "0"), "--limit"),
    "long seed": (
        ("--task", "sum", "--model", "full-135m", "--seed", 10**23),
        "less than or equal to 9223372036854775807",
    ),
    "negative seed": (("--task", "sum", "--model", "full-135m", "--seed", "-1"), "'--seed'"),
    "unknown option": (("--task", "sum", "--modle", "full-135m"), "--modle"),
    "bad choice": (("--task", "sum", "--model", "full-135m", "--dtype", "int4"), "--dtype"),
    "not a setting": (("--task", "sum", "--model", "full-135m", "stray"), "stray is not key=value"),
    "no preset file": (("--task", "sum", "--model", "nowhere.yaml"), "no preset file nowhere.yaml"),
    "no data folder": (("--task", "sum", "--model", "full-135m", "--data-dir", "nowhere"), "--data-dir nowhere"),
    "no checkpoint": (("--task", "sum", "--model", "full-135m", "--checkpoint", "nowhere"), "--checkpoint nowhere"),
}


@pytest.mark.usefixtures("standins")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(command: Callable[..., Any], mistake: str) -> None:
    arguments, sentence = MISTAKES[mistake]
    result = command(*arguments)
    assert result.code == 2
    assert sentence in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert result.out == ""


@pytest.mark.usefixtures("standins")
def test_two_models_of_one_name_are_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    presets = [write_preset(tmp_path, "a"), write_preset(tmp_path / "other", "a")]
    result = command("--task", "sum", "--model", presets[0], "--model", presets[1], "--random-weights")
    assert result.code == 2
    assert "Two models have the name a" in result.err
