"""The tokenizer of a checkpoint folder, with the ids of its own files whatever class its config names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from evals.errors import UserError
from evals.methods.boundary import read_json
from evals.methods.tokenizers.sentencepiece import processor, sentencepiece_backend, user_defined
from evals.methods.tokenizers.vocabulary import FastTokenizer, without_added
from sharedllm.errors import reading

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

VOCABULARIES = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
"""Files that define a tokenizer; the first complete set counts."""
TOKENIZER_FILES = (
    *(name for names in VOCABULARIES for name in names),
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)
"""Patterns of all files of a tokenizer."""
ADVICE = "copy the tokenizer files of the model's release into the folder"
UNLIMITED = 1 << 62
PROBE = (
    "Plain words, and a sentence.",
    " one space before, two  within, three   and one after ",
    "\ttabs\t\tand\nlines\n\n\n    with indents\r\n",
    "def f(x):\n    return [x**2 for _ in range(10)]  # comment\n",
    "3.14159, 1,234,567 and 2026-11-28",
    "naïve Ångström Tiếng Việt; Привет; שלום; สวัสดี; 你好，世界。こんにちは 한국어",
    "ﬁ ½ Ⅷ ｆｕｌｌ ～ \u00a0 \u200b \u2028 \u3000 e\u0301 i\u0302",
    "emoji 😀 ❤️ 👩‍👩‍👧 1️⃣",
    "<tag attr='v'> [x] {y} \\n ▁ ▁▁z ▁",
    "",
    " ",
    "   ",
)
"""Texts on which loaded ids are compared with those of the file: white space, code, digits, Unicode."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder (prompts need its character offsets); code in the folder never runs.

    Ids are those of tokenizer.json, else those of sentencepiece for tokenizer.model. transformers rebuilds some
    tokenizer classes by its own rules, which changes ids; this is corrected here and checked on PROBE. Its attribute
    `generation_stop_ids` (frozenset) holds the end-of-sequence ids that the folder's generation settings name.
    Raises UserError if there is no usable tokenizer.
    """
    check_has_tokenizer(folder)
    tokenizer = _automatic(folder)
    if not tokenizer.is_fast:
        raise UserError(f"The tokenizer in {folder} has no fast version: add its tokenizer.json.")
    reference = None if _as_saved(folder, tokenizer) else _reference(folder)
    if reference is not None:
        fast = cast("FastTokenizer", tokenizer)
        fast._tokenizer = _with_pipeline(fast._tokenizer, reference)
        _check(folder, fast._tokenizer, reference)
    tokenizer.model_max_length = UNLIMITED  # the harness decides lengths; releases state wrong ones
    with reading(f"The tokenizer in {folder}", ADVICE):
        tokenizer.decode(tokenizer(PROBE[0])["input_ids"])
    setattr(tokenizer, "generation_stop_ids", generation_stop_ids(folder))  # noqa: B010 - not a declared attribute
    return tokenizer


def _automatic(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that transformers makes of a folder without running code from it."""
    from transformers import AutoTokenizer

    try:
        with reading(f"The tokenizer in {folder}", ADVICE):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UserError as error:
        if "trust_remote_code" not in str(error.__cause__):
            raise
        raise UserError(
            f"The tokenizer in {folder} needs the checkpoint's own code (auto_map in tokenizer_config.json), "
            "and that is never run: name a release with a tokenizer of transformers."
        ) from error
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether all files of some vocabulary are there."""
    return any(all((folder / name).is_file() for name in names) for names in VOCABULARIES)


def check_has_tokenizer(folder: Path) -> None:
    """Raises UserError if no set of vocabulary files is complete."""
    if not has_tokenizer(folder):
        raise UserError(
            f"There is no tokenizer in {folder} (tokenizer.json, tokenizer.model, or vocab.json with merges.txt): "
            f"{ADVICE}."
        )


def generation_stop_ids(folder: Path) -> frozenset[int]:
    """`eos_token_id` of generation_config.json, else of config.json (one id or a list); empty if neither has it.

    Raises UserError for malformed files.
    """
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        found = read_json(path).get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if found is not None and not all(type(i) is int and i >= 0 for i in ids):
            raise UserError(f"{path}: eos_token_id is {found!r}, not a token id or a list of them: repair the file.")
        if found is not None:
            return frozenset(i for i in ids if isinstance(i, int))
    return frozenset()


@dataclass(frozen=True)
class _Reference:
    """The pipeline that a folder's file describes, and the ids that it must give.

    symbols: pieces that the pipeline itself finds in a text, so they must not be split off before it.
    """

    pipeline: Tokenizer
    ids: Callable[[str], Sequence[int]]
    symbols: frozenset[str] = frozenset()


def _as_saved(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer is tokenizer.json read as it is: only subclasses rebuild it."""
    from transformers import PreTrainedTokenizerFast

    return type(tokenizer) is PreTrainedTokenizerFast and (folder / "tokenizer.json").is_file()


def _reference(folder: Path) -> _Reference | None:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.is_file():
        with reading(path, ADVICE):
            made = Tokenizer.from_file(str(path))
            made.no_truncation()
            made.no_padding()
        return _Reference(made, lambda text: made.encode(text, add_special_tokens=False).ids)
    path = folder / "tokenizer.model"
    if path.is_file():
        if not (folder / "tokenizer_config.json").is_file():
            raise UserError(f"There is no tokenizer_config.json in {folder}, which names the special tokens: {ADVICE}.")
        return _Reference(sentencepiece_backend(path), processor(path).encode, user_defined(path))
    return None


def _with_pipeline(tokenizer: Tokenizer, reference: _Reference) -> Tokenizer:
    """The tokenizer with the pipeline of the reference; its special tokens and post-processor stay."""
    if reference.symbols:
        tokenizer = without_added(tokenizer, reference.symbols)
    own = reference.pipeline
    tokenizer.normalizer, tokenizer.pre_tokenizer = own.normalizer, own.pre_tokenizer
    tokenizer.model, tokenizer.decoder = own.model, own.decoder
    return tokenizer


def _check(folder: Path, tokenizer: Tokenizer, reference: _Reference) -> None:
    for text in PROBE:
        if tokenizer.encode(text, add_special_tokens=False).ids != list(reference.ids(text)):
            raise UserError(
                f"The tokenizer in {folder} gives other ids than its own file for {text!r}: its tokenizer_config.json "
                "or added_tokens.json does not belong to it; copy all tokenizer files of one release."
            )
