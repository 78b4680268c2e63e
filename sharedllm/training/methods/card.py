"""The page of an adapter of a trained method other than SharedLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from huggingface_hub import ModelCardData

from sharedllm.files import is_folder
from sharedllm.model_card import UNKNOWN, base_name, table
from sharedllm.trained_adapter import TrainedRecord


def method_card(
    record: TrainedRecord, name: str, text: str, training_data: str, quality: Sequence[Mapping[str, object]]
) -> str:
    """Markdown with the hub's metadata on top. text: what the method does. The other arguments as in `model_card`."""
    shared = not is_folder(record.base)
    data = ModelCardData(
        base_model=record.base if shared else None,
        base_model_relation="adapter" if shared else None,
        tags=["long-context", record.method],
    )
    at = f", commit {record.base_revision}" if record.base_revision else ""
    return "\n".join(
        [
            f"---\n{data}\n---\n",
            f"# {name.rpartition('/')[2]}\n",
            f"{text} Trained with `sharedllm-train --method {record.method}` over `{base_name(record.base)}`{at}; the",
            "folder holds what was trained.\n",
            "## Options\n",
            *table([{"option": key, "value": value} for key, value in record.options.items()]),
            "\n## Training data\n",
            training_data or UNKNOWN,
            "\n## Quality\n",
            *(table(quality) if quality else [UNKNOWN]),
            "",
        ]
    )
