"""Broken, foreign and hostile checkpoints: refused in one sentence, before their weights are read, never filled in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from shapes import TINY_SHAPE

from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.weights import identity, load_base
from evals.methods.weights import load as loading

Tensors = dict[str, torch.Tensor]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1000\n"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may damage."""
    shutil.copytree(tiny_llama, tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path) -> torch.nn.Module:
    return load_base(Weights(source=str(folder)), Runtime(), None)[0]


def edit(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file({name: t.contiguous() for name, t in change(load_file(path)).items()}, path, {"format": "pt"})


def edit_json(path: Path, **fields: Any) -> None:
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, **fields}))


def shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = (names[::2], names[1::2])
    for name, half in zip(SHARDS, halves, strict=True):
        save_file({key: tensors[key] for key in half}, folder / name, {"format": "pt"})
    weight_map = {key: name for name, half in zip(SHARDS, halves, strict=True) for key in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (prefixed("module."), r"remove the prefix 'module\.' from the names"),
        (prefixed("_orig_mod."), r"remove the prefix '_orig_mod\.'"),
        (prefixed("base_model.model."), r"remove the prefix 'base_model\.model\.'"),
        (without("layers.1."), r"lacks model\.layers\.1\.input_layernorm\.weight, .*\(6 more\)"),
        (without("lm_head"), r"lacks lm_head\.weight\."),
        (without("norm"), r"lacks model\.layers\.0\.input_layernorm\.weight"),
        (
            lambda t: {**t, "model.layers.9.mlp.up_proj.weight": torch.zeros(2)},
            r"has model\.layers\.9.*model does not have",
        ),
        (lambda t: {**t, "v_head.summary.weight": torch.zeros(2)}, r"has v_head\.summary\.weight"),
        (lambda t: {**t, "model.norm.weight": torch.zeros(7)}, r"model\.norm\.weight has the shape \[7\], not \[32\]"),
        (lambda t: {}, "lacks lm_head.weight, .*more"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_never_drawn(
    folder: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_tied_heads_and_stored_buffers_are_fine(folder: Path) -> None:
    edit(folder, lambda t: {**t, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    load(folder)
    edit_json(folder / "config.json", tie_word_embeddings=True)
    edit(folder, without("lm_head"))
    model = load(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_fewer_layers_in_the_config_than_in_the_file_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=2)
    with pytest.raises(UserError, match=r"has model\.layers\.2\..*model does not have"):
        load(folder)


def cut(name: str, keep: int = 1000) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])  # type: ignore[func-returns-value]


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def config(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **fields)


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return change


def sharded(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: (shard(folder), change(folder))  # type: ignore[func-returns-value]


def only_bin(content: bytes) -> Callable[[Path], object]:
    return lambda f: ((f / "model.safetensors").unlink(), (f / "pytorch_model.bin").write_bytes(content))  # type: ignore[func-returns-value]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut file": (cut("model.safetensors", 9000), r"model\.safetensors has 9,000 bytes, not the .*download"),
    "cut header": (cut("model.safetensors", 30), "not a whole safetensors file"),
    "empty file": (cut("model.safetensors", 0), "not a whole safetensors file"),
    "longer file": (lambda f: (f / "model.safetensors").open("ab").write(b"x"), "bytes, not the"),
    "pointer": (write("model.safetensors", POINTER), "Git-LFS pointer.*git lfs pull"),
    "pointer as config": (write("config.json", POINTER), r"config\.json is a Git-LFS pointer"),
    "pointer as shard": (sharded(write(SHARDS[1], POINTER)), "00002-of-00002.*Git-LFS pointer"),
    "missing shard": (sharded(remove(SHARDS[0])), r"1 of 2 weight files are missing.*model-00001-of-00002"),
    "index without map": (sharded(write("model.safetensors.index.json", "{}")), "no weight_map"),
    "index outside": (
        sharded(write("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}')),
        "outside its folder",
    ),
    "index of numbers": (sharded(write("model.safetensors.index.json", '{"weight_map": {"a": 3}}')), "outside"),
    "index not JSON": (sharded(write("model.safetensors.index.json", "{")), "index.json cannot be read"),
    "no weights": (remove("model.safetensors"), r"config.json and \*.safetensors is needed"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer in"),
    "no config": (remove("config.json"), "There is no model in"),
    "an adapter": (
        lambda f: (f / "config.json").rename(f / "trained_adapter.json"),
        "sharedllm-train made of a base, not a model: name a preset of its method and --checkpoint",
    ),
    "the run of an adapter": (
        lambda f: ((f / "adapter").mkdir(), (f / "config.json").rename(f / "adapter" / "sharedllm_adapter.json")),
        "not a model: name a preset of its method and --checkpoint .*adapter",
    ),
    "config not JSON": (write("config.json", "{'a': 1}"), "config.json cannot be read"),
    "config a list": (write("config.json", "[]"), "not a JSON object"),
    "config without type": (write("config.json", "{}"), "names no model_type"),
    "config type a number": (config(model_type=3), "names no model_type"),
    "config not UTF-8": (write("config.json", b"\xff\xfe{"), "config.json cannot be read"),
    "config deep": (write("config.json", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "config.json cannot be read"),
    "unknown family": (config(model_type="nosuch"), "'nosuch', which is unknown"),
    "custom code": (config(model_type="nosuch", auto_map={"AutoConfig": "x.X"}), "own code, and that is never run"),
    "no language model": (config(model_type="vit"), "not causal language models"),
    "encoder": (config(model_type="bert"), "not decoders"),
    "encoder-decoder": (config(model_type="bart"), "not decoders|not causal"),
    "layers 0": (config(num_hidden_layers=0), "num_hidden_layers is 0"),
    "layers huge": (config(num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "hidden negative": (config(hidden_size=-4), "hidden_size is -4"),
    "hidden text": (config(hidden_size="32"), "hidden_size is '32'"),
    "heads do not divide": (config(num_attention_heads=5, head_dim=None), "not a multiple|cannot share"),
    "groups do not divide": (config(num_key_value_heads=3), "cannot share 3"),
    "eps NaN": (config(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "activation unknown": (config(hidden_act="nosuch"), "cannot be read"),
    "rope unknown": (config(rope_parameters={"rope_type": "nosuch", "rope_theta": 1.0}), "."),
    "rope factor below 1": (
        config(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 0.5}),
        "factor field must be",
    ),
    "rope factors of another size": (
        config(
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 2.0,
                "original_max_position_embeddings": 64,
                "short_factor": [1.0],
                "long_factor": [1.0],
            }
        ),
        "short_factor field must have length",
    ),
    "rope betas": (
        config(
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 2.0,
                "beta_fast": 1,
                "beta_slow": 2,
                "original_max_position_embeddings": 64,
            }
        ),
        "beta_fast field must be greater",
    ),
    "other shapes": (config(intermediate_size=128), r"mlp\..* has the shape"),
    "vocabulary": (config(vocab_size=200), "id 200, and the model only 200"),
    "quantised, unknown": (config(quantization_config={"quant_method": "nosuch"}), "method 'nosuch' is unknown"),
    "quantised, no package": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "bitsandbytes.*install that package",
    ),
    "quantised, a list": (config(quantization_config=[1]), "quantisation|cannot be read"),
    "bin cut": (only_bin(b"PK\x03\x04" + b"\0" * 500), r"pytorch_model\.bin is truncated"),
    "bin empty": (only_bin(b""), "truncated"),
    "bin junk": (only_bin(b"junk" * 100), "cannot be read"),
    "bin pointer": (only_bin(POINTER.encode()), "Git-LFS pointer"),
    "model and adapter": (write("adapter_config.json", "{}"), "a model and a PEFT adapter"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_one_sentence(folder: Path, name: str) -> None:
    damage, message = BROKEN[name]
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


EARLY = [name for name in BROKEN if name not in ("other shapes", "activation unknown", "bin junk", "rope unknown")]


@pytest.mark.parametrize("name", EARLY)
def test_what_can_be_found_out_early_fails_before_weights_are_read(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    if name.startswith("quantised, no"):  # transformers looks for the package, before it reads
        pytest.skip("the library's own check")
    monkeypatch.setattr(loading, "_read", read)
    BROKEN[name][0](folder)
    with pytest.raises(UserError):
        load(folder)


def test_a_folder_above_the_model_names_the_one_below(folder: Path) -> None:
    below = folder.parent / "models--a--b" / "snapshots" / "0123"
    below.mkdir(parents=True)
    folder.rename(below / "model")
    for above in (below, below.parent, below.parent.parent):
        with pytest.raises(UserError, match=f"name {below / 'model'}"):
            load_base(Weights(source="nowhere"), Runtime(checkpoint=str(above)), None)
    with pytest.raises(UserError, match="is a file: name the folder"):
        load(below / "model" / "config.json")


def test_a_checkpoint_in_shards_loads(folder: Path) -> None:
    whole = load(folder).state_dict()
    shard(folder)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load(folder).state_dict().items())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_byte_order_mark_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(b"\xef\xbb\xbf" + content)
    with pytest.raises(UserError, match=rf"{name} begins with a byte-order mark: save it as UTF-8 without one"):
        load(folder)


class Mark:
    """What a pickle that runs code would do: leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()", "")[:1]  # type: ignore[return-value]


def test_bin_files_are_read_without_running_pickles(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(load(folder).state_dict()["model.norm.weight"], tensors["model.norm.weight"])
    torch.save({**tensors, "x": Mark(tmp_path / "mark")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)
    assert not (tmp_path / "mark").exists()


HOSTILE = "import pathlib; pathlib.Path(__file__).with_name('mark').touch(); pathlib.Path({mark!r}).touch()\n"


@pytest.mark.parametrize("native", [True, False])
def test_code_in_a_checkpoint_never_runs_and_nobody_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    import builtins

    def ask(*_: object) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr("sys.stdin", None)
    mark = tmp_path / "mark"
    for module in ("hostile", "custom_generate/generate"):
        path = folder / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(HOSTILE.format(mark=str(mark)) + "class X: pass\ndef generate(*a, **k): pass\n")
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoModel")
    edit_json(folder / "config.json", auto_map=dict.fromkeys(classes, "hostile.X"))
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["hostile.X", "hostile.X"]})
    edit_json(folder / "generation_config.json", custom_generate="custom_generate")
    if native:
        load(folder)
    else:
        edit_json(folder / "config.json", model_type="hostile")
        edit_json(folder / "tokenizer_config.json", tokenizer_class="HostileTokenizer")
        with pytest.raises(UserError, match="own code, and that is never run"):
            load(folder)
    assert not mark.exists()
    assert not list(folder.rglob("mark"))


def test_identity_covers_every_byte_that_is_read_and_no_other_file(folder: Path) -> None:
    def now() -> str:
        return identity(Weights(source=str(folder)), Runtime(), None)

    edit(folder, lambda t: {**t, "model.embed_tokens.weight": torch.randn(258, 32)})
    first = now()
    for stranger in (".DS_Store", "notes.safetensors", "pytorch_model.bin", "optimizer.pt", "run.json"):
        (folder / stranger).write_bytes(b"x")
    assert now() == first
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    second = now()
    assert second != first
    edit_json(folder / "generation_config.json", eos_token_id=[1, 2])
    assert now() not in (first, second)
    through = identity(Weights(source="nowhere"), Runtime(checkpoint=str(folder)), None)
    assert through == now()


def add_token(folder: Path, token_id: int, special: bool) -> None:
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["added_tokens"].append({**saved["added_tokens"][0], "id": token_id, "content": "<image>", "special": special})
    path.write_text(json.dumps(saved))


def test_a_mark_without_an_embedding_is_left_out_and_is_letters_in_a_text(folder: Path) -> None:
    add_token(folder, TINY_SHAPE["vocab_size"], special=True)
    edit_json(folder / "tokenizer_config.json", pad_token="<image>")
    model, tokenizer = load_base(Weights(source=str(folder)), Runtime(), None)
    ids = tokenizer("a<image>b")["input_ids"]
    assert len(ids) == 1 + len("a<image>b")
    assert max(tokenizer.get_vocab().values()) < TINY_SHAPE["vocab_size"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert model(torch.tensor([ids])).logits.isfinite().all()


@pytest.mark.parametrize(("token_id", "special", "role"), [(258, False, ""), (258, True, "eos_token")])
def test_other_tokens_without_an_embedding_are_refused(folder: Path, token_id: int, special: bool, role: str) -> None:
    add_token(folder, token_id, special)
    if role:
        edit_json(folder / "tokenizer_config.json", **{role: "<image>"})
    with pytest.raises(UserError, match="only 258 embeddings"):
        load(folder)


def test_shapes_of_the_fixture_are_those_that_the_tests_speak_of() -> None:
    assert (TINY_SHAPE["vocab_size"], TINY_SHAPE["hidden_size"], TINY_SHAPE["num_hidden_layers"]) == (258, 32, 3)
