"""What a training step reads: files, windows, needles, questions with answers."""

from __future__ import annotations

import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evals.tasks.needle import facts as held_out
from sharedllm import SharedLLMForCausalLM
from sharedllm.errors import UserError
from sharedllm.training import evaluate, settings, vocabulary
from sharedllm.training.batches import Batch, LanguageModelling, check_repeats, repeat_passages
from sharedllm.training.corpus import Corpus, open_corpus, read_texts, save_corpus
from sharedllm.training.files import Files
from sharedllm.training.mixture import batch_maker
from sharedllm.training.needles import Needles, Shape, disjoint_places
from sharedllm.training.sft import FineTuning, read_examples

CHUNK = 64
NEEDLE_CHUNK = 320  # a needle takes some 60 bytes, and the tokenizer's tokens are bytes
METHOD = {"chunk_size": CHUNK, "ratios": [8, 1], "lower_layers": 2, "policy": "maxsim"}


def numbered(size: int = 3000, documents: int = 3) -> Corpus:
    """Documents of consecutive numbers."""
    return Corpus("numbers", np.arange(size * documents), np.arange(documents + 1) * size)


# --- what a step reads ------------------------------------------------------------------------------------------


def test_files_hold_the_same_documents_however_they_are_packed(texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    xz, gz = (open_corpus(texts / name, tokenizer, tmp_path) for name in ("rows.jsonl.xz", "others.jsonl.gz"))
    assert xz.documents == gz.documents == 2
    assert np.array_equal(xz.ids, gz.ids)
    with lzma.open(texts / "rows.jsonl.xz", "rt") as file:
        first = json.loads(file.readline())["text"]
    assert tokenizer.decode(xz.document(0)) == first
    assert isinstance(open_corpus(texts / "rows.jsonl.xz", tokenizer, tmp_path).ids, np.memmap)
    save_corpus(xz, tmp_path / "both.tokens.npz")
    again = open_corpus(tmp_path / "both.tokens.npz", tokenizer, tmp_path)
    assert np.array_equal(again.ids, xz.ids)
    assert np.array_equal(again.starts, xz.starts)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", "line 2: not a JSON object with a field 'text' (JSONDecodeError)"),
        ('{"body": "x"}', "line 2: not a JSON object with a field 'text' (KeyError)"),
        ("[" * 100_000, "line 2: not a JSON object with a field 'text' (RecursionError)"),
        ('{"text": %s}' % ("1" * 5000), "line 2: not a JSON object with a field 'text' (ValueError)"),
        ('{"text": 3}', "line 2: the field 'text' is not a string"),
        (r'{"text": "\ud800"}', "line 2: half a surrogate pair"),
    ],
    ids=["broken", "other field", "deep", "long number", "number", "surrogate"],
)
def test_a_malformed_row_is_named(row: str, message: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + row + "\n", encoding="utf-8")
    with pytest.raises(ValueError) as error:
        open_corpus(path, tokenizer, tmp_path)
    assert f"{path}, {message}" in str(error.value)


