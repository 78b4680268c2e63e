"""What a training step reads: files and their windows."""

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

from sharedllm.errors import UserError
from sharedllm.training import evaluate, settings, vocabulary
from sharedllm.training.batches import Batch, LanguageModelling, check_repeats, repeat_passages
from sharedllm.training.corpus import Corpus, open_corpus, read_texts, save_corpus
from sharedllm.training.files import Files
from sharedllm.training.mixture import batch_maker

CHUNK = 64
NEEDLE_CHUNK = 320  # a needle takes some 60 bytes, and the tokenizer's tokens are bytes


def numbered(size: int = 3000, documents: int = 3) -> Corpus:
    """Documents of consecutive numbers."""
    return Corpus("numbers", np.arange(size * documents), np.arange(documents + 1) * size)


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
