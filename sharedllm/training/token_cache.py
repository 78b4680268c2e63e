"""Token ids of a text file, kept beside the run so that a resumed one does not tokenise again."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from sharedllm.errors import UserError
from sharedllm.files import sha256_of, write_text, write_whole
from sharedllm.training.loading import tokenizer_hash


class TokenCache:
    """Ids, starts and a checksum of both, named by the content of the text and the whole tokenizer."""

    def __init__(self, folder: Path, text: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        key = hashlib.sha256(f"{sha256_of(text)} {tokenizer_hash(tokenizer)}".encode()).hexdigest()[:16]
        stem = f"{text.name.split('.')[0]}-{key}"
        self.ids, self.starts, self.checksum = (
            folder / f"{stem}.{part}" for part in ("ids.npy", "starts.npy", "sha256")
        )

    @property
    def complete(self) -> bool:
        """Whether an earlier run has written everything; the checksum comes last."""
        return self.checksum.exists()

    def write(self, ids: np.ndarray, starts: np.ndarray) -> None:
        """Keep the token ids of a text. Raises UserError where they cannot be written."""
        for path, array in ((self.ids, ids), (self.starts, starts)):
            write_whole(path, partial(_save, array=array))
        write_text(self.checksum, self._sum())

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids (memory-mapped) and starts. Raises UserError for files that are not those that were written."""
        damaged = f"The token ids in {self.checksum.with_suffix('')}.* are damaged: delete them, they are made again."
        try:
            if self.checksum.read_bytes() != self._sum().encode():
                raise UserError(damaged)
            return np.load(self.ids, mmap_mode="r"), np.load(self.starts)
        except OSError as error:
            raise UserError(damaged) from error

    def _sum(self) -> str:
        return f"{sha256_of(self.ids)} {sha256_of(self.starts)}\n"


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # given a name, numpy would add its own ending
        np.save(file, array)
