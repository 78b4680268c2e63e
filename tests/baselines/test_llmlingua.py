"""Prompt compression: the text of the package used by hand, what the base reads of it, and what it costs."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressors import byte_counts, write_bert, write_llama, write_xlm_roberta
from safetensors.torch import load_file, save_file

from baselines.dense import FullAttention
from baselines.llmlingua.adapter import LLMLingua
from baselines.llmlingua.compressor import load_compressor
from evals.errors import UserError
from evals.methods import presets
from evals.methods.base import Query, Runtime
from evals.run.identity import ModelChoice

llmlingua = pytest.importorskip("llmlingua")
tiktoken = pytest.importorskip("tiktoken")

BOS = [256]
TARGETS = [9, 2, 6, 5]
QUERY = Query([81, 58, 32], question=(0, 3))


def words(count: int) -> str:
    """A text of random words and marks."""
    rng = random.Random(0)
    return " ".join(
        "".join(rng.choices("abcdefgh1", k=rng.randint(1, 6))) + rng.choice(["", "", "", ".", ","])
        for _ in range(count)
    )


TEXT = words(120)


@pytest.fixture(scope="module", autouse=True)
def _no_download() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken, "encoding_for_model", byte_counts)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root, made = tmp_path_factory.mktemp("compressors"), {}

    def of(write: Callable[..., Path], *arguments: int) -> Path:
        key = (write, *arguments)
        if key not in made:
            made[key] = write(root, *arguments)
        return made[key]

    return of


@pytest.fixture
def load(tiny_presets: Callable[..., Path], folder: Callable[..., Path]) -> Callable[..., LLMLingua]:
    def loaded(write: Callable[..., Path] = write_xlm_roberta, **settings: object) -> LLMLingua:
        settings = {"compressor": str(folder(write)), **settings}
        return LLMLingua.load(presets.load_preset(str(tiny_presets("llmlingua", settings=settings))), Runtime())

    return loaded


@pytest.fixture
def ids(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("write", [write_xlm_roberta, write_bert])
@pytest.mark.parametrize("forced", [{}, {"force_tokens": [".", "\n"], "force_reserve_digit": True}])
def test_llmlingua_2_is_the_package_used_by_hand(folder, write: Callable[..., Path], forced: dict[str, Any]) -> None:
    path = str(folder(write))
    by_hand = llmlingua.PromptCompressor(path, device_map="cpu", use_llmlingua2=True)
    ours, text = load_compressor(path, Runtime(), forced), TEXT + "\n" + words(60)
    for rate in (0.5, 0.03):
        wanted = by_hand.compress_prompt([text], rate=rate, **forced)["compressed_prompt"]
        assert ours.compress(text, rate) == wanted
    assert 0 < len(ours.compress(text, 0.5)) < len(text)


def test_llmlingua_is_the_package_used_by_hand(folder) -> None:
    path = str(folder(write_llama))
    by_hand = llmlingua.PromptCompressor(path, device_map="cpu")
    ours = load_compressor(path, Runtime(), {})
    for text in (TEXT[:90], TEXT[:300]):  # one window and two
        wanted = by_hand.compress_prompt([text], rate=0.4)["compressed_prompt"]
        assert ours.compress(text, 0.4) == wanted != text


def test_llmlingua_reads_on_where_the_package_needs_an_older_transformers(folder, monkeypatch) -> None:
    """Beyond two windows the package cuts the cache, which is there to save time: without one the text is the same."""
    path, text = str(folder(write_llama)), words(300)
    by_hand = llmlingua.PromptCompressor(path, device_map="cpu")

    def uncached(_: str, __: str, ids: torch.Tensor, mask: torch.Tensor, past_key_values, return_kv, end) -> Any:
        past = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        end = ids.shape[1] if end is None else end
        with torch.no_grad():
            logits = by_hand.model(ids[:, :end], use_cache=False).logits[0, past:-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, past + 1 : end], reduction="none")
        return loss, [[torch.zeros(1, 1, end, 1)] * 2]

    monkeypatch.setattr(by_hand, "get_ppl", uncached)
    wanted = by_hand.compress_prompt([text], rate=0.4)["compressed_prompt"]
    assert load_compressor(path, Runtime(), {}).compress(text, 0.4) == wanted
    long = words(600)
    short = load_compressor(str(folder(write_llama, 1024)), Runtime(), {}).compress(long, 0.4)
    assert 0.2 * len(long) < len(short) < 0.6 * len(long), "a text longer than the compressor's window"


def test_the_base_reads_prefix_compressed_text_and_query(load, tiny_presets, ids) -> None:
    method = load(rate=0.5)
    session = method.prefill(ids(TEXT), BOS)
    scores = session.score(QUERY, TARGETS)
    text = load_compressor(method.settings.compressor, Runtime(), {}).compress(TEXT, 0.5)
    dense = FullAttention.load(presets.load_preset(str(tiny_presets("full"))), Runtime())
    wanted = dense.prefill(ids(text), BOS).score(QUERY, TARGETS)
    assert torch.equal(scores, wanted)
    assert session.trace() == {"rate": 0.5, "compressed_tokens": len(text), "kept_tokens": len(text)}
    assert not torch.equal(scores, dense.prefill(ids(TEXT), BOS).score(QUERY, TARGETS))


def test_what_fits_is_not_compressed(load, tiny_presets, ids) -> None:
    session = load().prefill(ids(TEXT[:400]), BOS)
    dense = FullAttention.load(presets.load_preset(str(tiny_presets("full"))), Runtime())
    assert torch.equal(session.score(QUERY, TARGETS), dense.prefill(ids(TEXT[:400]), BOS).score(QUERY, TARGETS))
    assert session.trace()["rate"] is None


@pytest.mark.parametrize("write", [write_xlm_roberta, write_llama])
def test_the_budget_is_the_target_and_the_limit(load, ids, write: Callable[..., Path]) -> None:
    method = load(write, budget=120)
    session = method.prefill(ids(TEXT), BOS)
    session.generate(QUERY, 3)
    found = session.trace()
    assert found["rate"] == pytest.approx(120 / len(TEXT))
    assert 60 < found["compressed_tokens"] < 200
    assert found["kept_tokens"] == min(found["compressed_tokens"], 120)
    assert method.fairness["budget"] == 120
    assert method.fairness["algorithm"] == ("LLMLingua-2" if write is write_xlm_roberta else "LLMLingua")


def test_a_rate_that_leaves_too_much_is_cut_to_the_window(load, ids) -> None:
    session = load(rate=0.9, window=200).prefill(ids(TEXT), BOS)
    session.generate(QUERY, 3)
    assert session.trace()["compressed_tokens"] > 200
    assert session.trace()["kept_tokens"] < 200


def test_a_context_is_compressed_once_and_within_the_first_answer(load, ids, monkeypatch) -> None:
    method, texts = load(budget=100), []
    compress = method.compressor.compress
    monkeypatch.setattr(method.compressor, "compress", lambda *given: texts.append(given) or compress(*given))
    session = method.prefill(ids(TEXT), BOS)
    assert not texts, "its time belongs to the first token"
    first = session.generate(QUERY, 3)
    session.score(Query([7], question=(0, 1)), TARGETS)
    assert session.generate(QUERY, 3) == first
    assert [text for text, _ in texts] == [TEXT], "without prefix and query"


def test_a_context_of_which_nothing_stays_is_read_as_nothing(load, ids) -> None:
    session = load(rate=0.001).prefill(ids(TEXT), BOS)
    assert len(session.generate(QUERY, 3)) == 3
    assert session.trace()["kept_tokens"] == 0
    assert len(load(rate=0.5).prefill([], BOS).generate(QUERY, 3)) == 3


def test_the_compressor_counts(load, ids, tiny_presets) -> None:
    method = load(budget=100)
    dense = FullAttention.load(presets.load_preset(str(tiny_presets("full"))), Runtime())
    cost, plain = method.cost(len(TEXT), 8), dense.cost(100, 8)
    weights = load_file(Path(method.settings.compressor) / "model.safetensors")
    added = 100 * 32 * 4  # the package's tokens for forced words
    assert cost.weight_bytes - plain.weight_bytes == sum(weight.nbytes for weight in weights.values()) + added
    linear = sum(weight.numel() for name, weight in weights.items() if "embeddings.weight" not in _table(name))
    assert cost.prefill_flops - plain.prefill_flops == pytest.approx(2 * linear * len(TEXT))
    assert cost.state_bytes == plain.state_bytes
    within = method.cost(50, 8)
    assert within.prefill_flops == dense.cost(50, 8).prefill_flops

    session = method.prefill(ids(TEXT))
    session.generate(QUERY, 2)
    assert session.state_bytes == dense.cost(session.trace()["kept_tokens"], 0).state_bytes


def _table(name: str) -> str:
    return "embeddings.weight" if name.endswith("_embeddings.weight") else name


def test_loading_leaves_random_numbers_and_cudnn_as_they_were(folder) -> None:
    path = str(folder(write_xlm_roberta))

    def state() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return (*numbers, os.environ.get("PYTHONHASHSEED"), cudnn.deterministic, cudnn.benchmark)

    before = state()
    load_compressor(path, Runtime(), {})
    assert state() == before


def test_the_bytes_of_a_compressor_are_part_of_a_cells_id(tiny_presets, tmp_path) -> None:
    path = write_bert(tmp_path)

    def identity() -> dict[str, Any]:
        settings = {"compressor": str(path)}
        preset = presets.load_preset(str(tiny_presets("llmlingua", settings=settings)))
        return ModelChoice(preset, LLMLingua, Runtime()).identity

    first = identity()
    weights = load_file(path / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert identity() != first


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return str(path)


def test_weights_that_classifiers_do_not_use_do_no_harm(tmp_path) -> None:
    path = write_bert(tmp_path)
    wanted = load_compressor(str(path), Runtime(), {}).compress(TEXT, 0.5)
    extra = {
        "bert.pooler.dense.weight": torch.ones(32, 32),
        "bert.pooler.dense.bias": torch.ones(32),
        "bert.embeddings.position_ids": torch.arange(512)[None],
    }
    assert load_compressor(changed(path, lambda w: w.update(extra)), Runtime(), {}).compress(TEXT, 0.5) == wanted


def test_random_weights_never_take_the_place_of_missing_ones(tmp_path) -> None:
    path = changed(write_bert(tmp_path), lambda weights: weights.pop("classifier.weight"))
    with pytest.raises(UserError, match=r"The compressor .* cannot be loaded \(.*it lacks classifier.weight"):
        load_compressor(path, Runtime(), {})


def test_what_cannot_compress_is_one_sentence(folder, tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="set compressor to package:NAME/FOLDER, hub:ORG/NAME or a folder"):
        load_compressor(str(tmp_path / "nowhere"), Runtime(), {})
    with pytest.raises(UserError, match="LLMLingua forces no tokens"):
        load_compressor(str(folder(write_llama)), Runtime(), {"force_reserve_digit": True})
    path = write_bert(tmp_path)
    config = (path / "config.json").read_text(encoding="utf-8")
    (path / "config.json").write_text(config.replace('"bert"', '"electra"'), encoding="utf-8")
    with pytest.raises(UserError, match="knows bert and xlm-roberta, not 'electra'"):
        load_compressor(str(path), Runtime(), {})
    monkeypatch.setitem(sys.modules, "llmlingua", None)
    with pytest.raises(UserError, match=r"needs the package llmlingua: pip install 'sharedllm\[llmlingua\]'"):
        load_compressor(str(folder(write_llama)), Runtime(), {})


def test_a_vocabulary_that_cannot_be_fetched_is_one_sentence(folder, monkeypatch) -> None:
    def offline(_: str) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tiktoken, "encoding_for_model", offline)
    with pytest.raises(UserError, match=r"cl100k_base, .*no route to host.*TIKTOKEN_CACHE_DIR"):
        load_compressor(str(folder(write_xlm_roberta)), Runtime(), {})
