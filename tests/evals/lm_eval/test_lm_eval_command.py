"""The command `sharedllm-lm-eval` end to end, and what the package declares to lm-eval."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import folders
import lm_eval.tasks
import pytest
import torch
import yaml
from lm_eval.api.registry import model_registry
from not_empty import not_empty

from evals.lm_eval import command as lm_eval_plugin
from evals.lm_eval.command import main, models, register

DOCUMENT = " ".join(f"The {colour} door leads to room {i}." for i, colour in enumerate(["red", "blue", "green"] * 3))


def test_entry_points_say_what_is_registered() -> None:
    project = tomllib.loads(folders.ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["lm_eval.models"] == models()
    assert project["scripts"]["sharedllm-lm-eval"] == "sharedllm.commands:lm_eval"
    register()
    for name, target in not_empty(models().items()):
        module, attribute = target.split(":")
        assert model_registry.get(name) is getattr(import_module(module), attribute)


class TestEndToEnd:
    """`sharedllm-lm-eval run` on local tasks with local rows."""

    @pytest.fixture
    def tasks(self, tmp_path: Path) -> Path:
        rows = tmp_path / "rows.jsonl"
        rows.write_text(
            "".join(
                json.dumps({"document": DOCUMENT, "question": f"Which door leads to room {i}?", "label": i % 3}) + "\n"
                for i in range(6)
            ),
            encoding="utf-8",
        )
        common = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(rows)}},
            "test_split": "test",
            "doc_to_text": "{{document}}\n\n{{question}}\nAnswer:",
        }
        choice = {
            "task": "local_choice",
            "output_type": "multiple_choice",
            "doc_to_choice": ["red", "blue", "green"],
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        words = {
            "task": "local_words",
            "output_type": "generate_until",
            "doc_to_target": "{{['red','blue','green'][label]}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        }
        for task in (choice, words):
            (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump({**common, **task}), encoding="utf-8")
        return tmp_path

    def run(
        self, monkeypatch: pytest.MonkeyPatch, tasks: Path, model: str, model_args: str, *more: str
    ) -> dict[str, Any]:
        output = tasks / f"out-{model}"
        arguments = ["run", "--model", model, "--model_args", model_args, *more]
        arguments += ["--tasks", "local_choice,local_words", "--include_path", str(tasks)]
        arguments += ["--output_path", str(output), "--log_samples"]
        monkeypatch.setattr(sys, "argv", ["sharedllm-lm-eval", *arguments])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        # Indexing the 14,000 built-in task files takes half a minute and is not what is tested.
        monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
        lm_eval_plugin.main()
        samples = [json.loads(line) for f in sorted(output.rglob("samples_*.jsonl")) for line in f.open()]
        (results,) = output.rglob("results_*.json")
        return {
            "results": json.loads(results.read_text())["results"],
            "answers": [(s["doc_id"], s["filtered_resps"]) for s in samples],
        }

    def test_scores_equal_those_of_hf(
        self, monkeypatch: pytest.MonkeyPatch, tasks: Path, tiny_llama: Path, tiny_presets: Callable[..., Path]
    ) -> None:
        cpu = ("--device", "cpu")
        ours = self.run(monkeypatch, tasks, "full-attention", f"preset={tiny_presets('full')},query_tokens=80", *cpu)
        theirs = self.run(monkeypatch, tasks, "hf", f"pretrained={tiny_llama},dtype=float32", *cpu)
        assert ours["results"] == theirs["results"]
        assert len(ours["answers"]) == len(theirs["answers"]) == 12
        for (i, mine), (j, other) in zip(ours["answers"], theirs["answers"], strict=True):
            assert i == j
            if isinstance(mine[0], str):
                assert mine == other
            else:
                assert [float(x) for x, _ in mine] == pytest.approx([float(x) for x, _ in other], abs=1e-3)

    def test_no_device_need_be_named_where_there_is_no_gpu(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tasks: Path,
        tiny_presets: Callable[..., Path],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        found = self.run(monkeypatch, tasks, "full-attention", f"preset={tiny_presets('full')}")
        assert len(found["answers"]) == 12
        assert sum("running on the CPU" in message for message in caplog.messages) == 1

    @pytest.mark.parametrize(
        ("model_args", "sentence"),
        [
            ("preset=streamingllm-136m", "did you mean streamingllm-135m"),
            ("preset=full-135m,query_tokens=abc", "query_tokens=abc is not a whole number"),
            ("preset=full-135m,query_tokens=-1", "query_tokens=-1.0 is not a whole number"),
        ],
    )
    def test_a_mistake_is_one_sentence(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tasks: Path,
        capsys: pytest.CaptureFixture[str],
        model_args: str,
        sentence: str,
    ) -> None:
        with pytest.raises(SystemExit) as exit_info:
            self.run(monkeypatch, tasks, "sharedllm-eval", model_args, "--device", "cpu")
        assert exit_info.value.code == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            "full-135m",
            "write --model sharedllm-eval --model_args preset=full-135m.",
        ),
        ("my.yaml", "my.yaml is a preset, not a model of lm-eval"),
        ("shared-eval", "Unknown model of lm-eval 'shared-eval': did you mean sharedllm-eval"),
    ],
)
def test_a_model_that_lm_eval_does_not_have_is_one_sentence(
    model: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sharedllm-lm-eval", "run", "--model", model, "--tasks", "arc_easy"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "name"),
    [({"dataset_path": "org/set", "dataset_name": "en"}, "org/set/en"), ({"dataset_path": "json"}, "json")],
)
def test_data_that_cannot_be_loaded_is_one_sentence_with_its_name(
    data: dict[str, str],
    name: str,
    tmp_path: Path,
    tiny_presets: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = {"task": "local_task", "output_type": "generate_until", "doc_to_text": "x", "doc_to_target": "y", **data}
    task |= {"test_split": "test", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "nowhere.jsonl")}}}
    (tmp_path / "local_task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    arguments = ["run", "--model", "full-attention", "--model_args", f"preset={tiny_presets('full')}"]
    arguments += ["--tasks", "local_task", "--include_path", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["sharedllm-lm-eval", *arguments])
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    with pytest.raises(SystemExit) as done:
        main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert done.value.code == 2
    assert last.startswith(f"sharedllm-lm-eval: The data set {name} of the task local_task cannot be read (")
    assert "HF_HOME" in last


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch, capsys) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError("Couldn't reach 'org/metric' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr("lm_eval._cli.harness.HarnessCLI.execute", unreachable)
    monkeypatch.setattr(sys, "argv", ["sharedllm-lm-eval", "ls", "tasks"])
    with pytest.raises(SystemExit) as done:
        main()
    err = capsys.readouterr().err
    assert done.value.code == 2
    assert "org/metric" in err
    assert "HF_HOME" in err
    assert len(err.strip().splitlines()) == 1
