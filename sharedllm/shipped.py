"""The trained adapters that come with this package, ready to use."""

from __future__ import annotations

from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sharedllm.errors import reading
from sharedllm.modeling import SharedLLMForCausalLM
from sharedllm.sources import shipped_folder


def load_shipped(
    name: str = "smollm2-135m", base: str | None = None, **options: Any
) -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase]:
    """An adapter of this package over its base, and the base's tokenizer.

    base: folder or hub name of the base; by default the copy that `sharedllm-eval doctor --fix` puts on this machine,
    else the hub. options: as in `SharedLLMForCausalLM.from_pretrained`. Raises UserError for another name, and where
    the base cannot be had or is another one.
    """
    model = SharedLLMForCausalLM.from_pretrained(shipped_folder(name), base=base, **options)
    source, revision = model.base.name_or_path, getattr(model.base.config, "_commit_hash", None)
    with reading(f"The tokenizer of {source}", "name a folder that has the tokenizer too in base="):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    return cast(SharedLLMForCausalLM, model), cast(PreTrainedTokenizerBase, tokenizer)
