"""Samples per second against lm-eval's own `hf` model: the same rows, weights, dtype, machine, greedy decoding.

    python benchmarks/throughput.py --preset full-135m --workload multi_news --data-dir DATA --batch-sizes 1,8
    python benchmarks/throughput.py --preset full-135m --workload shared --length 8k --batch-sizes 1,8

multi_news: official LongBench prompts, nothing shared. shared: ten questions about each of a few long texts. Both
sides answer the same requests through lm-eval's interface, alternately, after one request as a warm-up. Each side is
reported at its best batch size. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM

from evals import registry
from evals.errors import UserError
from evals.lm_eval.model import AnyPreset
from evals.methods import presets, weights
from evals.methods.base import Runtime
from evals.run.spec import parse_length
from evals.tasks.base import DataSource
from evals.tasks.common.fitting import fitting_size
from evals.tasks.common.prompt import PromptBuilder
from evals.tasks.ruler.niah import Niah

QUESTIONS = 10


def multi_news(tokenizer: Any, arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Prompts of the official rows as text, with the official number of new tokens."""
    cls = registry.task("longbench")
    task = cls("multi_news", cls.settings_model(), DataSource(data_dir=arguments.data_dir, offline=True))
    found = task.instances(tokenizer, arguments.length, arguments.rows, 0)
    prompts = ((i.prompt, i.max_new_tokens) for i in found)
    return [(tokenizer.decode([*p.context, *p.query]), arguments.new_tokens or new) for p, new in prompts]


def shared(tokenizer: Any, arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Ten needles in each haystack of about `length` tokens, and a question for each needle."""
    family = Niah("noise", keys=QUESTIONS, queries=1)
    builder = PromptBuilder(tokenizer)

    def prompt(text: int, size: int, question: int) -> str:
        drawn = family.sample(random.Random(text), size, 0)
        keys = re.findall(r"for (\S+) is: \d{7}", drawn.context)
        asked = f"The special magic number for {keys[question]} mentioned in the text is"
        return f"{drawn.before}{drawn.context}\n\n{asked}"

    new = arguments.new_tokens or 32
    size = fitting_size(lambda n: len(builder.encode(prompt(0, n, 0))) + new, arguments.length, QUESTIONS, None)
    texts = max(1, arguments.rows // QUESTIONS)
    return [(prompt(text, size, question), new) for text in range(texts) for question in range(QUESTIONS)]


WORKLOADS = {"multi_news": multi_news, "shared": shared}


def seconds(model: LM, requests: list[Any], device: torch.device) -> tuple[float, list[str]]:
    """Wall time of all requests, and the answers."""
    begin = time.perf_counter()
    answers = model.generate_until(requests, disable_tqdm=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin, answers


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both sides at every batch size, alternately."""
    preset = presets.load_preset(arguments.preset)
    folder = weights.resolve(preset.weights, Runtime(offline=True))
    ours = AnyPreset(arguments.preset, device=arguments.device, dtype=arguments.dtype, offline=True)
    window = ours.max_length or arguments.length
    hf = HFLM(str(folder), device=arguments.device, dtype=arguments.dtype, max_length=window)
    rows = WORKLOADS[arguments.workload](ours.tokenizer, arguments)
    requests = [
        SimpleNamespace(args=(text, {"until": [], "max_gen_toks": new, "do_sample": False})) for text, new in rows
    ]
    for model in (ours, hf):
        seconds(model, requests[:1], ours.model.device)
    runs: dict[str, dict[int, list[float]]] = {"ours": {}, "hf": {}}
    answers: dict[str, list[str]] = {}
    for _ in range(arguments.repeats):
        for size in arguments.batch_sizes:
            for name, model in (("ours", ours), ("hf", hf)):
                set_batch_size(model, size)
                took, texts = seconds(model, requests, ours.model.device)
                runs[name].setdefault(size, []).append(took)
                answers.setdefault(name, texts)
                print(f"{name} batch {size}: {took:.2f} s, {len(rows) / took:.3f} samples/s", file=sys.stderr)
    best = {name: min(map(statistics.median, times.values())) for name, times in runs.items()}
    return {
        "workload": arguments.workload,
        "preset": preset.name,
        "dtype": arguments.dtype,
        "device": torch.cuda.get_device_name() if ours.model.device.type == "cuda" else "cpu",
        "rows": len(rows),
        "length": arguments.length,
        "seconds": runs,
        "samples_per_s": {name: len(rows) / took for name, took in best.items()},
        "ratio": best["hf"] / best["ours"],
        "equal_answers": sum(a == b for a, b in zip(answers["ours"], answers["hf"], strict=True)),
    }


def set_batch_size(model: AnyPreset | HFLM, size: int) -> None:
    if isinstance(model, AnyPreset):
        model.batch_size = size
    else:
        model.batch_size_per_gpu = size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="full-135m", help="name or YAML file of a full-attention preset")
    parser.add_argument("--workload", choices=WORKLOADS, default="shared")
    parser.add_argument("--data-dir", type=Path, help="folder with multi_news.jsonl")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--length", type=parse_length, default=4096)
    parser.add_argument("--new-tokens", type=int, help="default: those of the task, 32 for shared")
    parser.add_argument("--batch-sizes", type=lambda text: [int(n) for n in text.split(",")], default=[1])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        print(json.dumps(measure(arguments)))
    except UserError as error:
        print(f"throughput.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