@pytest.mark.parametrize("name", ["rows.jsonl.xz", "others.jsonl.gz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-20],
        lambda packed: packed[:200] + b"\xff" * 400 + packed[600:],
        lambda packed: packed[:-8] + bytes(8),
        lambda packed: b'{"text": "never packed"}\n',
    ],
    ids=["cut", "overwritten", "end", "plain"],
)
def test_a_broken_archive_is_named(
    damage: Callable[[bytes], bytes], name: str, texts: Path, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(damage((texts / name).read_bytes()))
    with pytest.raises(ValueError) as error:
        open_corpus(path, tokenizer, tmp_path)
    assert str(error.value).startswith(f"{path} is not a whole {path.suffix} archive (")
    assert str(error.value).endswith("): pack or download it again.")


def test_a_broken_token_file_is_named(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "numbers.tokens.npz"
    save_corpus(numbered(), path)
    whole = path.read_bytes()
    other = io.BytesIO()
    np.savez(other, ids=np.arange(3))
    for content in (b"", b"no archive", whole[:-20], whole[:1000] + bytes(9) + whole[1009:], other.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            open_corpus(path, tokenizer, tmp_path)
        assert str(error.value) == f"{path} is not a whole file of token ids: copy or write it again."


@pytest.mark.parametrize("name", ["latin1.txt", "latin1.jsonl", "latin1.jsonl.gz"])
def test_a_text_that_is_not_utf8_is_named(name: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / name
    content = '{"text": "fine"}\n{"text": "Grüße"}\n'.encode("latin-1")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    with pytest.raises(ValueError) as error:
        open_corpus(path, tokenizer, tmp_path)
    assert str(error.value) == f"{path}, line 2: not UTF-8, save the file as UTF-8."


def test_line_ends_of_a_text_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "ends.txt"
    path.write_bytes("ä\r\nb\n\nc\rd".encode())
    assert list(read_texts(path)) == ["ä\nb\n\nc\nd"]


def test_windows_are_consecutive_text_of_one_document() -> None:
    make = LanguageModelling([numbered()], [1.0], 4, [2, 8], 50, CHUNK, 0.5, 32)
    seen, gaps, starts = set(), 0, []
    for step in range(40):
        batch = make(np.random.default_rng([0, step]))
        windows, chunks, size = batch.context_ids.shape
        assert size == CHUNK
        assert windows * chunks == 8
        whole = torch.cat([batch.context_ids.flatten(1), batch.input_ids], 1)
        assert (whole.diff(dim=1) == 1).all()
        assert (whole[:, 0] // 3000 == whole[:, -1] // 3000).all()
        assert torch.equal(batch.labels, batch.input_ids)
        assert batch.query_length is None
        assert batch.tokens == whole.numel()
        seen.add(chunks)
        starts += whole[:, 0].tolist()
        if batch.chunk_index is not None:
            gaps += 1
            assert batch.chunk_index.shape == (windows, chunks)
            assert (batch.chunk_index.diff(dim=1) > 0).all()
            assert batch.chunk_index.max() < 32
    assert seen == {2, 8}
    assert 10 < gaps < 30
    assert len(set(starts)) > 60


def test_windows_longer_than_any_document_are_refused() -> None:
    with pytest.raises(ValueError, match="No document in numbers has 3001 tokens: train on shorter windows"):
        numbered().window(3001, np.random.default_rng(0))


def test_windows_that_a_later_batch_may_draw_are_refused_before_the_first() -> None:
    """Of the longest number of chunks, from every corpus."""
    short = Corpus("short", np.arange(100), np.array([0, 100]))

    def windows(chunks: list[int]) -> LanguageModelling:
        return LanguageModelling([numbered(), short], [1.0, 1e-6], 2, chunks, 50, 50, 0.0, 8)

    windows([1])
    with pytest.raises(UserError, match="No document in numbers has 3050 tokens"):
        windows([1, 60])
    with pytest.raises(UserError, match="No document in short has 150 tokens"):
        windows([1, 2])


def test_a_file_of_weight_0_is_in_no_batch(texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Neither in windows nor around needles."""
    (tmp_path / "other.txt").write_text("~" * 20_000)
    stage = {"windows": 3, "chunks": 4, "needles": 2, "questions": 1, "share": 0.5}
    chosen = settings.preset("small", windows=2, chunks=[2], running=48, needles=[stage], needle_running=700)
    tilde = tokenizer.encode("~", add_special_tokens=False)[0]
    seen = {}
    for weight in (0.0, 1.0):
        files = Files("base", [texts / "words.txt", tmp_path / "other.txt"], [1.0, weight], [], None, tmp_path)
        make = batch_maker(chosen, files, tokenizer, NEEDLE_CHUNK)
        batches = [make(step, 0) for step in range(30)]
        seen[weight] = {b.kind for b in batches if bool((b.context_ids == tilde).any())}
    assert seen == {0.0: set(), 1.0: {"lm", "needle 4"}}


def test_needles_come_from_texts_that_fill_the_running_text(
    maker: Callable[..., Callable[[int, int], Batch]],
) -> None:
    """A lead as long as the running text is drawn now and then."""
    stage = {"windows": 1, "chunks": 1, "needles": 1, "questions": 1, "share": 1}
    with pytest.raises(UserError, match="No document of the data has 200000 tokens"):
        maker(needles=[stage], chunks=[1], needle_running=200_000)


@pytest.fixture
def maker(texts: Path, tokenizer: Any, tmp_path: Path) -> Callable[..., Callable[[int, int], Batch]]:
    def make(**changes: Any) -> Callable[[int, int], Batch]:
        stages = [{"windows": 3, "chunks": 4, "needles": 5, "questions": 3, "share": 0.5}]
        usual = {"windows": 2, "chunks": [2], "running": 48, "needles": stages, "needle_running": 700, "max_chunks": 9}
        chosen = settings.preset("small", **{**usual, **changes})
        files = Files("base", [texts / "words.txt", texts / "rows.jsonl.xz"], [1, 2], [], None, tmp_path)
        return batch_maker(chosen, files, tokenizer, NEEDLE_CHUNK)

    return make


def test_a_batch_depends_on_seed_step_and_rank_alone(maker: Callable[..., Callable[[int, int], Batch]]) -> None:
    one, two, other = maker(), maker(), maker(seed=1)
    kinds = set()
    for step in (7, 3, 5, 3, 0, 1, 2):  # in any order, from any maker
        a, b = one(step, 0), two(step, 0)
        assert vars(a).keys() == vars(b).keys()
        for name, value in vars(a).items():
            same = vars(b)[name]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, name
        rank, seed = one(step, 1), other(step, 0)
        assert rank.kind == a.kind, "every process does the same kind of work"
        assert not torch.equal(rank.context_ids, a.context_ids)
        assert seed.kind != a.kind or not torch.equal(seed.context_ids, a.context_ids)
        kinds.add(a.kind)
    assert kinds == {"lm", "needle 4"}


def test_context_is_dropped_in_some_batches(maker: Callable[..., Callable[[int, int], Batch]]) -> None:
    kinds = [maker(drop_context=0.5, needles=[])(step, 0) for step in range(12)]
    dropped = [b for b in kinds if b.kind == "no context"]
    assert 2 < len(dropped) < 10
    assert all(int(b.num_chunks.sum()) == 0 and b.context_ids.shape[1] == 1 for b in dropped)


# --- needles ----------------------------------------------------------------------------------------------------


def test_needle_windows_hold_their_needles_and_ask_for_the_answers(texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    corpus = open_corpus(texts / "words.txt", tokenizer, tmp_path)
    source = Needles(tokenizer, [corpus], NEEDLE_CHUNK, 800, 1.0, 9)
    answers = 0
    for step in range(12):
        batch = source(np.random.default_rng(step), Shape(windows=3, chunks=4, needles=5, questions=3))
        assert batch.chunk_index.shape == (3, 4)
        assert (batch.chunk_index.diff(dim=1) > 0).all()
        for i in range(3):
            chunks = [tokenizer.decode(c) for c in batch.context_ids[i]]
            ids, labels = batch.input_ids[i], batch.labels[i]
            learnt = labels != -100
            assert torch.equal(labels[learnt], ids[learnt])
            assert torch.equal(learnt, batch.weights[i] > 0)
            edges = torch.nonzero(learnt.int().diff(prepend=torch.zeros(1)) == 1).flatten().tolist()
            assert 1 <= len(edges) <= 3
            for question, begin in enumerate(edges):
                end = begin + int((~learnt[begin:]).int().argmax() or len(learnt) - begin)
                answer = tokenizer.decode(ids[begin:end]).strip(" .")
                assert answer.isdigit()
                assert 5 <= len(answer) <= 8
                holder = [c for c, text in enumerate(chunks) if answer in text]
                assert len(holder) == 1, "the needle is in one chunk, in full"
                assert int(batch.chunk_question[i, holder[0]]) == question, "searched with its own question"
                start, length = int(batch.query_start[i, question]), int(batch.query_length[i, question])
                asked = tokenizer.decode(ids[start : start + length])
                assert start + length <= begin
                assert asked.strip().endswith("?")
                assert answer not in asked
                key = template_key(asked)
                assert key in chunks[holder[0]]
                answers += 1
            assert batch.chunk_question[i].max() < len(edges)
            first = torch.nonzero(batch.weights[i] == 3.0).flatten()
            assert [tokenizer.decode(ids[at]).isdigit() for at in first] == [True] * len(edges)
    assert answers > 40


def template_key(question: str) -> str:
    """The name that a question asks for, whatever its template."""
    for template in vocabulary.TEMPLATES:
        before, after = template.question.split("{key}")
        if question.strip().startswith(before) and question.endswith(after):
            return question.strip()[len(before) : len(question.strip()) - len(after)]
    raise AssertionError(question)


def test_needles_never_overwrite_each_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 12, size=rng.integers(1, 6)).tolist()
        places = disjoint_places(lengths, sum(lengths) + int(rng.integers(5)), rng)
        ends = [p + n for p, n in zip(places, lengths, strict=True)]
        assert places[0] >= 0
        assert all(a <= b for a, b in zip(ends, places[1:], strict=False))
    with pytest.raises(ValueError, match="2 needles of one chunk take 12 tokens, a chunk has 11"):
        disjoint_places([6, 6], 11, rng)


def test_training_and_evaluation_share_no_names_and_not_all_wordings() -> None:
    assert len(vocabulary.CITIES) > 50
    assert len(vocabulary.NOUNS) > 10
    assert len(vocabulary.ADJECTIVES) > 10
    assert not set(vocabulary.CITIES) & set(held_out.CITIES)
    assert set(held_out.CITIES) == vocabulary.HELD_OUT
    items = {f"{a} {n}" for a in vocabulary.ADJECTIVES for n in vocabulary.NOUNS}
    assert not items & set(held_out.ITEMS)
    mine = {t.needle for t in vocabulary.TEMPLATES} | {t.question for t in vocabulary.TEMPLATES}
    for name in ("item", "classic"):
        assert not {held_out.TEMPLATES[name].needle, held_out.TEMPLATES[name].question} & mine
        assert held_out.TEMPLATES[name].needle.split()[1:4] not in [t.split()[1:4] for t in mine]


def test_quick_evaluation_counts_right_digits(tiny_llama: Path, texts: Path, tokenizer: Any, tmp_path: Path) -> None:
    """A model that always says `7` has as many digits right as the answers have sevens."""
    model = SharedLLMForCausalLM.from_base(str(tiny_llama), **{**METHOD, "chunk_size": NEEDLE_CHUNK}).eval()
    corpus = open_corpus(texts / "words.txt", tokenizer, tmp_path)
    source = evaluate.needle_source(tokenizer, [corpus], NEEDLE_CHUNK, 400)
    (seven,) = tokenizer("7", add_special_tokens=False)["input_ids"]
    torch.nn.init.zeros_(model.base.lm_head.weight)
    model.base.lm_head.register_forward_hook(lambda _, args, out: out + F.one_hot(torch.tensor(seven), out.shape[-1]))
    result = evaluate.needles(model, source, 2, 2, 6, 4, seed=1)
    made = [source(np.random.default_rng([1, s]), Shape(n, 2, 2, 1, exactly=True)) for s, n in ((0, 4), (4, 2))]
    digits = [tokenizer.decode(row[row != -100]).strip(" .") for b in made for row in b.labels]
    assert result["digits"] == pytest.approx(np.mean([d.count("7") / 7 for d in digits]))
    assert result["first_digit"] == pytest.approx(np.mean([d[0] == "7" for d in digits]))
    assert result["windows"] == 6
    assert result["exact_match"] == 0


# --- fine-tuning ------------------------------------------------------------------------------------------------


def test_fine_tuning_learns_answers_only(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"context": "c" * 150, "question": "who?", "answer": "me"},
        {"context": "short", "question": "what?", "answer": "that"},
        {"context": "x" * 1000, "question": "q" * 90, "answer": "a" * 200},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tune = FineTuning(read_examples(path, tokenizer), 24, CHUNK, max_chunks=3, running=120)
    batch = tune(np.random.default_rng(0))
    assert batch.context_ids.shape == (24, 3, CHUNK)
    assert batch.input_ids.shape == (24, 120)
    seen = set()
    for i in range(24):
        learnt = batch.labels[i] != -100
        answer = tokenizer.decode(batch.labels[i][learnt], skip_special_tokens=True)
        start, length = int(batch.query_start[i]), int(batch.query_length[i])
        question = tokenizer.decode(batch.input_ids[i, start : start + length])
        assert int(torch.nonzero(learnt)[0]) == start + length, "the answer follows the question"
        lead = tokenizer.decode(batch.input_ids[i, :start])
        chunks = [tokenizer.decode(c) for c in batch.context_ids[i, : int(batch.num_chunks[i])]]
        if question == "who?":
            assert answer == "me"
            assert chunks == ["c" * CHUNK] * 2
            assert lead == "c" * (150 - 2 * CHUNK)
            assert int(batch.labels[i][learnt][-1]) == tokenizer.eos_token_id
        elif question == "what?":
            assert answer == "that"
            assert chunks == []
            assert lead == "short"
        else:  # the context is cut in the middle, the answer to what is left of the running text
            assert question == "q" * 60
            assert set(answer) == {"a"}
            assert len(answer) == 60
            assert chunks == ["x" * CHUNK] * 3
            assert lead == ""
        seen.add(len(question))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"context": "a", "question": "b"}', "line 1: not a JSON object with context, question, answer"),
        ('{"context": "a", "question": "b", "answer": ""}', "line 1: context, question, answer must be strings"),
        ('{"context": "é"}', "line 1: not UTF-8, save the file as UTF-8"),
        ("", "holds no examples"),
    ],
)
def test_malformed_examples(row: str, message: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_examples(path, tokenizer)


def test_names_stand_before_their_numbers() -> None:
    """What a causal lower model keeps of a number cannot know a name that follows it."""
    for template in vocabulary.TEMPLATES:
        assert 0 <= template.needle.index("{key}") < template.needle.index("{value}")


@pytest.mark.parametrize(
    ("chunk_size", "running", "said"),
    [
        (19, 64, "chunks of 19 tokens hold no passage to repeat: use chunks of 20 or more"),
        (1024, 102, "102 tokens of .* no room for a passage of a chunk of 1024: set running to more than 102"),
    ],
)
def test_a_window_without_room_for_a_repeat_says_which_part_is_short(chunk_size: int, running: int, said: str) -> None:
    with pytest.raises(UserError, match=f"^repeat_share: {said}, or repeat_share=0.$"):
        check_repeats(chunk_size, running)
    check_repeats(20, 3)
    check_repeats(1024, 103)


def test_a_single_held_out_window_is_not_blamed_on_the_documents() -> None:
    corpus = Corpus("held out", np.zeros(40, dtype=np.int64), np.array([0, 20, 40]))
    with pytest.raises(UserError, match="One window of held out has no other one to lend it a context"):
        evaluate.held_out_windows(corpus, 10, 1)


def test_repeated_passages_come_from_the_ends_of_chunks() -> None:
    chunks, size, running = 3, 64, 40
    row = np.arange(chunks * size + running)
    before = row.copy()
    repeat_passages(row, chunks, size, np.random.default_rng(0))
    assert (row[: chunks * size] == before[: chunks * size]).all()
    copied = row[chunks * size :][row[chunks * size :] < chunks * size]
    assert len(copied)
    assert (copied % size >= size - size // 8).all()
