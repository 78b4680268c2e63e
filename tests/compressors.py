"""Tiny random models in the layout of LLMLingua's checkpoints, and the counting of tokens that the package fetches."""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

LETTERS = string.ascii_letters + string.digits + string.punctuation
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
}


KEPT: list[TemporaryDirectory[str]] = []
"""Folders that live as long as the tests."""


def byte_counts(_: str = "") -> Any:
    """In place of cl100k_base, which tiktoken would fetch: every byte is a token."""
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})


def write_xlm_roberta(folder: Path) -> Path:
    """LLMLingua-2 over XLM-R. The folder's name counts: the package reads the family from it."""
    path = folder / "llmlingua-2-xlm-roberta-large-tiny"
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, "▁", *LETTERS, *("▁" + letter for letter in LETTERS), "<mask>"]
    scores = [(piece, -1.0 - 0.01 * i) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    ).save_pretrained(path)  # fmt: skip
    config = XLMRobertaConfig(vocab_size=len(pieces), max_position_embeddings=514, num_labels=2, **SMALL)
    return _saved(XLMRobertaForTokenClassification, config, path)


def write_bert(folder: Path) -> Path:
    """LLMLingua-2 over multilingual BERT."""
    path = folder / "llmlingua-2-bert-base-multilingual-cased-tiny"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *LETTERS, *("##" + letter for letter in LETTERS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]",
    ).save_pretrained(path)  # fmt: skip
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=512, num_labels=2, **SMALL)
    return _saved(BertForTokenClassification, config, path)


def write_llama(folder: Path, positions: int = 2048) -> Path:
    """A causal LM for LLMLingua, over words of one letter."""
    path = folder / f"llama-tiny-{positions}"
    pieces = ["<unk>", "<s>", "</s>", "▁", *LETTERS, *("▁" + letter for letter in LETTERS)]
    vocabulary, merges = {piece: i for i, piece in enumerate(pieces)}, [("▁", letter) for letter in LETTERS]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    config = LlamaConfig(vocab_size=len(pieces), max_position_embeddings=positions, **SMALL)
    return _saved(LlamaForCausalLM, config, path)


@cache
def tiny_compressor() -> Path:
    """A causal LM for LLMLingua that many tests share."""
    KEPT.append(TemporaryDirectory())
    return write_llama(Path(KEPT[-1].name))


def _saved(model_class, config, path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(path)
    return path
