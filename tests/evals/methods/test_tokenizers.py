"""Tokenizers of checkpoints: ids are those of the released files, in every form that releases have."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from released import HELP, write_json_release, write_sentencepiece
from tokenizers import pre_tokenizers

from evals.errors import UserError
from evals.methods.tokenizers import load_tokenizer
from evals.methods.tokenizers.load import PROBE
from evals.methods.tokenizers.sentencepiece import processor, sentencepiece_backend

IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
FORMS: dict[str, dict[str, Any]] = {
    "llama": {**IDENTITY, "allow_whitespace_only_pieces": True},
    "openllama": {"normalization_rule_name": "nmt_nfkc"},
    "case folding": {"normalization_rule_name": "nfkc_cf"},
    "no dummy prefix": {**IDENTITY, "add_dummy_prefix": False},
    "own symbols": {**IDENTITY, "user_defined_symbols": ["[INST]", "<tab>", "\n\n"]},
    "unigram": {"normalization_rule_name": "nmt_nfkc", "model_type": "unigram"},
    "no bytes": {**IDENTITY, "byte_fallback": False},
}


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    letters = "abc the  \t\n▁éﬁ½日本😀\u200b\xa0.,1Ａ～[INST]<tab>"
    return ["".join(rng.choices(letters, k=rng.randint(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_ids_of_a_sentencepiece_release_are_those_of_sentencepiece(form: str, tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path, **FORMS[form])
    tokenizer, own = load_tokenizer(folder), processor(folder / "tokenizer.model")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    for text in (*PROBE, *random_texts(300), HELP[40][:2000], "a[INST]b <tab>  c\n\nd", "[INST] at the start"):
        assert backend.encode(text, add_special_tokens=False).ids == own.encode(text), text
    ids = tokenizer("Hello world")["input_ids"]
    assert ids == [tokenizer.bos_token_id, *own.encode("Hello world")]
    assert tokenizer.decode(ids, skip_special_tokens=True).lower() == "hello world"


def test_offsets_of_a_sentencepiece_release_point_into_the_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path, **FORMS["openllama"]))
    text = "two  spaces, ﬁ and \xa0 more"
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    assert text[slice(*encoding.offsets[-1])] in text.split()[-1]
    assert all(0 <= a <= b <= len(text) for a, b in encoding.offsets)
    assert [a for a, _ in encoding.offsets] == sorted(a for a, _ in encoding.offsets)


def test_a_model_that_writes_spaces_at_the_end_of_words_is_refused(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path, treat_whitespace_as_suffix=True)
    with pytest.raises(UserError, match="not supported"):
        sentencepiece_backend(folder / "tokenizer.model")


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_ids_of_a_tokenizer_json_are_its_own_whatever_class_is_named(tokenizer_class: str, tmp_path: Path) -> None:
    own = write_json_release(tmp_path, tokenizer_class)
    tokenizer = load_tokenizer(tmp_path)
    for text in (*PROBE, " a", "  b a"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(text).ids, text


def test_vocab_and_merges_without_tokenizer_json_load(tmp_path: Path) -> None:
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*characters, "th", "the", "</s>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("the", add_special_tokens=False)["input_ids"] == [vocabulary["the"]]
    assert tokenizer.decode(tokenizer("naïve 日\n", add_special_tokens=False)["input_ids"]) == "naïve 日\n"
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"no tokenizer in .*vocab\.json with merges\.txt"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 3}}'),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("tokenizer.model", b""),
        ("tokenizer.model", b"\xff" * 100),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[1]"),
        ("tokenizer_config.json", b'{"tokenizer_class": 3}'),
        ("tokenizer_config.json", b'{"tokenizer_class": "NoSuchTokenizer", "bos_token": {"a": 1}}'),
        ("special_tokens_map.json", b"\xff"),
        ("generation_config.json", b'{"eos_token_id": "x"}'),
        ("generation_config.json", b'{"eos_token_id": [1, -2]}'),
        ("generation_config.json", b"[]"),
        ("config.json", b"\xff"),
    ],
)
def test_broken_files_are_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    if name == "tokenizer.model":
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    else:
        write_json_release(tmp_path, "PreTrainedTokenizerFast")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, set()),
        ({"config.json": {"eos_token_id": 2}}, {2}),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {"eos_token_id": [2, 7]}}, {2, 7}),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {"temperature": 1.0}}, {2}),
    ],
)
def test_stop_ids_come_from_the_generation_settings(files: dict[str, Any], expected: set[int], tmp_path: Path) -> None:
    write_json_release(tmp_path, "PreTrainedTokenizerFast")
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).generation_stop_ids == expected


def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    with pytest.raises(UserError, match=r"own code .*and that is never run"):
        load_tokenizer(folder)


def test_a_sentencepiece_model_alone_does_not_say_its_special_tokens(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer_config\.json"):
        load_tokenizer(folder)
