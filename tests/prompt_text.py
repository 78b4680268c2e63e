"""Prompts as text again."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evals.tasks.base import Instance


def text(tokenizer: PreTrainedTokenizerBase, instance: Instance) -> str:
    """What a model is asked, without special tokens."""
    prompt = instance.prompt
    return str(tokenizer.decode([*prompt.prefix, *prompt.context, *prompt.query], skip_special_tokens=True))
