"""Which method runs over which family of bases: the table of docs/methods.md, from tiny random models.

    python benchmarks/base_families.py            # prints the table
    python benchmarks/base_families.py --write    # puts it into docs/methods.md

A cell says that it runs: then the logits are those of the stock transformers model wherever the method leaves the text
as it is (window larger than the text, factor 1, no compression). Otherwise it holds a number, that of the sentence
which refuses the base.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from evals import Query, Runtime, UserError, load_preset, method
from evals.methods.tokenizers import byte_tokenizer
from evals.methods.weights import random_model, shape_config
from sharedllm.nn.layers import stock_decoder

DOCUMENT = Path(__file__).parents[1] / "docs" / "methods.md"
MARKS = "<!-- base families: begin -->", "<!-- base families: end -->"
LENGTH = 24
PLAIN = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 0,
}
GROUPED = PLAIN | {"intermediate_size": 48, "num_key_value_heads": 2}
MIXED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2, "head_dim": 16}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama, SmolLM2": {"model_type": "llama", **GROUPED},
    "Mistral": {"model_type": "mistral", **GROUPED, "sliding_window": None},
    "Mistral, sliding window": {"model_type": "mistral", **GROUPED, "sliding_window": 8},
    "Qwen2": {"model_type": "qwen2", **GROUPED},
    "Qwen3": {"model_type": "qwen3", **GROUPED, "head_dim": 16},
    "Qwen3 MoE": {
        "model_type": "qwen3_moe",
        **GROUPED,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    },
    "SmolLM3": {"model_type": "smollm3", **GROUPED, "no_rope_layers": [1, 0, 1, 1], "use_sliding_window": False},
    "Granite": {
        "model_type": "granite",
        **GROUPED,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "OLMo 2": {"model_type": "olmo2", **GROUPED},
    "Gemma 2": {"model_type": "gemma2", **GROUPED, **MIXED},
    "Gemma 3": {"model_type": "gemma3_text", **GROUPED, **MIXED},
    "Gemma 3, multimodal": {
        "model_type": "gemma3",
        "text_config": {**GROUPED, **MIXED},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
    },
    "Phi-3": {"model_type": "phi3", **GROUPED, "sliding_window": None},
    "Phi-3, LongRoPE": {
        "model_type": "phi3",
        **GROUPED,
        "sliding_window": None,
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 32,
        },
    },
    "Llama, dynamic NTK": {
        "model_type": "llama",
        **GROUPED,
        "max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    },
    "GLM-4": {"model_type": "glm4", **GROUPED, "head_dim": 8},
    "StableLM": {"model_type": "stablelm", **GROUPED, "hidden_size": 64},
    "GPT-NeoX, Pythia": {"model_type": "gpt_neox", **PLAIN, "hidden_size": 64, "intermediate_size": 48},
    "OPT": {"model_type": "opt", **PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPT-2": {"model_type": "gpt2", **PLAIN},
    "Falcon": {"model_type": "falcon", **PLAIN, "alibi": False},
    "Mixtral": {"model_type": "mixtral", **GROUPED, **EXPERTS, "sliding_window": None},
    "gpt-oss": {"model_type": "gpt_oss", **GROUPED, **MIXED, **EXPERTS},
    "Llama 4": {
        "model_type": "llama4_text",
        **GROUPED,
        **EXPERTS,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 8,
    },
    "Cohere": {"model_type": "cohere", **GROUPED},
    "LFM2": {"model_type": "lfm2", **GROUPED, "layer_types": ["conv", "full_attention"] * 2},
    "Mamba": {"model_type": "mamba", **{k: v for k, v in PLAIN.items() if "atten" not in k and "posit" not in k}},
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {"block": 7}),
    "truncated": ("truncated", {"window": 32}),
    "streaming_llm": ("streaming_llm", {"sinks": 2, "recent": 30, "chunk": 8}),
    "yarn": ("yarn", {"dynamic": True}),
    "sharedllm": ("sharedllm", {"chunk_size": 32, "ratios": [4, 2], "lower_layers": 1}),
    "cepe": ("cepe", {"window": 32, "chunk": 8}),
    "longllama": ("longllama", {}),
    "activation_beacon": ("activation_beacon", {}),
}


@dataclass(frozen=True)
class Found:
    """What became of one method over one family. difference: of log-probabilities, relative; None where refused."""

    family: str
    method: str
    refused: str | None = None
    difference: float | None = None


def save(family: str, folder: Path) -> Path:
    """A folder with a tiny random model of the family, as it would come from the hub."""
    made = random_model(shape_config(FAMILIES[family]), Runtime(attn="eager"))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():  # norms of one and scores near zero would hide mistakes
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12, generator=generator)
    made.save_pretrained(folder)
    byte_tokenizer(300).save_pretrained(folder)
    return folder


def run(family: str, name: str, folder: Path) -> Found:
    """One method over one family."""
    kind, settings = METHODS[name]
    preset = folder / f"{name}.yaml"
    preset.write_text(f"name: {name}\nmethod: {kind}\ndescription: tiny\nweights: {{source: {folder}}}\n", "utf-8")
    ids = [(7 * i * i + 3 * i) % 250 for i in range(LENGTH)]
    try:
        model = method(kind).load(load_preset(str(preset)).override(settings), Runtime(attn_fallback="eager"))
        found = model.prefill(ids[:15], [256]).score(Query(ids[15:18]), ids[18:])
        model.cost(20, 4)
    except UserError as error:
        return Found(family, name, refused=general(str(error), family, folder))
    wanted = stock_scores(folder, model.model, [256, *ids], len(ids) - 18)  # type: ignore[attr-defined]
    return Found(family, name, difference=float((found - wanted).norm() / wanted.norm()))


def general(sentence: str, family: str, folder: Path) -> str:
    """A sentence without what is particular to this base."""
    kind = FAMILIES[family]["model_type"]
    for name in (f"{kind}_text", kind):
        sentence = sentence.replace(f"'{name}'", "'TYPE'").replace(f"is a {name}:", "is a TYPE:")
    return " ".join(sentence.replace(str(folder), "FOLDER").split())


@torch.inference_mode()
def stock_scores(folder: Path, like: PreTrainedModel, ids: list[int], count: int) -> torch.Tensor:
    """Log-probabilities of the last `count` ids by transformers alone, in one forward."""
    kernel = "eager" if "eager" in str(stock_decoder(like).config._attn_implementation) else "sdpa"
    stock = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kernel).eval()
    logits = stock(torch.tensor([ids])).logits[0].log_softmax(-1)
    return logits[-count - 1 : -1].gather(1, torch.tensor(ids[-count:])[:, None])[:, 0]


def all_found() -> Iterator[Found]:
    """Every method over every family."""
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            save(family, Path(folder))
            for name in METHODS:
                yield run(family, name, Path(folder))


def table(found: list[Found]) -> str:
    """Markdown: families by methods, then the numbered sentences."""
    sentences = list(dict.fromkeys(each.refused for each in found if each.refused))
    cells = {(f.family, f.method): str(sentences.index(f.refused) + 1) if f.refused else "yes" for f in found}
    head = ["base", *(f"`{name}`" for name in METHODS)]
    rows = [[family, *(cells[family, name] for name in METHODS)] for family in FAMILIES]
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", *(f"{number}. {text}" for number, text in enumerate(sentences, 1))])


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or write it between its marks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="put the table into docs/methods.md")
    text = table(list(all_found()))
    if not parser.parse_args(arguments).write:
        print(text)
        return
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
