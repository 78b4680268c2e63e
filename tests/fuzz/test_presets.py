"""Preset files of every bad kind: one sentence each, no traceback, nothing accepted that makes no sense, no hang."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from shapes import TINY_SHAPE

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import load_preset
from evals.methods.weights import load_base

GOOD: dict[str, Any] = {
    "name": "p",
    "method": "full",
    "description": "a preset",
    "weights": {"source": "nowhere"},
    "shape": TINY_SHAPE,
}
LETTERS = "abcdefghijklm"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise(LETTERS)
)


def attempt(text: str | bytes, folder: Path) -> None:
    """Load a preset file and build its model with random weights."""
    path = folder / "p.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    preset = load_preset(str(path))
    load_base(preset.weights, Runtime(random_weights=True, offline=True), preset.shape)


def dump(**changes: Any) -> str:
    fields = {**GOOD, **changes}
    return yaml.safe_dump({key: value for key, value in fields.items() if value is not ...}, allow_unicode=True)


def shape(**changes: Any) -> str:
    return dump(shape={**TINY_SHAPE, **changes})


def source(text: Any) -> str:
    return dump(weights={"source": text})


def with_shape(lines: str) -> str:
    """A preset whose shape has further lines of YAML, which `safe_dump` would not write."""
    return dump(shape=...) + "shape:\n" + "".join(f"  {key}: {value}\n" for key, value in TINY_SHAPE.items()) + lines


REFUSED = {
    # sources
    "hub nothing": source("hub:"),
    "hub three parts": source("hub:a/b/c"),
    "hub space": source("hub:a b/c"),
    "hub dots": source("hub:a/../b"),
    "hub dashes": source("hub:a/b--c"),
    "hub long": source("hub:" + "a" * 200),
    "hub leading dot": source("hub:.a/b"),
    "hub unicode": source("hub:é/b"),
    "hub URL": source("hub:https://huggingface.co/a/b"),
    "package above": source("package:../x"),
    "package dotted": source("package:nope.x"),
    "package nothing": source("package:"),
    "package slash": source("package:/etc"),
    "package above inside": source("package:yaml/../../x"),
    "package option": source("package:--help"),
    "package missing adapter": dump(adapter={"source": "package:nope.x/y"}),
    "adapter nothing": dump(adapter={"source": ""}),
    "source long": source("x" * 5000),
    "source long part": source("x" * 300),
    "source nothing": source(""),
    "source spaces": source("   "),
    "source number": source(3),
    "source list": source(["a"]),
    "source null": source(None),
    "source line break": source("a\nb"),
    "source control": source("a\x07b"),
    "source NUL": 'name: p\nmethod: full\ndescription: d\nweights: {source: "a\\0b"}\n',
    "source direction mark": source("a\u202eb"),
    "weights text": dump(weights="hub:a/b"),
    "weights list": dump(weights=[]),
    "weights extra": dump(weights={"source": "a", "sauce": "b"}),
    "weights without source": dump(weights={}),
    "revision option": dump(weights={"source": "hub:a/b", "revision": "--x"}),
    "revision spaces": dump(weights={"source": "hub:a/b", "revision": "a b"}),
    "revision number": dump(weights={"source": "hub:a/b", "revision": 3}),
    "gated text": dump(weights={"source": "a", "gated": "perhaps"}),
    "gated number": dump(weights={"source": "a", "gated": 1}),
    # names and texts
    "name empty": dump(name=""),
    "name number": dump(name=3),
    "name null": dump(name=None),
    "name missing": dump(name=...),
    "name markup": dump(name="[/b]"),
    "name path": dump(name="../../etc/passwd"),
    "name comma": dump(name="a,b"),
    "name line break": dump(name="a\nb"),
    "name escape": dump(name="a\x1b[31m"),
    "name direction mark": dump(name="a\u202egnp"),
    "name long": dump(name="a" * 101),
    "name of dots": dump(name=".."),
    "description list": dump(description=["a"]),
    "description escape": dump(description="a\x1b]0;x\x07"),
    "description long": dump(description="a" * 3000),
    "method null": dump(method=None),
    "unknown field": dump(colour="red"),
    # window and settings
    "window negative": dump(max_context=-5),
    "window 0": dump(max_context=0),
    "window huge": dump(max_context=10**30),
    "window large": dump(max_context=2**40),
    "window text": dump(max_context="512"),
    "window float": dump(max_context=512.0),
    "window true": dump(max_context=True),
    "window NaN": dump(max_context=float("nan")),
    "window list": dump(max_context=[1]),
    "settings list": dump(settings=[1]),
    "settings text": dump(settings="a"),
    "settings NaN": dump(settings={"side": float("nan")}),
    "settings infinite": dump(settings={"side": [float("-inf")]}),
    "settings huge": dump(settings={"side": 10**40}),
    "settings of numbers": dump(settings={1: 2}),
    # shapes
    "shape list": dump(shape=[1]),
    "shape text": dump(shape="llama"),
    "shape empty": dump(shape={}),
    "shape type int": shape(model_type=3),
    "shape type unknown": shape(model_type="nosuch"),
    "shape type path": shape(model_type="../x"),
    "shape bert": shape(model_type="bert"),
    "shape t5": dump(shape={"model_type": "t5"}),
    "shape vision": dump(shape={"model_type": "vit"}),
    "shape hidden -1": shape(hidden_size=-1),
    "shape hidden 0": shape(hidden_size=0),
    "shape hidden none": shape(hidden_size=None),
    "shape hidden float": shape(hidden_size=32.5),
    "shape hidden text": shape(hidden_size="32"),
    "shape hidden true": shape(hidden_size=True),
    "shape hidden huge": shape(hidden_size=10**12),
    "shape hidden odd": shape(hidden_size=33),
    "shape heads 0": shape(num_attention_heads=0),
    "shape groups 3": shape(num_key_value_heads=3),
    "shape groups 0": shape(num_key_value_heads=0),
    "shape layers 0": shape(num_hidden_layers=0),
    "shape layers -3": shape(num_hidden_layers=-3),
    "shape layers huge": shape(num_hidden_layers=10**7),
    "shape vocabulary 0": shape(vocab_size=0),
    "shape vocabulary small": shape(vocab_size=100),
    "shape vocabulary huge": shape(vocab_size=10**9),
    "shape positions 0": shape(max_position_embeddings=0),
    "shape positions text": shape(max_position_embeddings="many"),
    "shape intermediate 0": shape(intermediate_size=0),
    "shape eps NaN": shape(rms_norm_eps=float("nan")),
    "shape eps text": shape(rms_norm_eps="small"),
    "shape eps negative": shape(rms_norm_eps=-1e-5),
    "shape eps 1": shape(rms_norm_eps=1.0),
    "shape rope junk": shape(rope_parameters={"rope_type": "junk"}),
    "shape rope text": shape(rope_parameters="junk"),
    "shape rope theta": shape(rope_parameters={"rope_type": "default", "rope_theta": "x"}),
    "shape rope theta 0": shape(rope_parameters={"rope_type": "default", "rope_theta": 0}),
    "shape rope theta negative": shape(rope_parameters={"rope_type": "default", "rope_theta": -1.0}),
    "shape activation": shape(hidden_act="junk"),
    "shape activation number": shape(hidden_act=3),
    "shape quantised": shape(quantization_config={"quant_method": "bitsandbytes"}),
    "shape head size 0": shape(head_dim=0),
    "shape head size odd": shape(head_dim=7),
    "shape date": with_shape("  released: 2024-01-09\n"),
    "shape typing error": shape(num_hidden_layer=2),
    "shape date as heads": with_shape("  head_dim: 2024-01-09\n"),
    "shape set": with_shape("  layers: !!set {a, b}\n"),
    "shape binary": with_shape("  data: !!binary aGVsbG8=\n"),
    "shape mixed keys": with_shape("  1: 2\n"),
    "shape null key": with_shape("  null: 2\n"),
    "shape within itself": dump(shape=...) + "shape: &a\n  model_type: llama\n  self: *a\n",
    "shape of the aliases": dump(shape=...) + f"shape:\n  model_type: llama\n  {BOMB.replace(chr(10), chr(10) + '  ')}",
    "shape deep": dump(shape=...) + "shape: {model_type: llama, a: " + "[" * 400 + "]" * 400 + "}\n",
    "shape very deep": dump(shape=...) + "shape: {a: " + "[" * 20000 + "]" * 20000 + "}\n",
    # the file
    "aliases that multiply": BOMB,
    "empty": "",
    "only a comment": "# nothing\n",
    "a list": "- a\n",
    "a text": "hello",
    "two documents": dump() + "---\n" + dump(),
    "key twice": dump() + "name: q\n",
    "not YAML": "a: [b",
    "tab": "name:\tp\n\tmethod: x\n",
    "Python object": "name: !!python/object/apply:os.system [ls]\n",
    "unknown tag": "name: !secret p\n",
    "large": "# " + "x" * 300_000,
    "huge number": "max_context: " + "9" * 5000,
    "not UTF-8": b"name: \xff\xfe",
    "UTF-16": dump().encode("utf-16"),
    "binary": bytes(range(256)),
    "surrogate": 'name: "\\ud800"\n',
    "NUL bytes": b"\0" * 100,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_preset_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        attempt(REFUSED[name], tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 900
    message.encode()


GOOD_ONES = {
    "as it is": dump(),
    "byte-order mark": b"\xef\xbb\xbf" + dump().encode(),
    "other letters": dump(name="modèle 日本 (v1.2)+x", description="é [b] & <i>"),
    "null shape fields": shape(head_dim=None),
    "window": dump(max_context=2**31),
    "Windows line ends": dump().replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", GOOD_ONES)
def test_a_good_preset_of_unusual_form_loads(name: str, tmp_path: Path) -> None:
    attempt(GOOD_ONES[name], tmp_path)


@pytest.mark.parametrize(
    "path", ["no/such.yaml", "x" * 300 + ".yaml", "a\0b.yaml", "/dev/null.yaml", ".yaml", "folder.yaml", "pipe.yaml"]
)
def test_a_preset_file_that_is_not_there_is_one_sentence(path: str, tmp_path: Path, monkeypatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError):
        load_preset(path)


@pytest.mark.parametrize(
    "name", ["window negative", "shape bert", "name markup", "shape of the aliases", "hub nothing"]
)
def test_the_command_ends_with_2_and_no_traceback(name: str, tmp_path: Path, command) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(str(REFUSED[name]))
    options = ("--device", "cpu", "--offline", "--no-perf", "--random-weights", "--length", 512, "--limit", 1)
    result = command("--task", "needle", "--model", path, "--output", tmp_path / "out", *options)
    assert result.code == 2
    assert "Traceback" not in result.err
