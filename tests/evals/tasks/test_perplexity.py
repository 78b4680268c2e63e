"""Perplexity: the same targets whatever the length and the control, and sums done as their names say."""

from __future__ import annotations

import gzip
import json
import lzma
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from not_empty import not_empty
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.records.models import Answer, SampleRecord
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common import documents as data
from evals.tasks.common.documents import Document, embedded_documents, folder_documents
from evals.tasks.common.embedded import DOCUMENT_CHARS
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.token_ids import id_cache
from evals.tasks.common.token_ids.encoding import Encoded, TextEncoder
from evals.tasks.common.token_ids.id_cache import IdCache
from evals.tasks.perplexity import overlap
from evals.tasks.perplexity.overlap import Words, runs, shared
from evals.tasks.perplexity.settings import PerplexitySettings
from evals.tasks.perplexity.task import Perplexity
from evals.tasks.perplexity.tokens import MARGIN, TokenStore
from evals.tasks.perplexity.windows import in_turn


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_tokenizer(300)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Two domains of two documents each, of 4000 to 7000 different bytes."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"id": f"b{i}", "text": "\n".join(f"b{i} line {n}" for n in range(400 + 100 * i))} for i in range(2)]
    with gzip.open(folder / "books.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    rows = [{"text": "\n".join(f"def f{i}_{n}(): pass é" for n in range(200 + 50 * i))} for i in range(2)]
    with lzma.open(folder / "code.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def make(tokenizer, texts: Path, length=512, limit=None, **fields) -> list[Instance]:
    fields = {"scored": 32, "running": 128, **fields}
    task = Perplexity(None, PerplexitySettings(**fields), DataSource(data_dir=texts))
    return list(task.instances(tokenizer, length, limit, 0))


def whole(instance: Instance) -> list[int]:
    return [*instance.prompt.prefix, *instance.prompt.context, *instance.prompt.query, *instance.target]


def test_another_process_takes_the_ids_of_long_documents_from_the_disk(texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(id_cache, "SHORTEST", 3000)
    before = make(byte_tokenizer(300), texts, min_tokens=3000)
    assert len(list((tmp_path / "sharedllm" / id_cache.FOLDER).glob("*/*"))) == 4
    kept: list[bool] = []
    get = IdCache.get

    def watched(cache: IdCache, text: str) -> object:
        found = get(cache, text)
        kept.append(found is not None)
        return found

    monkeypatch.setattr(IdCache, "get", watched)
    assert list(map(whole, make(byte_tokenizer(300), texts, min_tokens=3000))) == list(map(whole, before))
    assert kept == [True] * 4


@pytest.mark.parametrize("from_end", [False, True])
def test_a_document_is_read_once_where_its_tokenizer_drops_white_space_at_the_end(from_end: bool) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "line": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    builder, read = PromptBuilder(PreTrainedTokenizerFast(tokenizer_object=words)), []

    def once(text: str) -> Encoded:
        assert not read, "the document was read again"
        read.append(text)
        return PromptBuilder.encode_with_spans(builder, text)

    builder.encode_with_spans = once
    found = TokenStore(builder).tokens(Document("a", "books", "line\n" * 9), 99, from_end=from_end)
    assert found.ids.tolist() == [1] * 9


def test_a_window_is_the_end_of_its_document(tokenizer, texts) -> None:
    documents = {document.id: document.text for document in folder_documents(texts)}
    for instance in not_empty(make(tokenizer, texts, context="own")):
        text = documents[instance.meta["document"]]
        ids = whole(instance)
        assert len(ids) == 512
        assert ids[0] == tokenizer.bos_token_id
        assert instance.prompt.audit.bos == 1
        assert ids[1:] == tokenizer(text)["input_ids"][-511:]
        assert len(instance.target) == 32
        assert len(instance.prompt.query) == 128 - 32
        assert instance.meta["target_bytes"] == 32  # a token is a byte
        assert instance.prompt.question is None


def test_targets_are_the_same_at_every_length_and_under_every_control(tokenizer, texts) -> None:
    by_length = {length: make(tokenizer, texts, length=length) for length in (256, 512, 2048)}
    first = by_length[256]
    assert [i.meta["control"] for i in first[:3]] == ["own", "other", "none"]
    for instances in by_length.values():
        assert [i.id for i in instances] == [i.id for i in first]
        assert [i.target for i in instances] == [i.target for i in first]
        for own, other, none in zip(instances[::3], instances[1::3], instances[2::3], strict=True):
            assert own.prompt.query == other.prompt.query == none.prompt.query
            assert len(own.prompt.context) == len(other.prompt.context)
            assert none.prompt.context == []
            assert own.prompt.context != other.prompt.context
            assert other.meta["other"].partition(".")[0] == own.meta["domain"]  # of its own domain where it can be
            assert other.meta["other"] != own.meta["document"]


@pytest.mark.parametrize("anchor", ["end", "start"])
def test_no_more_of_a_document_is_tokenised_than_tells_that_it_is_long_enough(tmp_path, monkeypatch, anchor) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(["word and"], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    texts = {name: "".join(f"word, and {name}\n" for _ in range(lines)) for name, lines in (("a", 2000), ("b", 1500))}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    tokens = {name: len(made.encode(text).ids) for name, text in texts.items()}
    read = []
    encoded = TextEncoder._encoded
    monkeypatch.setattr(TextEncoder, "_encoded", lambda *of: read.append(len(of[1])) or encoded(*of))

    def windows(least: int) -> list[list[int]]:
        read.clear()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
        return list(map(whole, make(tokenizer, tmp_path, context="own", anchor=anchor, min_tokens=least)))

    found = windows(tokens["b"] // 2)
    assert len(found) == 2
    assert sum(read) < len(texts["b"]) / 2
    assert windows(tokens["b"]) == found  # as many as it has, which takes all of it to tell
    assert len(texts["b"]) in read
    assert windows(tokens["b"] + 1) == found[:1]


def test_windows_anchored_at_the_start_follow_the_stride(tokenizer, texts) -> None:
    instances = make(tokenizer, texts, context="own", anchor="start", stride=100, windows=3, limit=3)
    text = next(d.text for d in folder_documents(texts) if d.id == instances[0].meta["document"])
    ids = tokenizer(text)["input_ids"][1:]
    for i, instance in enumerate(instances):
        assert whole(instance)[1:] == ids[100 * i + 1 : 100 * i + 512]


def test_a_number_anchors_windows_for_all_lengths(tokenizer, texts) -> None:
    targets = [
        [i.target for i in make(tokenizer, texts, length=length, anchor=1024, windows=2, stride=64, context="own")]
        for length in (256, 512, 1024)
    ]
    assert targets[0] == targets[1] == targets[2]
    assert len(targets[0]) == 8


def test_bos_only_where_a_document_begins(tokenizer, texts) -> None:
    instances = make(tokenizer, texts, anchor="start", windows=2, stride=64, bos="document", context="own", limit=2)
    assert [i.prompt.audit.bos for i in instances] == [1, 0]
    assert [len(whole(i)) for i in instances] == [512, 512]


def test_running_text_is_half_of_a_short_window_and_always_longer_than_the_targets(tokenizer, texts) -> None:
    (short, *_) = make(tokenizer, texts, length=100, context="own")
    assert len(short.prompt.query) + len(short.target) == 50
    (most, *_) = make(tokenizer, texts, length=512, scored=500, context="own")
    assert len(most.target) == 500
    assert len(most.prompt.query) == 1


def test_limit_counts_windows_and_takes_the_domains_in_turn(tokenizer, texts) -> None:
    instances = make(tokenizer, texts, limit=2)
    assert len(instances) == 6
    assert {i.meta["domain"] for i in instances} == {"books", "code"}
    assert instances == make(tokenizer, texts)[:6]


def test_longer_lengths_use_a_start_of_the_documents_of_shorter_ones(tokenizer, texts) -> None:
    short = [i.meta["document"] for i in make(tokenizer, texts, length=512, context="own")]
    long = [i.meta["document"] for i in make(tokenizer, texts, length=5000, context="own", min_tokens=5000)]
    assert len(long) < len(short) == 4
    assert set(long) < set(short)
    documents = [Document(f"{d}{n}", d, "x" * n) for d, n in (("a", 1), ("a", 5), ("b", 3), ("a", 4))]
    assert [d.id for d in in_turn(documents)] == ["a5", "b3", "a4", "a1"]


def sample(control: str, document: str, nll: float, tokens: int = 10, domain: str = "d") -> SampleRecord:
    meta = {
        "control": control,
        "window": f"{document}@0",
        "document": document,
        "domain": domain,
        "target_tokens": tokens,
        "target_bytes": 4 * tokens,
    }
    answer = Answer(text="", tokens=tokens)
    return SampleRecord(cell="c", sample="s", metrics={"nll": nll}, output=answer, meta=meta)


@pytest.mark.parametrize(
    ("how", "expected"), [("window", 7 / 3), ("document", (1.5 + 4) / 2), ("token", (10 + 20 + 4 * 40) / 60)]
)
def test_aggregation(how, expected) -> None:
    task = Perplexity(None, PerplexitySettings(aggregate=how), DataSource())
    samples = [sample("own", "a", 1.0), sample("own", "a", 2.0), sample("own", "b", 4.0, tokens=40)]
    metrics = task.summarize(samples)
    assert metrics["nll"] == pytest.approx(expected)
    assert metrics["ppl"] == pytest.approx(math.exp(expected))
    bits = (10 + 20 + 160) / math.log(2) / (4 * 60)
    assert metrics["bits_per_byte"] == pytest.approx(bits)


def test_use_of_context_is_what_the_right_context_gives_over_another(tokenizer, texts) -> None:
    task = Perplexity(None, PerplexitySettings(), DataSource())
    samples = [
        *(sample(control, "a", nll, domain="x") for control, nll in (("own", 1.0), ("other", 1.5), ("none", 1.7))),
        *(sample(control, "b", nll, domain="y") for control, nll in (("own", 2.0), ("other", 2.1), ("none", 2.0))),
    ]
    metrics = task.summarize(samples)
    assert metrics["use_of_context"] == pytest.approx(0.3)
    assert metrics["ppl_other"] == pytest.approx(math.exp(1.8))
    assert metrics["nll_none"] == pytest.approx(1.85)
    assert metrics["use_of_context/x"] == pytest.approx(0.5)
    assert metrics["ppl/y"] == pytest.approx(math.exp(2.0))
    (instance, *_) = make(tokenizer, texts)
    assert task.evaluate(instance, Output(logprobs=[-1.0, -3.0])) == {"nll": 2.0}


def test_no_control_takes_the_place_of_another() -> None:
    """As where a model answers without a context, and its own long one overflows or does not fit into memory."""
    task = Perplexity(None, PerplexitySettings(), DataSource())
    lost = [sample("none", "a", 1.7), sample("other", "a", 1.5)]
    assert task.summarize(lost).keys() == {"ppl_other", "nll_other", "ppl_none", "nll_none"}
    part = [*lost, sample("own", "b", 2.0), sample("other", "b", 2.25)]
    assert task.summarize(part)["use_of_context"] == pytest.approx(0.25)
    assert task.summarize(part)["nll"] == pytest.approx(2.0)


def test_the_own_context_is_the_first_control_in_whatever_order_they_are_named() -> None:
    named = PerplexitySettings.model_validate({"context": "none,own,none"})
    assert named.context == ("own", "none")
    metrics = Perplexity(None, named, DataSource()).summarize([sample("none", "a", 3.0), sample("own", "a", 2.0)])
    assert (metrics["nll"], metrics["nll_none"]) == (2.0, 3.0)


def test_windows_without_a_context_have_no_controls(tokenizer, texts) -> None:
    """All of a window but its BOS and one token is scored, as YaRN does: there is nothing to replace."""
    assert [len(i.target) for i in make(tokenizer, texts, length=600, scored=598, context="own", limit=1)] == [598]
    for context in ("own,other", "own,none"):
        with pytest.raises(UserError, match=r"600 tokens that score 598 have no context.*--set context=own"):
            make(tokenizer, texts, length=600, scored=598, context=context, limit=1)


def test_no_tokens_of_a_document_are_found_at_once(tokenizer) -> None:
    held = TokenStore(PromptBuilder.of(tokenizer)).tokens(Document("a", "d", "line\n" * 400), 0, from_end=True)
    assert len(held.ids) >= MARGIN


def test_an_anchor_before_the_end_of_the_first_window_is_refused(tokenizer, texts) -> None:
    assert make(tokenizer, texts, length=512, anchor=512, limit=1)
    assert make(tokenizer, texts, length=512, anchor=500, windows=2, stride=12, limit=1)
    with pytest.raises(UserError, match="512 tokens that end at token 500 would begin before their document"):
        make(tokenizer, texts, length=512, anchor=500, windows=2, stride=11)


def test_a_length_beyond_the_documents_names_the_longest_possible(tokenizer, texts) -> None:
    longest = max(len(d.text.encode()) for d in folder_documents(texts))
    with pytest.raises(UserError, match=f"longest possible length here is {longest}"):
        make(tokenizer, texts, length=100_000)
    assert make(tokenizer, texts, length=longest, context="own", limit=1)
    with pytest.raises(UserError, match="too short to score 256"):
        make(tokenizer, texts, length=200, scored=256)
    with pytest.raises(UserError, match="second document"):
        make(tokenizer, texts, length=longest, context="other")


def test_one_document_cannot_be_its_own_control(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("text " * 1000, encoding="utf-8")
    source = DataSource(data_dir=tmp_path)
    with pytest.raises(UserError, match="context=own,none"):
        Perplexity(None, PerplexitySettings(), source).check()
    Perplexity(None, PerplexitySettings(context="own,none"), source).check()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', r"a\.jsonl, line 2: text does not fit"),
        ("a.jsonl", b'{"text": "x"}\n\n{"tex\n', r"a\.jsonl, line 3 is not JSON"),
        ("a.jsonl", b'{"words": "x"}\n', r"a\.jsonl, line 1 has no field `text` or `content`"),
        ("a.txt", b"\xff\xfe", r"a\.txt is not UTF-8"),
        ("a.txt", b" \n", r"a\.txt is empty"),
        ("a.csv", b"x", r"no \.txt"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(folder_documents(tmp_path))


def test_parquet_files_are_read_as_hub_sets_have_them(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), tmp_path / "set.parquet")
    assert [(d.id, d.text) for d in folder_documents(tmp_path)] == [("set.parquet:1", "one"), ("set.parquet:2", "two")]
    pyarrow.parquet.write_table(pyarrow.table({"words": ["one"]}), tmp_path / "set.parquet")
    with pytest.raises(UserError, match="no column `text`"):
        list(folder_documents(tmp_path))


def test_a_folder_that_datasets_has_saved_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"id": ["x", "x"], "content": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    found = [(d.id, d.domain, d.text) for d in folder_documents(tmp_path / "saved")]
    name = "data-00000-of-00001"
    assert found == [(f"{name}.arrow:1", name, "one"), (f"{name}.arrow:2", name, "two")]


def test_hub_sets_are_named_and_say_how_to_get_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="did you mean pg19"):
        Perplexity(None, PerplexitySettings(dataset="pg91"), DataSource()).check()
    with pytest.raises(UserError, match="hf download --repo-type dataset emozilla/pg19-test --revision c5e39bf"):
        next(data.hub_documents("pg19", offline=True))


def test_embedded_text_is_long_and_of_two_domains() -> None:
    documents = embedded_documents()
    assert {d.domain for d in documents} == {"python", "docs"}
    for domain in ("python", "docs"):
        assert sum(d.domain == domain for d in documents) >= 2
    assert min(len(d.text) for d in documents) >= DOCUMENT_CHARS


def test_documents_are_keyed_by_file_and_row_whatever_rows_call_themselves(tokenizer, tmp_path: Path) -> None:
    rows = [{"id": "crawl", "text": "\n".join(f"{w} line {n} of {w}" for n in range(200))} for w in ("red", "blue")]
    for n, row in enumerate(rows):
        with gzip.open(tmp_path / f"web.{n:05d}-of-00002.json.gz", "wt", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    instances = make(tokenizer, tmp_path)
    assert len({i.id for i in instances}) == 6
    assert {i.meta["document"] for i in instances} == {f"web.{n:05d}-of-00002.json.gz:1" for n in range(2)}
    for own, other in zip(instances[::3], instances[1::3], strict=True):
        assert other.meta["other"] != own.meta["document"]
        text = rows[int(own.meta["document"].partition("-")[0][-1])]["text"]
        assert whole(own)[1:] == tokenizer(text)["input_ids"][-511:]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,  # a copy
        lambda text: "A header of another site. " * 20 + text,
        lambda text: text[: len(text) // 2] + text[len(text) // 2 + 3000 :],
        lambda text: text.replace("seven", "SEVEN,").replace("w13 ", "w14 "),
    ],
)
def test_a_copy_is_never_the_other_document(tokenizer, tmp_path: Path, change) -> None:
    own = " ".join(f"w{n * n % 997} seven" if n % 7 == 0 else f"w{n * n % 997}" for n in range(2000))
    (tmp_path / "a.txt").write_text(own, encoding="utf-8")
    (tmp_path / "b.txt").write_text(change(own), encoding="utf-8")
    with pytest.raises(UserError, match=r"needs a second document.* share text with .*context=own,none"):
        make(tokenizer, tmp_path)
    (tmp_path / "c.txt").write_text(" ".join(f"v{n}" for n in range(3000)), encoding="utf-8")
    instances = make(tokenizer, tmp_path)
    others = {i.meta["document"]: i.meta["other"] for i in instances if i.meta["control"] == "other"}
    assert others["a.txt"] == others["b.txt"] == "c.txt"
    assert others["c.txt"] in ("a.txt", "b.txt")


def test_texts_of_scripts_without_spaces_are_compared_as_well() -> None:
    text = "".join(chr(0x4E00 + n * 37 % 5000) for n in range(900))
    assert shared(runs(text), runs("。" + text[100:])) > 0.8
    assert shared(runs(text), runs(text[::-1])) < 0.05
    assert shared(runs("short text"), runs("Short, text!")) == 1
    assert shared(runs("short text"), runs("another text")) == 0


@pytest.mark.parametrize(
    "text",
    [
        "One two, three FOUR five: six seven eight nine ten; eleven (twelve) it's 13 o'clock. " * 9,
        "文 字 日本語の文 mixed with words ไทย and 中文, word_1 日x. " * 12,
        "ΣΑΣ ΟΔΟΣ, İstanbul and Straße: lower case changes with what stands beside a letter. " * 8,
        "a b",
    ],
)
def test_the_runs_of_a_piece_are_those_of_its_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "SCANNED_CHARS", 100)
    part = (3 % len(text), len(text))
    words = Words(text, part)
    for start in range(part[0], part[1] + 1, 7):
        for stop in range(start, part[1] + 1, 11):
            assert words.runs((start, stop)).tolist() == runs(text[start:stop]).tolist()


@given(st.text(st.sampled_from("aé1_ \n\t.'ß٣²\u0301\u00a0\u001c\u200b🙂中の\ud800") | st.characters(), max_size=30))
def test_words_are_those_of_the_expression_that_says_what_a_word_is(text: str) -> None:
    assert overlap._words(text, overlap._kinds(text)) == overlap._WORD.findall(text)


def test_targets_without_bytes_have_no_bits_per_byte() -> None:
    samples = [sample("own", "a", 1.0)]
    samples[0].meta["target_bytes"] = 0
    metrics = Perplexity(None, PerplexitySettings(), DataSource()).summarize(samples)
    assert metrics == {"ppl": pytest.approx(math.e), "nll": 1.0}


def test_any_number_of_windows_ends_with_the_document(tokenizer, texts) -> None:
    for anchor in ("end", "start", 600):
        many = make(tokenizer, texts, context="own", anchor=anchor, windows=9_999_999_999, stride=2000)
        assert many == make(tokenizer, texts, context="own", anchor=anchor, windows=50, stride=2000)
        assert len(many) >= 4
    with pytest.raises(ValidationError, match="1 or more"):
        PerplexitySettings(anchor=-3)


def test_only_files_with_documents_are_part_of_the_identity(texts) -> None:
    (texts / "notes.md").write_text("x", encoding="utf-8")
    task = Perplexity(None, PerplexitySettings(), DataSource(data_dir=texts))
    assert [path.name for path in task.files()] == ["books.jsonl.gz", "code.jsonl.xz"]
