"""The tokenizer inside a GGUF file, built from its own tables.

transformers reads it too, but differently from release to release (5.3 takes a byte-level Llama for a CodeLlama,
5.17 gives SmolLM2 the wrong end token), and token ids must not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from evals.errors import UserError
from evals.methods.tokenizers.gguf_sentencepiece import checked_backend, model_bytes

if TYPE_CHECKING:
    from gguf import ReaderField
    from transformers import PreTrainedTokenizerFast

CONTROL, USER_DEFINED = 3, 4
"""llama.cpp's token types of what is taken out of a text before anything else."""
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
    """The BPE tokenizer of a GGUF file (of bytes, or of sentencepiece), with its BOS, EOS, padding and chat template.

    Raises UserError for another kind of vocabulary.
    """
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields

    def value(name: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.{name}")
        return default if field is None else _value(field)

    kind, tokens, types = value("ggml.model"), value("ggml.tokens"), value("ggml.token_type", [])
    special_types: tuple[int, ...] = (CONTROL, USER_DEFINED)
    if kind == "gpt2":
        tokenizer = _byte_level(value, tokens)
        after: list[processors.PostProcessor] = [processors.ByteLevel(trim_offsets=True)]
    elif kind == "llama":  # its user-defined pieces are part of the model
        tokenizer, special_types, after = _sentencepiece(value, tokens, types, path.name), (CONTROL,), []
    else:
        raise UserError(
            f"{path.name} has a vocabulary of kind '{kind}', neither byte-level BPE (gpt2) nor sentencepiece (llama): "
            "convert it with other tools."
        )
    special = [token for token, type_ in zip(tokens, types, strict=False) if type_ in special_types]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    ids = {name: value(f"ggml.{key}_token_id") for name, key in ROLES.items()}
    named = {name: tokens[i] for name, i in ids.items() if i is not None}
    if value("ggml.add_bos_token", kind == "llama"):
        bos = named["bos_token"]
        after.append(processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, ids["bos_token"])]))
    if after:
        tokenizer.post_processor = processors.Sequence(after) if len(after) > 1 else after[0]
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # as transformers has it
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named
    )
    fast.chat_template = value("chat_template")
    return fast


def _byte_level(value: Callable[..., Any], tokens: list[str]) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = splitter(value("ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(value: Callable[..., Any], tokens: list[str], types: list[int], name: str) -> Tokenizer:
    """llama.cpp's defaults for what the file leaves out: unknown token 0, a space in front."""
    unknown, prefix = value("ggml.unknown_token_id", 0), value("ggml.add_space_prefix", True)
    return checked_backend(model_bytes(tokens, value("ggml.scores"), types, unknown, prefix=prefix), name)


def _value(field: ReaderField) -> Any:
    """A scalar, a string or a list of either."""
    from gguf import GGUFValueType

    kinds = field.types
    parts = [field.parts[i] for i in field.data]
    plain = [bytes(part).decode("utf-8") if kinds[-1] == GGUFValueType.STRING else part[0].item() for part in parts]
    return plain if kinds[0] == GGUFValueType.ARRAY else plain[0]
