"""Parts of released checkpoints, made small: what stand-ins for hub repositories are put together from."""

from __future__ import annotations

import io
import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

HELP = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]


def write_sentencepiece(folder: Path, **options: Any) -> Path:
    """A folder as LongLLaMA's and YaRN's: tokenizer.model and its config, no tokenizer.json."""
    import sentencepiece

    model = io.BytesIO()
    settings = {"model_type": "bpe", "vocab_size": 600, "byte_fallback": True, "split_digits": True, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in HELP[:25] for line in text.split("\n\n")),
        model_writer=model,
        minloglevel=2,
        **settings,
    )
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    return folder
