"""A tokenizer of bytes, for models that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMALLEST = 258
"""256 bytes, BOS and EOS."""


def byte_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer in which every byte is one token, with `<s>` (256) and `</s>` (257); it adds `<s>`.

    Raises UserError for a vocabulary that is too small for that.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if vocab_size < SMALLEST:
        raise UserError(f"The shape's vocab_size {vocab_size} is too small: bytes need {SMALLEST} or more.")
    # ByteLevel writes every byte as one printable character; sorted, the ids are the same everywhere.
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves the constructor untyped
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
