"""Training: the loss, what is trained, an exact resume after kill -9, errors that people can act on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sharedllm import SharedLLMForCausalLM
from sharedllm.adapter import load_adapter
from sharedllm.training import loss, settings
from sharedllm.training.cli import main
from sharedllm.training.methods.sharedllm import select_trainable
from sharedllm.training.trainer import learning_rate

CHUNK = 64
NEEDLE_CHUNK = 320  # a needle takes some 60 bytes, and the tokenizer's tokens are bytes
METHOD = {"chunk_size": CHUNK, "ratios": [8, 1], "lower_layers": 2, "policy": "maxsim"}


# --- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_cross_entropy_with_its_gradients(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "ROWS", 7)  # several pieces
    torch.manual_seed(0)
    labels = torch.randint(23, (3, 11))
    labels[0, 4:8] = -100
    weights = torch.rand(3, 11) if weighted else None
    found = []
    for chunked in (True, False):
        torch.manual_seed(1)
        hidden, head = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 11, 5), (23, 5)))
        if chunked:
            value = loss.next_token_loss(hidden, head, labels, weights)
        else:
            logits = (hidden @ head.T)[:, :-1].flatten(0, 1)
            each = F.cross_entropy(logits.float(), labels[:, 1:].flatten(), reduction="none", ignore_index=-100)
            scale = torch.ones(30) if weights is None else weights[:, 1:].flatten()
            scale = scale * (labels[:, 1:].flatten() != -100)
            value = (each * scale).sum() / scale.sum()
        (2 * value).backward()
        found.append((value.detach(), hidden.grad, head.grad))
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine.double(), plain.double(), atol=1e-6, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head = torch.randn(1, 4, 5, requires_grad=True), torch.randn(9, 5)
    loss.next_token_loss(hidden, head, torch.randint(9, (1, 4))).backward()
    assert hidden.grad is not None
    assert head.grad is None


def test_schedule() -> None:
    chosen = settings.preset("small", steps=100, warmup=10, final_lr=0.02)
    rates = [learning_rate(step, chosen) for step in range(101)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.51)
    assert rates[100] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)


# --- what is trained --------------------------------------------------------------------------------------------


def test_trainable_groups(tiny_llama: Path) -> None:
    model = SharedLLMForCausalLM.from_base(str(tiny_llama), **METHOD)
    groups = select_trainable(model, ["cross_attention", "top"])
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.rsplit(".", 3)[0] if n[0] == "c" else n[:19] for n in trained} >= {"base.model.layers.2"}
    assert all(n.startswith(("cross_attention.", "base.model.layers.2.")) for n in trained)
    assert len(groups["lr"]) == 6
    assert len(groups["lr_base"]) == 9
    with pytest.raises(ValueError, match="set own_lower to train a copy"):
        select_trainable(model, ["lower"])
    with pytest.raises(
        ValueError, match="'head' cannot be trained: choose from cross_attention, joint_attention, top, lower"
    ):
        select_trainable(model, ["head"])
    own = SharedLLMForCausalLM.from_base(str(tiny_llama), **METHOD, own_lower=True)
    assert len(select_trainable(own, ["lower"])["lr_base"]) == 18


def test_the_papers_preset() -> None:
    paper = settings.preset("paper")
    assert paper.method["chunk_size"] * paper.chunks[0] + paper.running == 8192
    assert (paper.lr, paper.lr_base, paper.betas, paper.final_lr) == (1e-5, 1e-5, (0.9, 0.999), 0.0)
    assert paper.trainable == ["cross_attention", "top"]
    assert paper.warmup == 0.01 * paper.steps
    assert paper.method["ratios"] == [16, 8, 4]
    assert paper.method["split_noise"] == 0.2
    assert paper.windows * paper.accumulate * 8 == 128, "global batch on 8 GPUs"
    assert paper.steps * 128 * 8192 == pytest.approx(20e9, rel=0.01), "20B tokens"
    assert settings.preset("joint").trainable == ["joint_attention"]
    for name in ("small", "needle"):
        assert settings.preset(name).trainable == ["cross_attention"]


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with a head whose logits can grow, so that there is something to learn in few steps."""
    folder = tmp_path_factory.mktemp("base")
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def train(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs sharedllm-train in this process: (exit code, stdout, stderr)."""
    torch.set_num_threads(1)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sharedllm-train", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        out, err = capfd.readouterr()
        return int(exit_info.value.code or 0), out, err

    return run


def options(base: Path, texts: Path, steps: int = 16) -> list[str]:
    """Everything at once: two files, needles, dropped contexts, split noise, top layers, accumulation."""
    return [
        *("--base", str(base), "--data", str(texts / "words.txt"), "--data", str(texts / "rows.jsonl.xz")),
        *("--weight", "1", "--weight", "2", "--steps", str(steps), "--log-every", "2", "--checkpoint-every", "4"),
        *("--set", f"method={json.dumps({**METHOD, 'chunk_size': NEEDLE_CHUNK, 'split_noise': 0.1})}"),
        *("--set", "needles=[{windows: 2, chunks: 2, needles: 2, questions: 2, share: 0.3}]"),
        *("--set", "trainable=[cross_attention, top]", "--set", "lr_base=0.01", "--set", "warmup=2"),
        *("--set", "windows=4", "--set", "chunks=[1, 2]", "--set", "running=64", "--set", "needle_running=500"),
        *("--set", "drop_context=0.2", "--set", "accumulate=2", "--set", "seed=3"),
    ]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for f in sorted((folder / "adapter").glob("*.safetensors")) for n, t in load_file(f).items()}


def test_joint_attention_is_trained_alike_in_every_run(
    base: Path, texts: Path, tmp_path: Path, train: Callable[..., tuple[int, str, str]]
) -> None:
    method = {**METHOD, "chunk_size": NEEDLE_CHUNK, "lower_layers": 3, "attention": "joint", "fine_recent": 1}
    command = [
        *("--base", base, "--data", texts / "words.txt", "--preset", "joint", "--steps", 6, "--log-every", 3),
        *("--set", f"method={json.dumps(method)}", "--set", "needle_running=500", "--set", "windows=4"),
        *("--set", "needles=[{windows: 2, chunks: 2, needles: 2, questions: 2, share: 0.3}]"),
        *("--set", "chunks=[1, 2]", "--set", "running=64", "--set", "warmup=1", "--set", "lr=0.01"),
    ]
    made = []
    for name in ("one", "other"):
        code, _, error = train(*command, "--output", tmp_path / name)
        assert code == 0, error
        made.append(adapter(tmp_path / name))
        torch.manual_seed(hash(name) % 100)  # what ran before in the process must not matter
    assert len(made[0]) == 3 * 6
    assert all(name.startswith("joint_attention.") for name in made[0])
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert all(tensor.abs().max() > 0 for tensor in made[0].values()), "it was trained"


def test_a_run_learns_and_a_killed_one_resumes_to_the_same_weights(
    base: Path, texts: Path, tmp_path: Path, train: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = options(base, texts)
    held = ["--heldout", str(texts / "others.jsonl.gz")]
    code, out, err = train(*arguments, *held, "--output", tmp_path / "whole")
    assert code == 0, err
    summary = json.loads(out.splitlines()[-1])
    assert summary["finished"]
    assert summary["step"] == 16
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log] == list(range(2, 17, 2))
    curve = [e["loss"]["lm"] for e in log if "lm" in e["loss"]]
    assert curve[-1] < curve[0] - 0.3
    assert {k for e in log for k in e["loss"]} == {"lm", "needle 2", "no context"}
    assert set(summary["evaluation"]["language modelling"]["mean"]) == {"own", "other", "none", "use"}
    assert summary["evaluation"]["needles"]["2"]["windows"] == 64
    assert "step 16/16  loss" in err
    assert (tmp_path / "whole" / "loss.svg").stat().st_size > 1000
    card = (tmp_path / "whole" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "| language modelling, mean, use |" in card
    assert "base_model:" not in card  # it is a folder here
    assert str(base.parent) not in card

    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "sharedllm.training.cli", *arguments, "--output", str(folder)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < stopped < 16
    assert not (folder / "adapter").exists()
    code, out, err = train(*arguments, "--output", folder)
    assert code == 0
    assert f"step {stopped + 2}/16" in err
    assert "step 2/16" not in err
    mine, expected = adapter(folder), adapter(tmp_path / "whole")
    assert mine.keys() == expected.keys()
    assert any(n.startswith("base.model.layers.2.") for n in mine)
    assert all(torch.equal(mine[n], expected[n]) for n in mine)

    code, out, err = train(*arguments, "--output", folder, "--set", "lr=0.1")
    assert (code, out) == (2, "")
    assert "holds a run with other settings or data: choose another --output" in err

    model = load_adapter(folder / "adapter", AutoModelForCausalLM.from_pretrained(base))
    assert model.config.ratios == [8, 1]
    assert model.config.chunk_size == NEEDLE_CHUNK
    further = options(base, texts, steps=2)
    del further[further.index("--set") : further.index("--set") + 2]  # the method is the adapter's
    further += ["--set", "method={policy: right}", "--init", str(folder / "adapter")]
    code, out, err = train(*further, "--output", tmp_path / "second")
    assert code == 0, err
    record = json.loads((tmp_path / "second" / "adapter" / "sharedllm_adapter.json").read_text())
    assert record["settings"]["policy"] == "right"
    assert record["settings"]["chunk_size"] == NEEDLE_CHUNK


def test_time_limit_stops_with_a_checkpoint(
    base: Path, texts: Path, tmp_path: Path, train: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = train(*options(base, texts), "--output", tmp_path, "--max-seconds", "0")
    summary = json.loads(out.splitlines()[-1])
    assert code == 0
    assert not summary["finished"]
    assert summary["step"] == 1
    assert summary["evaluation"] == {}
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 1


def test_fine_tuning_by_command(base: Path, tmp_path: Path, train: Callable[..., tuple[int, str, str]]) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"context": f"{i} " * 100, "question": "Which?", "answer": f"It is {i}."} for i in range(5)]
    path.write_text(
        "".join(json.dumps({**row, "context": "" if i == 0 else row["context"]}) + "\n" for i, row in enumerate(rows))
    )
    code, _, err = train(
        *("--base", base, "--data", path, "--output", tmp_path / "run", "--steps", "12", "--log-every", "1"),
        *("--set", "mode=sft", "--set", "sft_batch=2", "--set", "sft_running=120", "--set", "sft_max_chunks=2"),
        *("--set", f"method={json.dumps(METHOD)}", "--set", "warmup=1", "--set", "lr=0.01"),
    )
    assert code == 0, err
    losses = [json.loads(line)["loss"]["sft"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 12
    assert min(losses[-3:]) < losses[0]


def test_what_does_not_fit_ends_with_one_sentence(
    base: Path, texts: Path, tmp_path: Path, train: Callable[..., tuple[int, str, str]]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"txt": 1}\n', encoding="utf-8")
    cut = tmp_path / "cut.jsonl.xz"
    cut.write_bytes((texts / "rows.jsonl.xz").read_bytes()[:-20])
    latin1 = tmp_path / "latin1.txt"
    latin1.write_bytes("Grüße".encode("latin-1"))
    good = ["--base", str(base), "--data", str(texts / "words.txt"), "--output", str(tmp_path / "run")]
    method = ["--set", f"method={json.dumps(METHOD)}"]
    mean = Path(shutil.copy(texts / "others.jsonl.gz", tmp_path / "mean.jsonl.gz"))
    held = ["--heldout", str(texts / "others.jsonl.gz")]
    far = [
        *("--set", f"method={json.dumps({**METHOD, 'chunk_size': NEEDLE_CHUNK})}", "--set", "chunks=[1]"),
        *("--set", "running=64", "--set", "needle_running=500"),
        *("--set", "needles=[{windows: 1, chunks: 30, needles: 1, questions: 1, share: 1}]"),
    ]
    seldom = [*method, "--set", "needles=[{windows: 1, chunks: 1, needles: 1, questions: 1, share: 0.001}]"]
    cases: list[tuple[list[str], str]] = [
        ([*good, "--preset", "big"], "Unknown training preset 'big': known are joint, needle, paper, small"),
        ([*good, "--set", "stepps=3"], "There is no setting stepps: did you mean steps?"),
        (
            [*good, "--set", "injection_start=1", "lower_layers=2"],
            'injection_start, lower_layers: options of the method go in one setting, --set "method={chunk_size: 1024, '
            'ratios: [64, 32, 16, 1], lower_layers: 2, injection_start: 1, policy: maxsim, leaf_overlap: 16}".',
        ),
        ([*good, "--set", "steps=many"], "The setting steps does not fit: expected a whole number, found 'many'."),
        ([*good, "--set", "lr=0"], "The setting lr does not fit: expected more than 0, found 0."),
        ([*good, "--set", "windows=true"], "The setting windows does not fit: expected a whole number, found true."),
        ([*good, "--set", "betas=[0.9, true]"], "The setting betas.1 does not fit"),
        ([*good, "--set", "steps"], "--set steps is not key=value"),
        ([*good, "--set", "windows=0"], "The setting windows does not fit: expected 1 or more, found 0."),
        ([*good, "--set", "chunks=[]"], "The setting chunks does not fit: expected 1 or more entries, found []."),
        (
            [*good, "--set", "gap_share=2"],
            "The setting gap_share does not fit: expected 1 or less, found 2.",
        ),
        ([*good, "--set", "steps=[1"], "--set steps: the value [1 cannot be used, it is not valid YAML"),
        ([*good, "--set", "method={lower_layers: two}"], "lower_layers: expected a whole number, found 'two'."),
        ([*good, "--set", "method={injection_start: null}"], "injection_start: expected a whole number, found null."),
        ([*good, "--set", "method={rations: [1]}"], "SharedLLM has no setting 'rations': choose from chunk_size"),
        ([*good, "--set", "method={lower_layers: 9}"], "lower_layers is 9: the base model has 1 to 3 layers"),
        ([*good, *method, "--data", "nowhere.txt"], "There is no data file nowhere.txt"),
        ([*good, *method, "--heldout", "nowhere.txt"], "There is no data file nowhere.txt"),
        ([*good, *method, "--data", str(bad)], f"{bad}, line 2: not a JSON object with a field 'text'"),
        ([*good, *method, "--data", str(cut)], f"{cut} is not a whole .xz archive"),
        ([*good, *method, "--data", str(latin1)], f"{latin1}, line 1: not UTF-8"),
        ([*good, *method, "--heldout", str(bad)], f"{bad}, line 2: not a JSON object with a field 'text'"),
        ([*good, *method, "--heldout", str(texts / "words.txt")], "Too few documents of words have"),
        ([*good, *far, *held], "No document in others has 9600 tokens"),
        ([*good, *method, "--set", "chunks=[900]"], "No document in words has"),
        ([*good, *far, "--set", "needle_running=9600", *held], "No document in others has 9600 tokens"),
        ([*good, *seldom, "--set", "needle_running=60"], "1 questions take"),
        ([*good, *seldom, *held], "4 needles of one chunk take"),
        ([*good, *method, *held, *held], "Two of the held-out results would be named 'others'"),
        ([*good, *method, "--heldout", str(mean)], "Two of the held-out results would be named 'mean'"),
        ([*good, *method, "--set", "trainable=[head]"], "'head' cannot be trained"),
        (good[:2] + good[4:] + method, "There is nothing to learn from: give --data"),
    ]
    for arguments, message in cases:
        code, out, err = train(*arguments)
        last = err.splitlines()[-1]
        assert (code, out) == (2, ""), message
        assert last.startswith(f"sharedllm-train: {message}"), err
        assert not (tmp_path / "run" / "run.json").exists(), "a start that failed does not take the folder"
