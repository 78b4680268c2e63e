"""Training with bad settings, data and bases: one sentence and exit code 2."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import LAYER, Damage, Train, arguments, refused, tensors

# --- settings ---------------------------------------------------------------------------------------------------

HUGE = "9" * 30
SETTINGS = [
    *(
        f"{name}={value}"
        for name in ("lr", "lr_base", "weight_decay", "clip", "final_lr")
        for value in (".nan", ".inf", -1)
    ),
    *(f"{name}={HUGE}" for name in ("steps", "windows", "running", "max_chunks", "accumulate", "seed", "warmup")),
    *(f"{name}={value}" for name in ("gap_share", "drop_context", "repeat_share") for value in (-0.1, 1.5, ".nan")),
    *(f"{name}=0" for name in ("steps", "windows", "running", "accumulate", "sft_batch")),
    *(
        "windows=999999999999",
        "windows=1000000",
        "running=1048576",
        "chunks=[1048576]",
        "chunks=[0]",
        f"chunks=[{HUGE}]",
    ),
    *(
        "betas=[1, 0.9]",
        "betas=[.nan, 0.9]",
        "betas=[0.9]",
        "lr=1e308",
        "trainable=[]",
        "trainable=[head]",
        "dtype=int8",
    ),
    *(
        "trainable=[lower]",
        "mode=rl",
        "seed=-1",
        "steps=1.5",
        "steps=[1]",
        "compile=maybe",
        "nothing=1",
        "lr=" + "9" * 5000,
    ),
    "needles=[{windows: 1, chunks: 2, needles: 2, questions: 5, share: 0.5}]",
    "needles=[{windows: 1, chunks: 2, needles: 2, questions: 2, share: 0.7}, "
    "{windows: 1, chunks: 2, needles: 2, questions: 2, share: 0.7}]",
    *("needles=[{}]", "needles=3", "method=3", "method=[1]", "method={chunk_size: .nan}", "method={ratios: [.inf]}"),
    *(f"method={{chunk_size: {HUGE}}}", "method={chunk_size: 64, leaf_overlap: 9999}", "method={policy: best}"),
    "method={chunk_size: 64, ratios: [8, 4, 2], lower_layers: 3, split_noise: -1}",
    "=3",
    "lr",
    "lr=&a [*a]",
    "lr=" + "[" * 5000,
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s[:40])
def test_settings_out_of_range(setting: str, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    given = arguments(tiny_llama, texts / "words.txt", tmp_path / "run", "--set", setting)
    if setting.startswith("steps"):
        del given[given.index("--steps") : given.index("--steps") + 2]
    result = train(*given)
    refused(result, "sharedllm-train: ")
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--max-seconds", value) for value in ("nan", "inf", "-1")),
        *(("--weight", value) for value in ("-1", "nan", "inf", "0")),
        *(("--shard-mb", "-1"), ("--shard-mb", "0"), ("--log-every", "0"), ("--checkpoint-every", "-3")),
        *(("--steps", "0"), ("--steps", "-1"), ("--steps", HUGE), ("--preset", "../small"), ("--preset", "")),
        *(("--data", "x" * 300), ("--data", "."), ("--data", ""), ("--init", "nowhere"), ("--heldout", "/dev/null")),
    ],
)
def test_options_out_of_range(
    option: str, value: str, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train
) -> None:
    code, out, last = train(*arguments(tiny_llama, texts / "words.txt", tmp_path / "run", option, value))
    assert (code, out) == (2, ""), last
    assert "Traceback" not in last


# --- data -------------------------------------------------------------------------------------------------------


def npz(**arrays: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


def zeros(path: Path) -> None:
    """A small file that unpacks to half a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("ids.npy", "starts.npy"):
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(8):
                    file.write(bytes(1 << 20))


IDS, ENDS = np.arange(2000) % 250, np.array([0, 2000])
DATA: dict[str, tuple[str, Damage, str]] = {
    "empty text": ("d.txt", lambda p: p.write_bytes(b""), "holds no text"),
    "mark alone": ("d.txt", lambda p: p.write_bytes(b"\xef\xbb\xbf"), "holds no text"),
    "utf-16": ("d.txt", lambda p: p.write_text("words " * 900, encoding="utf-16"), "not UTF-8"),
    "empty row": ("d.jsonl", lambda p: p.write_text('{"text": ""}\n'), "holds no text"),
    "no rows": ("d.jsonl", lambda p: p.write_text(""), "holds no text"),
    "list row": ("d.jsonl", lambda p: p.write_text("[1]\n"), "line 1: not a JSON object"),
    "null row": ("d.jsonl", lambda p: p.write_text('{"text": null}\n'), "is not a string"),
    "deep row": ("d.jsonl", lambda p: p.write_text("[" * 100_000), "line 1: not a JSON object"),
    "surrogate": ("d.jsonl", lambda p: p.write_text('{"text": "\\ud800"}'), "half a surrogate pair"),
    "cut gz": ("d.jsonl.gz", lambda p: p.write_bytes(gzip.compress(b'{"text": "x"}\n' * 900)[:-9]), "not a whole .gz"),
    "cut xz": ("d.jsonl.xz", lambda p: p.write_bytes(lzma.compress(b'{"text": "x"}\n' * 900)[:-9]), "not a whole .xz"),
    "short": ("d.txt", lambda p: p.write_text("words"), "No document in d has"),
    "ids beyond": ("d.tokens.npz", npz(ids=IDS + 5000, starts=ENDS), "holds ids from 5000 to"),
    "negative ids": ("d.tokens.npz", npz(ids=IDS - 9, starts=ENDS), "holds ids from -9 to"),
    "float ids": ("d.tokens.npz", npz(ids=IDS * 1.0, starts=ENDS), "not lists of whole numbers"),
    "bool ids": ("d.tokens.npz", npz(ids=IDS > 3, starts=ENDS), "not lists of whole numbers"),
    "table": ("d.tokens.npz", npz(ids=IDS.reshape(2, -1), starts=ENDS), "not lists of whole numbers"),
    "starts beyond": ("d.tokens.npz", npz(ids=IDS, starts=np.array([0, 9000])), "do not rise from 0"),
    "starts float": ("d.tokens.npz", npz(ids=IDS, starts=ENDS * 1.0), "not lists of whole numbers"),
    "starts fall": ("d.tokens.npz", npz(ids=IDS, starts=np.array([0, 1500, 900, 2000])), "do not rise from 0"),
    "starts late": ("d.tokens.npz", npz(ids=IDS, starts=np.array([5, 2000])), "do not rise from 0"),
    "starts huge": ("d.tokens.npz", npz(ids=IDS, starts=np.array([0, 2**64 - 1], np.uint64)), "do not rise from 0"),
    "no starts": ("d.tokens.npz", npz(ids=IDS), "not a whole file of token ids"),
    "no ids": ("d.tokens.npz", npz(ids=IDS[:0], starts=np.array([0, 0])), "holds no text"),
    "objects": ("d.tokens.npz", npz(ids=np.array([{}, 1]), starts=ENDS), "not a whole file of token ids"),
    "not a zip": ("d.tokens.npz", lambda p: p.write_bytes(b"PK"), "not a whole file of token ids"),
    "bomb": ("d.tokens.npz", zeros, "not a whole file of token ids"),
}


