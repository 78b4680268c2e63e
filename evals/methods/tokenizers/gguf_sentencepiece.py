"""The sentencepiece vocabulary inside a GGUF file, as the model that it was converted from.

llama.cpp copies pieces, scores and types one by one and has no room for the normalizer: it reads such a vocabulary
without one, and so does this file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evals.errors import UserError
from evals.methods.tokenizers.load import PROBE
from evals.methods.tokenizers.sentencepiece import BPE, SPACE, processor, sentencepiece_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

UNKNOWN, USER_DEFINED = 2, 4
"""Types of a piece; llama.cpp numbers them as sentencepiece does."""
CONTROL_IDS = ("bos_id", "eos_id", "pad_id")
ADVICE = "convert it with other tools"


def model_bytes(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], unknown: int, *, prefix: bool
) -> bytes:
    """A `tokenizer.model` of subwords with byte fallback.

    tokens, scores, types: one of each per id. unknown: id of the piece for what has no other, whatever its type says.
    prefix: whether a space is put in front of a text.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # protobuf makes the class at run time
    model.trainer_spec.model_type = BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = unknown
    for name in CONTROL_IDS:  # special tokens are added to the texts elsewhere
        setattr(model.trainer_spec, name, -1)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    for i, (token, score, kind) in enumerate(zip(tokens, scores, types, strict=True)):
        kind = UNKNOWN if i == unknown else kind
        piece = token.replace(" ", SPACE) if kind == USER_DEFINED else token  # llama.cpp writes these as plain text
        model.pieces.add(piece=piece, score=score, type=kind)
    written: bytes = model.SerializeToString()
    return written


def checked_backend(model: bytes, name: str) -> Tokenizer:
    """The pipeline of a sentencepiece model, with sentencepiece's own ids on PROBE. name: of the file, for messages.

    Raises UserError where they differ, or where the tables are no such model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(model)
        own, backend = processor(path), sentencepiece_backend(path)
    for text in PROBE:
        if backend.encode(text).ids != list(own.encode(text)):
            raise UserError(f"The vocabulary of {name} gives other ids than sentencepiece for {text!r}: {ADVICE}.")
    return backend
