"""Small stand-ins for released checkpoints and the hub."""

from __future__ import annotations

import io
import json
import pydoc_data.topics
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers

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


def write_json_release(folder: Path, tokenizer_class: str, **config: Any) -> Tokenizer:
    """tokenizer.json in the form that Llama 2 was released in: spaces are handled by its normalizer."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁▁", "a", "b", "▁a"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, [("▁", "▁"), ("▁", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **config}))
    return tokenizer


def as_bin_shards(folder: Path) -> None:
    """The weights of a folder as two .bin files with an index, in place of its safetensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for i in (0, 1):
        shard = f"pytorch_model-{i + 1:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in names[i::2]}, folder / shard)
        index |= dict.fromkeys(names[i::2], shard)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / "pytorch_model.bin.index.json").write_text(text)


class FakeHub:
    """Stands for huggingface_hub's `snapshot_download`: repositories are folders, snapshots are copies of their files.

    fetched: names of the files that were asked for, in the order of the calls.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.repositories: dict[str, Path] = {}
        self.revisions: list[str | None] = []
        self.fetched: list[str] = []

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, local_files_only: bool, allow_patterns: list[str]
    ) -> str:
        if repo_id not in self.repositories:
            raise LocalEntryNotFoundError(repo_id)
        source = self.repositories[repo_id]
        target = self.cache / f"models--{repo_id.replace('/', '--')}" / "snapshots" / (revision or "0" * 40)
        target.mkdir(parents=True, exist_ok=True)
        self.revisions.append(revision)
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            if not local_files_only and not (target / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, target / name)
                self.fetched.append(name)
        return str(target)