@pytest.mark.parametrize("kind", DATA)
def test_bad_training_data(kind: str, tiny_llama: Path, tmp_path: Path, train: Train) -> None:
    name, write, says = DATA[kind]
    write(tmp_path / name)
    result = train(*arguments(tiny_llama, tmp_path / name, tmp_path / "run"))
    refused(result, says)
    assert name in result[2] or kind == "short"


def test_a_name_that_is_not_utf8_is_a_name(tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xff.txt"))
    shutil.copy(texts / "words.txt", data)
    code, _, last = train(*arguments(tiny_llama, data, tmp_path / "run"))
    assert code == 0, last
    code, _, last = train(*arguments(tiny_llama, data, tmp_path / "run", steps=3))
    assert code == 0, last


def test_a_byte_order_mark_is_not_text(tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    losses = []
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "d.txt").write_bytes(mark + (texts / "words.txt").read_bytes())
        code, out, last = train(*arguments(tiny_llama, tmp_path / "d.txt", tmp_path / f"run{len(mark)}"))
        assert code == 0, last
        losses.append(json.loads(out.splitlines()[-1])["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "row", ['{"context": "a"}', "[]", '{"context": "\\udc00", "question": "b", "answer": "c"}', ""]
)
def test_bad_examples(row: str, tiny_llama: Path, tmp_path: Path, train: Train) -> None:
    (tmp_path / "d.jsonl").write_text(row)
    refused(train(*arguments(tiny_llama, tmp_path / "d.jsonl", tmp_path / "run", "--set", "mode=sft")), "d.jsonl")


# --- the base ---------------------------------------------------------------------------------------------------


def config(**fields: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


BASES: dict[str, tuple[Damage, str]] = {
    "missing tensor": (tensors(lambda t: t.pop(LAYER)), f"lacks {LAYER}"),
    "unknown tensor": (tensors(lambda t: t.update(extra=torch.zeros(2))), "does not know: extra"),
    "other shape": (tensors(lambda t: t.update({LAYER: torch.zeros(2, 2)})), ""),
    "not finite": (tensors(lambda t: t[LAYER].fill_(float("nan"))), f"values in {LAYER} that are not finite"),
    "cut weights": (lambda f: os.truncate(f / "model.safetensors", 900), "cannot be read"),
    "pointer": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"), "read"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be read"),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot be read"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "The tokenizer of"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "The tokenizer of"),
    "small embedding": (config(vocab_size=100), ""),
    "other family": (config(model_type="gpt2"), ""),
    "unknown family": (config(model_type="nonsense"), "cannot be read"),
    "broken config": (lambda f: (f / "config.json").write_text("[" * 9999), ""),
}


@pytest.mark.parametrize("kind", BASES)
def test_bad_bases(kind: str, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    damage, says = BASES[kind]
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    damage(base)
    refused(train(*arguments(base, texts / "words.txt", tmp_path / "run")), says)


def test_a_tokenizer_larger_than_the_embedding(tiny_llama: Path, texts: Path, tmp_path: Path, train: Train) -> None:
    from transformers import AutoTokenizer

    base = shutil.copytree(tiny_llama, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(9)])
    tokenizer.save_pretrained(base)
    refused(train(*arguments(base, texts / "words.txt", tmp_path / "run")), "they do not belong together")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_never_runs(
    file: str, tiny_llama: Path, texts: Path, tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, mark = shutil.copytree(tiny_llama, tmp_path / "base"), tmp_path / "mark"
    (base / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    classes = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    stored = json.loads((base / file).read_text())
    stored |= {"auto_map": classes, "model_type": "evil", "tokenizer_class": "Evil"}
    (base / file).write_text(json.dumps(stored))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    train(*arguments(base, texts / "words.txt", tmp_path / "run"))
    assert not mark.exists()
