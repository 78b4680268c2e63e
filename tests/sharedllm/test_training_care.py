"""Training's care: one writer, signals that leave a checkpoint, a full disk that loses nothing, texts in pieces."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from released import write_json_release

from evals.methods.tokenizers import load_tokenizer as evaluated
from sharedllm.errors import UserError
from sharedllm.files import write_text, write_whole
from sharedllm.plain_yaml import assignments
from sharedllm.training.batches import Batch, stream
from sharedllm.training.checkpoint import LogEntry
from sharedllm.training.cli import main
from sharedllm.training.files import Files
from sharedllm.training.interruption import Interrupted, Interruption
from sharedllm.training.loading import load_tokenizer as trained
from sharedllm.training.plot import plot_log
from sharedllm.training.run import Pace, run
from sharedllm.training.settings import preset
from sharedllm.training.texts import pieces

METHOD = "method={chunk_size: 64, ratios: [8, 4, 2], lower_layers: 2}"


def options(base: Path, texts: Path, output: Path, steps: int) -> list[str]:
    usual = ["--set", METHOD, "--set", "chunks=[2]", "--set", "running=64", "--set", "windows=2", "--steps", str(steps)]
    files = ["--base", str(base), "--data", str(texts / "words.txt"), "--output", str(output), "--log-every", "1"]
    return [*files, *usual]


def start(base: Path, texts: Path, output: Path, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sharedllm.training.cli", *options(base, texts, output, steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            return
    raise AssertionError("it never took a step")


def test_a_second_writer_is_refused_and_a_signal_leaves_a_checkpoint(
    tiny_llama: Path, texts: Path, tmp_path: Path
) -> None:
    first = start(tiny_llama, texts, tmp_path / "run", steps=10**6)
    wait_for_steps(first)
    second = start(tiny_llama, texts, tmp_path / "run", steps=10**6)
    _, message = second.communicate(timeout=300)
    assert second.returncode == 2
    assert "Another sharedllm-train is writing to" in message.splitlines()[-1]
    first.send_signal(signal.SIGTERM)
    out, message = first.communicate(timeout=300)
    assert (first.returncode, out) == (143, "")
    step = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    last = f"sharedllm-train: Interrupted after step {step}, which is saved: the same command goes on from there."
    assert message.splitlines()[-1] == last


def test_a_signal_waits_for_the_step_and_a_second_one_does_not() -> None:
    interruption = Interruption()
    with interruption.after_the_step():
        interruption(signal.SIGTERM, None)
        with pytest.raises(Interrupted) as error:
            interruption(signal.SIGINT, None)
    assert error.value.exit_code == 130
    with pytest.raises(Interrupted, match="goes on from the last checkpoint") as error:
        Interruption()(signal.SIGTERM, None)
    assert error.value.exit_code == 143


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_text(path, "before")

    def full(partial: Path) -> None:
        partial.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ValueError, match="cannot be written \\(No space left on device\\)"):
        write_whole(path, full)
    assert path.read_text(encoding="utf-8") == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("write", [lambda p: torch.save({"a": torch.zeros(9)}, p), lambda p: p.write_text("a" * 9999)])
def test_libraries_say_that_the_disk_is_full(write: Any, tmp_path: Path) -> None:
    def onto_a_full_disk(partial: Path) -> None:
        partial.symlink_to("/dev/full")
        write(partial)

    with pytest.raises(ValueError, match="cannot be written"):
        write_whole(tmp_path / "checkpoint.pt", onto_a_full_disk)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_plot_on_a_full_disk_is_one_sentence_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, *_: object, **__: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, *given, **more: full(*given, **more))
    log: list[LogEntry] = [{"step": 1, "loss": {"lm": 2.0}, "grad_norm": 1.0, "tokens_per_s": 1}]
    with pytest.raises(UserError, match=r"loss\.png cannot be written \(No space left on device\)"):
        plot_log(log, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, OSError, KeyError])
def test_a_bug_in_training_keeps_its_traceback(
    error: type[Exception], tiny_llama: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise error("a bug of ours")

    monkeypatch.setattr("sharedllm.training.trainer.Trainer._report", bug)
    monkeypatch.setattr(sys, "argv", ["sharedllm-train", *options(tiny_llama, texts, tmp_path / "run", steps=1)])
    with pytest.raises(error, match="a bug of ours"):
        main()
    assert not multiprocessing.active_children(), "they ignore SIGTERM, and Python would wait for them"


def test_a_bug_in_a_batch_keeps_its_traceback() -> None:
    def make(step: int) -> Batch:
        raise ValueError("a bug of ours")

    with pytest.raises(ValueError, match=r"(?s)in make.*a bug of ours"):
        next(stream(make, 0, 1, workers=1))
    assert not multiprocessing.active_children()


def test_what_a_person_did_is_still_a_value_error() -> None:
    assert issubclass(UserError, ValueError)
    with pytest.raises(ValueError, match="--set lr is not key=value"):
        assignments(["lr"])


def test_a_folder_that_cannot_be_made_is_one_sentence(tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output, says in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "run", "cannot be used (Not a directory)"),
        (tmp_path / ("x" * 300), "cannot be used (File name too long)"),
    ):
        files = Files(str(tiny_llama), [texts / "words.txt"], [], [], None, output)
        with pytest.raises(UserError, match=re.escape(says)):
            run(preset("small"), files, Pace(), Interruption())


@pytest.mark.parametrize("text", ["", "a b\n" * 40, "word " * 500, "x" * 1234, "x" * 60 + "\n" + "y z " * 300])
def test_texts_of_any_length_are_cut_into_short_pieces(text: str) -> None:
    cut = pieces(text, size=20, longest=100)
    assert "".join(cut) == text
    assert all(0 < len(piece) <= 100 for piece in cut)
    if "word" in text:
        assert all(piece.startswith(" ") for piece in cut[1:]), "words are not cut"


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_training_sees_the_ids_that_evaluation_sees(tokenizer_class: str, tmp_path: Path) -> None:

    file = write_json_release(tmp_path, tokenizer_class)
    for text in ("a  b\n c", "x1 y", "  z"):
        ids = trained(str(tmp_path))(text, add_special_tokens=False)["input_ids"]
        assert ids == evaluated(tmp_path)(text, add_special_tokens=False)["input_ids"]
        assert ids == file.encode(text, add_special_tokens=False).ids
