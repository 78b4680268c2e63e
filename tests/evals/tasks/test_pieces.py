"""Ids of a text from those of its words, and ids kept on disk: always what the tokenizer itself gives."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.token_ids import id_cache, passages, pieces
from evals.tasks.common.token_ids.encoding import TextEncoder
from evals.tasks.common.token_ids.id_cache import IdCache
from evals.tasks.common.token_ids.passages import Passages, cut
from evals.tasks.common.token_ids.pieces import SPLITS, Pieces

CORPUS = ["The grass is green. The sky is blue.\n\nHere we go, and it's back\tagain 12 345. été 中文 🙂 a--b"] * 20
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


PRE = {
    "gpt-2": BYTES,
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama 3": split(SPLITS[0]),
    "qwen": split(SPLITS[1]),
}
OTHERS = {
    "a space in front": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "no splitter": None,
    "white space is joined": split(r"\s+\S+\s+|\S|\s"),
}


def trained(pre: pre_tokenizers.PreTokenizer | None, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if pre is not None:
        made.pre_tokenizer = pre
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "sharedllm" / "token-ids"


TRAINED = {name: trained(pre) for name, pre in PRE.items()}
WORDS = st.sampled_from(
    ["\x1c", "grass", "it's", "x.y.z", "'s", "12", "3.5", "été", "e\u0301", "中文", "🙂", "--", ".", ".\n", "\n\n",
     "\t", "\u00a0", "\u2028", "\u180e", "\r\n", "½", "x1y22", "a_b", "<s>", "\u0301"]
)  # fmt: skip
GAPS = st.sampled_from([" ", " ", " ", "", "  ", "   ", "\n", " \n", "\n "])


def test_a_text_of_new_words_is_left_to_the_tokenizer() -> None:
    made = Pieces(TRAINED["gpt-2"])
    assert made.encode(" ".join(f"w{number}" for number in range(1000))) is None
    assert made.encode("w1 w2 " * 1000) is not None


@pytest.mark.parametrize("name", PRE)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS | st.text(max_size=6), GAPS), min_size=1, max_size=60))
def test_ids_and_spans_are_those_of_the_tokenizer(name: str, parts: list[tuple[str, str]]) -> None:
    text = "".join(word + gap for word, gap in parts) * 3
    text = text.encode("utf-8", "replace").decode()
    made = Pieces(TRAINED[name])
    assert made.usable
    made.patient = True
    whole = TRAINED[name].encode(text, add_special_tokens=False)
    for _ in range(2):  # of new and of known words
        found = made.encode(text)
        assert found is not None
        assert found[0] == whole.ids
        assert [tuple(span) for span in found[1].tolist()] == whole.offsets


def test_the_words_of_one_text_after_another_are_learned_in_the_end() -> None:
    made = Pieces(TRAINED["gpt-2"])
    text = " ".join(f"w{number}" for number in range(1000))
    found = [made.encode(text) for _ in range(20)]
    refused = found.count(None)
    assert found[:refused] == [None] * refused
    assert 1 <= refused < len(found)
    for each in found[refused:]:
        assert each is not None
        assert each[0] == TRAINED["gpt-2"].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", PRE)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS | st.text(max_size=6), GAPS), min_size=1, max_size=60))
def test_a_text_has_no_fewer_tokens_than_are_promised(name: str, parts: list[tuple[str, str]]) -> None:
    text = "".join(word + gap for word, gap in parts).encode("utf-8", "replace").decode()
    assert Pieces(TRAINED[name]).fewest(text) <= len(TRAINED[name].encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("name", PRE)
def test_no_more_than_one_token_is_promised_for_an_added_one(name: str) -> None:
    made = trained(PRE[name])
    made.add_tokens([AddedToken("x.y.z")])
    text = "x.y.z" * 8
    assert Pieces(made).fewest(text) <= len(made.encode(text, add_special_tokens=False).ids) == 8


def test_words_and_the_ends_of_their_letters_are_promised_tokens() -> None:
    made = Pieces(TRAINED["llama 3"])
    assert made.fewest("It's here, 12 (or)\nthere.") == 4 + 4  # 12, here, (or), there; 's and , and ) and .


@pytest.mark.parametrize("name", PRE)
def test_an_added_token_in_a_word_is_not_cut(name: str) -> None:
    made = trained(PRE[name])
    made.add_tokens([AddedToken("<|a_b|>"), AddedToken("x-1"), AddedToken("7-up")])
    text = "well<|a_b|>, ax-1 7-up x-12 <|a_b|> <|a-b|> 7-u. " * 3
    apart = Pieces(made)
    apart.patient = True
    assert apart.usable
    for _ in range(2):
        found = apart.encode(text)
        assert found is not None
        assert found[0] == made.encode(text, add_special_tokens=False).ids


def test_words_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_WORDS", 5)
    made = Pieces(TRAINED["smollm2"])
    made.patient = True
    for text in ("one two three four", "five six seven", "two 1234567 three\n  four", "one two"):
        found = made.encode(text)
        assert found is not None
        assert found[0] == TRAINED["smollm2"].encode(text, add_special_tokens=False).ids
        assert len(made._words) <= 5


def listed(documents: list[str]) -> str:
    """As in a prompt of question answering."""
    return "Answer the question.\n\n" + "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(documents, 1))


@pytest.mark.parametrize("name", PRE)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(WORDS | st.text(max_size=6), GAPS), max_size=12).map(
            lambda parts: "".join(word + gap for word, gap in parts).encode("utf-8", "replace").decode()
        ),
        min_size=1,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_passages_in_any_order_have_the_ids_and_spans_of_the_tokenizer(
    name: str, documents: list[str], rng: random.Random
) -> None:
    made = Passages(TRAINED[name])
    assert made.usable
    made.words.patient = True
    for _ in range(3):
        text = listed(documents)
        assert "".join(cut(text)) == text
        found = made.encode(text)
        whole = TRAINED[name].encode(text, add_special_tokens=False)
        assert found is not None
        assert found[0] == whole.ids
        assert [tuple(span) for span in found[1].tolist()] == whole.offsets
        rng.shuffle(documents)


DOCUMENTS = [f'{title}\n{title} is green. "It" stays{title} as\nit is.' for title in ("Grass", '"Sky', "Élan", "4 x")]


@pytest.mark.parametrize("name", PRE)
def test_documents_in_another_order_have_no_new_words(name: str) -> None:
    made = Passages(TRAINED[name])
    made.words.patient = True
    made.encode(listed([*DOCUMENTS, "The last one."]))
    assert made.words.learning
    made.encode(listed([*DOCUMENTS[::-1], "The last one."]))
    assert not made.words.learning


def test_passages_are_forgotten_when_they_have_too_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "MOST_TOKENS", 150)
    made = Passages(TRAINED["smollm2"])
    made.words.patient = True
    for number in range(8):
        text = listed([f"{document} {number}" for document in DOCUMENTS])
        found = made.encode(text)
        assert found is not None
        assert found[0] == TRAINED["smollm2"].encode(text, add_special_tokens=False).ids
        assert made._table.tokens <= 150


def test_a_passage_as_long_as_a_text_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "LONGEST", 100)
    made = Passages(TRAINED["smollm2"])
    made.words.patient = True
    text = listed(["The grass " * 100 + "is green.", *DOCUMENTS])
    for _ in range(2):
        found = made.encode(text)
        assert found is not None
        assert found[0] == TRAINED["smollm2"].encode(text, add_special_tokens=False).ids
        assert made._table.tokens < len(found[0]) / 2


@pytest.mark.parametrize("pre", OTHERS.values(), ids=OTHERS)
def test_other_tokenizers_see_the_whole_text(pre: pre_tokenizers.PreTokenizer | None) -> None:
    assert not Pieces(trained(pre)).usable


def test_so_do_those_that_change_the_text_or_take_white_space() -> None:
    assert not Pieces(trained(BYTES, normalizers.Replace(" ", "_"))).usable
    assert Pieces(trained(BYTES, normalizers.NFC())).usable
    for token in (
        AddedToken("<x>", lstrip=True),
        AddedToken("a b"),
        AddedToken("\n\n"),
        AddedToken("<x>", rstrip=True),
    ):
        taking = trained(BYTES)
        taking.add_tokens([token])
        assert not Pieces(taking).usable
    changing = json.loads(TRAINED["gpt-2"].to_str())
    changing["model"]["dropout"] = 0.1
    assert not pieces.exact(changing)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TextEncoder, list[int]]]:
    """A text encoder, and the lengths of the texts that its tokenizer has seen whole."""

    def make() -> tuple[TextEncoder, list[int]]:
        made = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=trained(None)))
        seen: list[int] = []

        class Counted:
            def encode(self, text: str, add_special_tokens: bool) -> object:
                seen.append(len(text))
                return inner.encode(text, add_special_tokens=add_special_tokens)

        assert made._cache and not made._passages.usable
        inner = made._encoder
        made._encoder = Counted()  # type: ignore[assignment]
        return made, seen

    monkeypatch.setattr(id_cache, "SHORTEST", 4000)
    return make


def test_a_long_text_is_tokenised_once_for_all_processes(calls: Callable[..., tuple[TextEncoder, list[int]]]) -> None:
    text = "The grass is green. " * 250
    first, seen = calls()
    made = first.encode_with_spans(text)
    again, unseen = calls()
    found = again.encode_with_spans(text)
    assert (seen, unseen) == ([len(text)], [])
    assert found.ids == made.ids
    assert np.array_equal(found.spans, made.spans) and found.spans.dtype == made.spans.dtype
    again.encode_with_spans(text + ".")
    assert unseen == [len(text) + 1]


def test_a_text_of_many_new_words_is_kept_and_one_of_known_words_is_not(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_cache, "SHORTEST", 4000)
    encoder = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=trained(BYTES)))
    fresh = " ".join(f"{a}{b} grass is green and stays as it is" for a in "abcdefghij" for b in "abcdefghij") + " "
    made = encoder.encode_with_spans(fresh * 2)
    assert len(list(cache.glob("*/*"))) == (4 * encoder._passages.words.learning > len(fresh * 2)) == 1
    encoder.encode("grass is green " * 400)
    assert len(list(cache.glob("*/*"))) == 1
    again = TextEncoder(encoder.tokenizer).encode_with_spans(fresh * 2)
    assert again.ids == made.ids
    assert np.array_equal(again.spans, made.spans)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"", lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:]])
def test_a_damaged_entry_is_made_again(
    damage: Callable[[bytes], bytes], cache: Path, calls: Callable[..., tuple[TextEncoder, list[int]]]
) -> None:
    text = "The sky is blue. " * 300
    first, _ = calls()
    ids = first.encode(text)
    (entry,) = cache.glob("*/*")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    second, seen = calls()
    assert second.encode(text) == ids
    assert seen == [len(text)]
    assert entry.read_bytes() == whole


def test_the_oldest_entries_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_cache, "MOST_BYTES", 5000)
    monkeypatch.setattr(id_cache, "CHECKED_EVERY", 1)
    kept = IdCache("tokenizer")
    for number in range(8):
        kept.put(f"text {number}", list(range(100)), np.zeros((100, 2), dtype=np.int64))
        assert sum(path.stat().st_size for path in cache.glob("*/*")) <= 5000 + 1216
    assert kept.get("text 0") is None
    assert kept.get("text 7") is not None
    assert IdCache("another").get("text 7") is None


def test_nobody_waits_for_the_disk_to_have_an_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(os, "fsync", waited.append)
    kept = IdCache("tokenizer")
    kept.put("text", [1], np.zeros((1, 2), dtype=np.int64))
    assert kept.get("text") is not None
    assert not waited


def test_a_tokenizer_is_not_copied_before_it_has_a_text() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(BYTES))
    builders = [PromptBuilder(tokenizer), PromptBuilder(PreTrainedTokenizerFast(tokenizer_object=trained(None)))]
    assert len({builder.identity for builder in builders}) == 2
    assert "_encoder" not in vars(builders[0])
    assert builders[0].encode("grass") == tokenizer("grass")["input_ids"]


def test_without_a_cache_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    kept = IdCache("tokenizer")
    kept.put("text", [1], np.zeros((1, 2), dtype=np.int64))
    assert kept.get("text") is None


def test_a_disk_that_is_full_keeps_nothing_of_an_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    IdCache("tokenizer").put("text", [1], np.zeros((1, 2), dtype=np.int64))
    assert [path for path in cache.rglob("*") if path.is_file()] == []
