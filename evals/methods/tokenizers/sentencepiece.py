"""A sentencepiece model (`tokenizer.model`) as a fast tokenizer with character offsets and the model's own ids.

transformers converts such files but drops the model's normalizer (Unicode rules, white space, dummy prefix), so that
ids differ from those that the weights were trained on. Here the normalizer is kept.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from evals.errors import UserError
from sharedllm.errors import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer, models, normalizers

SPACE = "▁"
"""How a piece writes a space."""
UNIGRAM, BPE = 1, 2
"""`trainer_spec.model_type`; the other two (words, characters) belong to no language model."""
CONTROL, USER_DEFINED = 3, 4
"""`type` of a piece: never matched in text; matched before normalisation."""
ADVICE = "copy tokenizer.json, or the tokenizer.model of the model's release, into the folder"


class _Piece(Protocol):
    piece: str
    score: float
    type: int


class _Normalizer(Protocol):
    name: str
    precompiled_charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


class _Trainer(Protocol):
    model_type: int
    unk_id: int
    byte_fallback: bool
    treat_whitespace_as_suffix: bool


class _Model(Protocol):
    """The parts of sentencepiece's `ModelProto` that are used here."""

    pieces: Sequence[_Piece]
    normalizer_spec: _Normalizer
    trainer_spec: _Trainer


class Processor(Protocol):
    """The part of `SentencePieceProcessor` that is used: ids of a text, without control symbols."""

    def encode(self, text: str) -> list[int]: ...


def processor(path: Path) -> Processor:
    """sentencepiece's own encoder of a model file. Raises UserError for another kind of file."""
    from sentencepiece import SentencePieceProcessor

    with reading(path, ADVICE):
        made: Processor = SentencePieceProcessor(model_file=str(path))
    return made


def sentencepiece_backend(path: Path) -> Tokenizer:
    """The model as a `tokenizers.Tokenizer` without special tokens.

    Each piece of text between special tokens gets the dummy prefix, as if sentencepiece encoded it separately.
    Raises UserError for other files and for models with rules that `tokenizers` cannot express.
    """
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers

    model = _read(path)
    if model.trainer_spec.treat_whitespace_as_suffix or not model.normalizer_spec.escape_whitespaces:
        raise UserError(
            f"{path} writes spaces in a way that is not supported: {ADVICE.replace(', or', ' instead of')}."
        )
    own = [p.piece for p in model.pieces if p.type == USER_DEFINED]
    tokenizer = Tokenizer(_vocabulary(path, model, whole=bool(own)))
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    if own:  # the longest match wins
        either = "|".join(re.escape(piece.replace(" ", SPACE)) for piece in sorted(own, key=len, reverse=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(either), behavior="isolated")
    parts: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.normalizer_spec.add_dummy_prefix:
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def user_defined(path: Path) -> frozenset[str]:
    """Pieces that are matched in a text before normalisation."""
    return frozenset(p.piece for p in _read(path).pieces if p.type == USER_DEFINED)


def _read(path: Path) -> _Model:
    from sentencepiece import sentencepiece_model_pb2

    with reading(path, ADVICE):
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # protobuf makes the class at run time
        proto.ParseFromString(path.read_bytes())
    found = cast("_Model", proto)
    if found.trainer_spec.model_type not in (UNIGRAM, BPE) or not found.pieces:
        raise UserError(f"{path} is not a sentencepiece model of subwords: {ADVICE}.")
    return found


def _vocabulary(path: Path, model: _Model, *, whole: bool) -> models.Model:
    """whole: a piece of text that is in the vocabulary becomes one token, as user-defined symbols must."""
    from tokenizers import models
    from transformers.tokenization_utils_base import generate_merges

    trainer = model.trainer_spec
    if trainer.model_type == UNIGRAM:
        pieces = [(p.piece, p.score) for p in model.pieces]
        return models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    ids = {p.piece: i for i, p in enumerate(model.pieces)}
    if len(ids) != len(model.pieces):
        raise UserError(f"{path} has two pieces of one text: {ADVICE}.")
    scores = {p.piece: p.score for p in model.pieces if p.type not in (CONTROL, USER_DEFINED)}
    merges: list[tuple[str, str]] = generate_merges(ids, scores)
    return models.BPE(
        ids,
        merges,
        unk_token=model.pieces[trainer.unk_id].piece,
        fuse_unk=True,
        byte_fallback=trainer.byte_fallback,
        ignore_merges=whole,
    )


def _normalizer(spec: _Normalizer) -> normalizers.Normalizer:
    """sentencepiece's steps, in its order.

    `Precompiled` applies the shortest rule that matches a character with combining marks, sentencepiece the longest.
    Composing first (NFC) avoids those rules; only marks after compatibility characters still differ.
    """
    from tokenizers import Regex, normalizers

    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        compose = [normalizers.NFC()] if "nfkc" in spec.name else []
        steps += [*compose, normalizers.Precompiled(spec.precompiled_charsmap), *compose]
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps)
