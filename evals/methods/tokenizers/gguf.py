"""The tokenizer inside a GGUF file, built from its own tables.

transformers reads it too, but differently from release to release (5.3 takes a byte-level Llama for a CodeLlama,
5.17 gives SmolLM2 the wrong end token), and token ids must not depend on that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from evals.errors import UserError

if TYPE_CHECKING:
    from gguf import ReaderField
    from transformers import PreTrainedTokenizerFast

SPECIAL_TYPES = (3, 4)
"""llama.cpp's token types `control` and `user defined`: taken out of a text before anything else."""
LLAMA3 = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""transformers' names and GGUF's."""


def splitter(kind: str) -> pre_tokenizers.PreTokenizer:
    """How a text is cut into words, by the name that llama.cpp gives it (`tokenizer.ggml.pre`)."""
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind in ("default", "gpt-2"):
        return bytes_of_words
    if kind in ("smollm", "starcoder", "refact", "command-r"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of_words])
    if kind == "llama-bpe":
        words = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
        only_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([words, only_bytes])
    raise UserError(f"The GGUF file cuts words as '{kind}', which is not supported: convert it with other tools.")


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer of a GGUF file, with its BOS, EOS, padding and chat template.

    Raises UserError for another kind of vocabulary.
    """
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields

    def value(name: str, default: Any = None) -> Any:
        field = fields.get(name)
        return default if field is None else _value(field)

    if value("tokenizer.ggml.model") != "gpt2":
        raise UserError(f"{path.name} has no byte-level BPE vocabulary: convert it with other tools.")
    tokens = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = splitter(value("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    types = value("tokenizer.ggml.token_type", [])
    special = [token for token, kind in zip(tokens, types, strict=False) if kind in SPECIAL_TYPES]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    ids = {name: value(f"tokenizer.ggml.{key}_token_id") for name, key in ROLES.items()}
    named = {name: tokens[i] for name, i in ids.items() if i is not None}
    if value("tokenizer.ggml.add_bos_token", False):
        bos = named["bos_token"]
        start = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, ids["bos_token"])])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), start])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # as transformers has it
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named
    )
    fast.chat_template = value("tokenizer.chat_template")
    return fast


def _value(field: ReaderField) -> Any:
    """A scalar, a string or a list of either."""
    from gguf import GGUFValueType

    kinds = field.types
    parts = [field.parts[i] for i in field.data]
    plain = [bytes(part).decode("utf-8") if kinds[-1] == GGUFValueType.STRING else part[0].item() for part in parts]
    return plain if kinds[0] == GGUFValueType.ARRAY else plain[0]
