"""The compressors of the package llmlingua (Microsoft, MIT), over models that are loaded in this project's way.

The package's own loading would run a checkpoint's code, put random weights where some do not fit, and seed all random
numbers of the process. What it computes is left as it is.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Protocol, cast

import numpy as np
import torch
from transformers import (
    BertForTokenClassification,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLMRobertaForTokenClassification,
)

from baselines.companion import companion
from evals.errors import UserError
from evals.methods.base import Runtime
from evals.methods.boundary import reading, reason
from evals.methods.weights import load_base, load_class, resolve
from evals.methods.weights.checkpoint import read_config

UNUSED = ["pooler", "position_ids"]
"""Weights that encoders are released with and token classifiers do not use."""
COUNTED_WITH = "gpt-3.5-turbo"
"""The model whose tiktoken vocabulary the package counts with."""


class BertClassifier(BertForTokenClassification):  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    """A released checkpoint of LLMLingua-2 over multilingual BERT."""

    _keys_to_ignore_on_load_unexpected = UNUSED


class XLMRobertaClassifier(XLMRobertaForTokenClassification):  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    """A released checkpoint of LLMLingua-2 over XLM-R."""

    _keys_to_ignore_on_load_unexpected = UNUSED


CLASSIFIERS: dict[object, tuple[str, type[PreTrainedModel]]] = {
    "bert": ("bert-base-multilingual-cased", BertClassifier),
    "xlm-roberta": ("xlm-roberta-large", XLMRobertaClassifier),
}
"""Model types of LLMLingua-2: the name by which the package knows the family, and the class."""


class Package(Protocol):
    """What is used of llmlingua's PromptCompressor, which has no types."""

    def compress_prompt(self, context: list[str], rate: float, **options: object) -> dict[str, object]:
        """`compressed_prompt` and counts."""

    def init_llmlingua2(self) -> None:
        """Adds the tokens that stand for forced ones, and seeds all random numbers."""


class Compressor(Protocol):
    """algorithm: its name. weight_bytes: of its parameters, on the device."""

    algorithm: str
    weight_bytes: int

    def compress(self, text: str, rate: float) -> str:
        """The text with about `rate` (0 to 1) of its tokens left, as the compressor counts them."""

    def flops(self, tokens: int) -> int:
        """Arithmetic of its linear layers for a text of that many tokens."""


class LLMLingua2:
    """Pan et al. 2024: a token classifier says of each word whether it stays."""

    algorithm = "LLMLingua-2"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: str, forced: Mapping[str, object]
    ) -> None:
        self._forced = dict(forced)
        with reading("tiktoken's cl100k_base, with which LLMLingua-2 counts,", "set TIKTOKEN_CACHE_DIR to a copy"):
            import tiktoken

            counting = tiktoken.encoding_for_model(COUNTED_WITH)
        self._package = _package(model, tokenizer, counting, model.device, model_name=family, use_llmlingua2=True)
        with undisturbed():
            self._package.init_llmlingua2()
        self.weight_bytes, self._token_flops = _size(model)  # with the tokens that were added

    def compress(self, text: str, rate: float) -> str:
        return str(self._package.compress_prompt([text], rate=rate, **self._forced)["compressed_prompt"])

    def flops(self, tokens: int) -> int:
        return self._token_flops * tokens


class LLMLingua:
    """Jiang et al. 2023: window by window, the tokens stay that surprise a causal LM most."""

    algorithm = "LLMLingua"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.weight_bytes, self._token_flops = _size(model)
        self._window = int(model.config.max_position_embeddings)
        self._package = _package(PairsModel(model), tokenizer, tokenizer, model.device, window=self._window)

    def compress(self, text: str, rate: float) -> str:
        return str(self._package.compress_prompt([text], rate=rate)["compressed_prompt"])

    def flops(self, tokens: int) -> int:
        """The first forward reads what the model's window holds; then every window of the text is read twice."""
        return self._token_flops * (2 * tokens + min(tokens, self._window))


class PairsModel:
    """A causal LM whose cache is a list of keys and values, as it was in transformers when the package was written."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past_key_values: Sequence[Sequence[torch.Tensor]] | None,
        use_cache: bool,
    ) -> SimpleNamespace:
        cache = DynamicCache([(keys, values) for keys, values in past_key_values or ()])
        output = self._model(input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=use_cache)
        return SimpleNamespace(logits=output.logits, past_key_values=[(keys, values) for keys, values, *_ in cache])


def load_compressor(source: str, runtime: Runtime, forced: Mapping[str, object]) -> Compressor:
    """The compressor whose checkpoint `source` names: LLMLingua-2 for a token classifier, LLMLingua for a causal LM.

    forced: options of the package that say what LLMLingua-2 keeps in any case.

    Raises UserError where the package or the checkpoint is missing, or fits neither.
    """
    weights = companion(source)
    runtime = replace(runtime, checkpoint=None, random_weights=False)
    try:
        config = read_config(resolve(weights, runtime))
        if "TokenClassification" not in str(config.get("architectures")):
            if forced:
                raise UserError("LLMLingua forces no tokens: leave force_tokens and force_reserve_digit out")
            return LLMLingua(*load_base(weights, runtime, None))
        if config["model_type"] not in CLASSIFIERS:
            raise UserError(f"LLMLingua-2 knows {' and '.join(map(str, CLASSIFIERS))}, not '{config['model_type']}'")
        family, model_class = CLASSIFIERS[config["model_type"]]
        model, tokenizer = load_class(model_class, weights, replace(runtime, dtype="float32"), None)
        return LLMLingua2(model, tokenizer, family, forced)
    except UserError as error:
        raise UserError(
            f"The compressor {source} cannot be loaded ({reason(error)}): set compressor to package:NAME/FOLDER, "
            "hub:ORG/NAME or a folder."
        ) from error


def _package(
    model: PreTrainedModel | PairsModel,
    tokenizer: PreTrainedTokenizerBase,
    counting: object,
    device: torch.device,
    *,
    window: int = 0,
    model_name: str = "",
    use_llmlingua2: bool = False,
) -> Package:
    """The package's PromptCompressor, with the fields that its constructor sets. counting: what it counts with, by
    `encode`: LLMLingua-2 weighs words so, for LLMLingua it is no more than a number in the output."""
    try:
        from llmlingua import PromptCompressor
    except ModuleNotFoundError as error:
        raise UserError(
            f"Compressing prompts needs the package {error.name}: pip install 'sharedllm[llmlingua]'"
        ) from error
    made = PromptCompressor.__new__(PromptCompressor)
    fields = {
        "model": model,
        "tokenizer": tokenizer,
        "device": device,
        "oai_tokenizer": counting,
        "model_name": model_name,
        "use_llmlingua2": use_llmlingua2,
        "max_position_embeddings": window,
        "cache_bos_num": 10,
        "prefix_bos_num": 100,
        "context_idxs": [],
    }
    for name, value in fields.items():
        setattr(made, name, value)
    return cast("Package", made)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random numbers and cuDNN's mode are afterwards as they were."""
    hashing, python, numpy = os.environ.get("PYTHONHASHSEED"), random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), torch.backends.cudnn.flags():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
    if hashing is None:
        os.environ.pop("PYTHONHASHSEED", None)
    else:
        os.environ["PYTHONHASHSEED"] = hashing


def _size(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes of the parameters, and FLOPs of a token: multiply-adds x 2 of all but the embeddings."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    read = sum(weight.numel() for weight in model.parameters() if id(weight) not in tables)
    return sum(weight.nbytes for weight in model.parameters()), 2 * read
