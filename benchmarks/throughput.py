"""Samples per second against lm-eval's own `hf` model: the same rows, weights, dtype, machine, greedy decoding.

    python benchmarks/throughput.py --preset full-135m --workload multi_news --data-dir DATA --batch-sizes 1,8
    python benchmarks/throughput.py --preset full-7b --random-weights --dtype bfloat16 --length 8k --new-tokens 64 \\
      --workload shared,drawn --batch-sizes 1,8 --seconds 10 --output runs/throughput.jsonl

multi_news: official LongBench prompts, nothing shared. qmsum: official, with up to eleven questions about a meeting.
drawn: random words instead, with lengths like those of the longer multi_news rows. shared: ten questions about each of
a few long texts.

Both sides answer the same requests through lm-eval's interface, piece by piece and in turn, after one batch of each
size as a warm-up. --seconds ends a workload after the piece in which that much time was measured; what counts are the
pieces that both sides have answered at every batch size. Each side is reported at its best size, in a line of JSON per
workload on stdout. With --output every piece is recorded, and a second start goes on after the last one.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from throughput_prompts import WORKLOADS, Asked, Row, data_digests, pieces
from throughput_record import Record, summary

from evals.errors import UserError
from evals.lm_eval.model import AnyPreset
from evals.measure.hardware import device_name
from evals.measure.request import is_out_of_memory
from evals.methods import presets, weights
from evals.methods.base import Runtime
from evals.run.spec import Device, parse_length, split_list

Side = AnyPreset | HFLM


def load(options: argparse.Namespace) -> dict[str, Side]:
    """Both sides, with the same weights, neither of which cuts a prompt of `--length` tokens."""
    random, length, dtype = options.random_weights, options.length, options.dtype
    ours = AnyPreset(
        options.preset,
        device=options.device,
        dtype=dtype,
        offline=True,
        random_weights=random,
        max_length=length,
    )
    preset = presets.load_preset(options.preset)
    if not random:
        folder = weights.resolve(preset.weights, Runtime(offline=True))
        return {"ours": ours, "hf": HFLM(str(folder), device=options.device, dtype=dtype, max_length=length)}
    runtime = Runtime(device=options.device, dtype=dtype, random_weights=True, offline=True)
    model, tokenizer = weights.load_base(preset.weights, runtime, preset.shape)
    for each in (tokenizer, ours.tokenizer):  # answers are compared as text, so that every id needs one
        each.add_tokens([f"<{i}>" for i in range(len(each), model.config.vocab_size)])
    assert model.generation_config is not None
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return {"ours": ours, "hf": HFLM(model, tokenizer=tokenizer, max_length=length)}


def answer(side: Side, rows: Sequence[Row], batch_size: int) -> tuple[float, list[str]]:
    """Wall time in seconds of all rows, and the answers."""
    if isinstance(side, AnyPreset):
        side.batch_size = batch_size
    else:
        side.batch_size_per_gpu = batch_size
    asked = [
        SimpleNamespace(args=(row.text, {"until": [], "max_gen_toks": row.new_tokens, "do_sample": False}))
        for row in rows
    ]
    gc.collect()  # keys and values of the answers before may still hang in a reference cycle
    begin = time.perf_counter()
    answers = side.generate_until(asked, disable_tqdm=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, answers


def measure(
    sides: dict[str, Side], workload: str, cut: list[list[Row]], options: argparse.Namespace, kept: Record
) -> None:
    """Both sides at every batch size on the pieces that are still to do, until `--seconds` were measured.

    Raises UserError where no batch size fits into memory.
    """
    done, spent = kept.of(workload), 0.0
    todo = [size for size in options.batch_sizes if len(done.get(size, {})) < len(cut)]
    longest = max(cut, key=lambda rows: rows[0].tokens)
    sizes = [size for size in todo if try_out(sides, workload, longest[:size], size)]
    if not sizes and len(todo) == len(options.batch_sizes):
        raise UserError(f"No batch of {workload} fits into memory: choose smaller --batch-sizes or a shorter --length.")
    for number, rows in enumerate(cut):
        for size in sizes:
            if number in done.get(size, {}):
                continue
            found = {name: answer(side, rows, size) for name, side in sides.items()}
            took = {name: seconds for name, (seconds, _) in found.items()}
            equal = sum(a == b for a, b in zip(found["ours"][1], found["hf"][1], strict=True))
            at = {"workload": workload, "batch_size": size, "piece": number, "samples": len(rows)}
            kept.pieces.append({**at, **took, "equal": equal})
            kept.write()
            spent += sum(took.values())
            say(
                f"{workload}, batch size {size}, piece {number + 1} of {len(cut)}: ours {took['ours']:.2f} s, hf "
                f"{took['hf']:.2f} s for {len(rows)} samples, {equal} answers equal"
            )
        if options.seconds is not None and spent >= options.seconds:
            return


def try_out(sides: dict[str, Side], workload: str, rows: Sequence[Row], size: int) -> bool:
    """One batch as a warm-up; False where it does not fit into memory."""
    try:
        took = {name: answer(side, rows, size)[0] for name, side in sides.items()}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say(f"{workload}, batch size {size}: out of memory, left out")
        return False
    say(f"{workload}, batch size {size}, warm-up: ours {took['ours']:.2f} s, hf {took['hf']:.2f} s")
    return True


def say(line: str) -> None:
    """Progress, at once."""
    print(line, file=sys.stderr, flush=True)


def results(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A summary of each workload, as soon as it is measured."""
    keys = ("preset", "random_weights", "dtype", "rows", "length", "shortest", "new_tokens", "batch_sizes")
    settings = {key: getattr(options, key) for key in keys}
    asked = Asked(options.rows, options.length, options.shortest, options.new_tokens, options.data_dir)
    settings |= {"device": device_name(torch.device(options.device)), "torch": torch.__version__}
    settings["data"] = data_digests(options.workload, asked)
    kept, sides = Record(options.output, settings), load(options)
    for workload in options.workload:
        rows = WORKLOADS[workload](sides["ours"].tokenizer, asked)
        measure(sides, workload, pieces(workload, rows, options.batch_sizes), options, kept)
        kept.results[workload] = summary(rows, kept.of(workload))
        kept.write()
        yield {"workload": workload, **settings, **kept.results[workload]}


