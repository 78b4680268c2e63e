"""The page of an adapter on the hub: its base, its settings, what it was trained on and how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from sharedllm.adapter_files import AdapterRecord
from sharedllm.files import is_folder
from sharedllm.settings import DEFAULTS

CARD = "README.md"
UNKNOWN = "Not stated."


def model_card(
    record: AdapterRecord,
    name: str,
    training_data: str = "",
    quality: Sequence[Mapping[str, object]] = (),
    licence: str | None = None,
) -> str:
    """Markdown with the hub's metadata on top.

    name: what `from_pretrained` takes. training_data: a sentence or a list in Markdown. quality: rows of a table, with
    the same columns in each. licence: the hub's short name of it, such as apache-2.0.
    """
    shared = not is_folder(record.base)  # a folder of this machine is no name for the hub
    data = ModelCardData(
        base_model=record.base if shared else None,
        base_model_relation="adapter" if shared else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sharedllm", "long-context", "arxiv:2603.04759"],
        license=licence,
    )
    base = base_name(record.base)
    at = f", commit {record.base_revision}" if record.base_revision else ""
    settings = [
        {"setting": key, "value": value, "paper": DEFAULTS.get(key, "")} for key, value in record.settings.items()
    ]
    return "\n".join(
        [
            f"---\n{data}\n---\n",
            f"# {name.rpartition('/')[2]}\n",
            f"An adapter of SharedLLM (context extension by multi-scale self-injection) over `{base}`{at}. It",
            "holds what was trained; the base is loaded beside it.\n",
            "```python",
            "from sharedllm import SharedLLMForCausalLM",
            "from transformers import AutoTokenizer\n",
            f'model = SharedLLMForCausalLM.from_pretrained("{name}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
            'print(model.answer(tokenizer, text, "A question about the text?"))',
            "```\n",
            "## Settings\n",
            *table(settings),
            "\n## Training data\n",
            training_data or UNKNOWN,
            "\n## Quality\n",
            *(table(quality) if quality else [UNKNOWN]),
            "",
        ]
    )


def base_name(base: str) -> str:
    """What a page calls a base: a folder of this machine by its last part, which says nothing about the machine."""
    return Path(base).name if is_folder(base) else base


def table(rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Lines of a Markdown table; columns in the order in which the rows first name them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield _line(columns)
    yield _line(["---"] * len(columns))
    for row in rows:
        yield _line([_cell(row.get(column, "")) for column in columns])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).split()).replace("|", "\\|")


def rows_of(results: object, path: tuple[str, ...] = ()) -> Iterator[dict[str, object]]:
    """Nested results as rows of a table: where each number stands, and the number."""
    if isinstance(results, Mapping):
        for key, value in results.items():
            yield from rows_of(value, (*path, str(key)))
    elif isinstance(results, int | float):
        yield {"measure": ", ".join(path), "value": float(results)}