def whole(text: str) -> int:
    """A whole number from 1 on."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def workloads(text: str) -> list[str]:
    """Names of `WORKLOADS`, separated by commas."""
    found = split_list([text])
    if not found or set(found) - WORKLOADS.keys():
        raise argparse.ArgumentTypeError(f"choose from {', '.join(WORKLOADS)}")
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="full-135m", help="name or YAML file of a full-attention preset")
    parser.add_argument("--random-weights", action="store_true", help="of the preset's shape")
    parser.add_argument("--workload", type=workloads, default=["shared"], help=", ".join(WORKLOADS))
    parser.add_argument("--data-dir", type=Path, help="folder with multi_news.jsonl or qmsum.jsonl")
    parser.add_argument("--rows", type=whole, default=40)
    parser.add_argument("--length", type=parse_length, default=4096)
    parser.add_argument("--shortest", type=parse_length, default=0, help="tokens of an official prompt, at least")
    parser.add_argument("--new-tokens", type=whole, help="default: those of an official task, else 32")
    parser.add_argument("--batch-sizes", type=lambda text: sorted({whole(n) for n in text.split(",")}), default=[1])
    parser.add_argument("--seconds", type=float, help="measured time after which a workload ends")
    parser.add_argument("--require-equal", action="store_true", help="exit code 1 where an answer differs (float32)")
    parser.add_argument("--device", type=Device, choices=Device, default=Device.auto)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, help="JSON file; a second start goes on with it")
    options = parser.parse_args(words)
    if options.device == Device.auto:
        options.device = Device.cuda if torch.cuda.is_available() else Device.cpu
    differ = False
    try:
        for found in results(options):
            print(json.dumps(found), flush=True)
            differ |= found["equal_answers"] < 1
    except UserError as error:
        print(f"throughput.py: {error}", file=sys.stderr)
        sys.exit(2)
    if options.require_equal and differ:
        print("throughput.py: some answers of the two sides differ.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
