"""What `throughput.py` asks: workloads as prompts, cut into pieces that both sides answer in turn."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evals import registry
from evals.errors import UserError
from evals.hashing import digests_of_files
from evals.tasks.base import BaseTask, DataSource
from evals.tasks.common.fitting import fitting_size
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.ruler.niah import Niah

QUESTIONS = 10
NEW_TOKENS = 32
LENGTHS = (0.501, 0.507, 0.533, 0.562, 0.588, 0.600, 0.642, 0.699, 0.765, 0.882, 0.977)
"""Deciles of the official multi_news rows from 4K to 8K tokens (33 of 200, tokenizer of SmolLM2), as shares of 8K."""


@dataclass(frozen=True)
class Row:
    """A prompt, its length in tokens, and how many new tokens are asked for."""

    text: str
    tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Asked:
    """What the prompts are like. shortest: official rows of fewer tokens are left out. length: of prompt and answer."""

    rows: int
    length: int
    shortest: int = 0
    new_tokens: int | None = None
    data_dir: Path | None = None


def official(task: str, tokenizer: Any, asked: Asked) -> list[Row]:
    """Prompts of a LongBench task's official rows as text, with its number of new tokens if no other is asked for.

    Raises UserError where no row is long enough.
    """
    found = []
    for instance in _longbench(task, asked).instances(tokenizer, asked.length, None, 0):
        ids = [*instance.prompt.context, *instance.prompt.query]
        if len(ids) >= asked.shortest and len(found) < asked.rows:
            new_tokens = asked.new_tokens or instance.max_new_tokens
            found.append(Row(tokenizer.decode(ids), len(ids), new_tokens))
    if not found:
        raise UserError(f"No row of {task} has {asked.shortest} tokens: choose a smaller --shortest.")
    return found


def data_digests(workloads: Sequence[str], asked: Asked) -> list[str]:
    """Hashes of the official rows that these workloads read in the folder that was given, if any."""
    if not asked.data_dir:
        return []
    return digests_of_files(
        [path for task in OFFICIAL if task in workloads for path in _longbench(task, asked).files()]
    )


def _longbench(task: str, asked: Asked) -> BaseTask:
    cls = registry.task("longbench")
    return cls(task, cls.settings_model(), DataSource(data_dir=asked.data_dir, offline=True))


def drawn(tokenizer: Any, asked: Asked) -> list[Row]:
    """Random words, nothing shared. Lengths are spread like those of the longer multi_news rows (`LENGTHS`)."""
    source, rows = random.Random(0), []
    new = asked.new_tokens or NEW_TOKENS
    for share in np.interp((np.arange(asked.rows) + 0.5) / asked.rows, np.linspace(0, 1, len(LENGTHS)), LENGTHS):
        size = int(share * asked.length) - new
        words = ["".join(source.choices("abcdefghijklmnoprstuvw", k=source.randint(2, 8))) for _ in range(max(size, 8))]
        per_word = len(tokenizer.encode(" ".join(words[:200]))) / min(len(words), 200)
        text = " ".join(words[: max(1, int(size / per_word * 0.99))])  # a little less: the rate is that of 200 words
        rows.append(Row(text, len(tokenizer.encode(text)), new))
    return rows


def shared(tokenizer: Any, asked: Asked) -> list[Row]:
    """Ten needles in each haystack of about `length` tokens, and a question for each needle.

    Raises UserError where they do not fit: a prompt that both sides cut would share nothing.
    """
    family, new = Niah("noise", keys=QUESTIONS, queries=1), asked.new_tokens or NEW_TOKENS
    builder = PromptBuilder(tokenizer)

    def prompt(text: int, size: int, question: int) -> str:
        made = family.sample(random.Random(text), size, 0)
        keys = re.findall(r"for (\S+) is: \d{7}", made.context)
        return f"{made.before}{made.context}\n\nThe special magic number for {keys[question]} mentioned in the text is"

    def rows(size: int) -> list[Row]:
        texts = range(max(1, asked.rows // QUESTIONS))
        made = [prompt(text, size, question) for text in texts for question in range(QUESTIONS)]
        return [Row(text, len(builder.encode(text)), new) for text in made]

    size = fitting_size(lambda n: len(builder.encode(prompt(0, n, 0))) + new, asked.length, QUESTIONS, None)
    for smaller in range(size, QUESTIONS - 1, -1):  # the keys of another text may be longer
        found = rows(smaller)
        longest = max(row.tokens for row in found) + new
        if longest <= asked.length:
            return found
    raise UserError(f"{QUESTIONS} needles and an answer take {longest} tokens: choose a longer --length.")


OFFICIAL = ("multi_news", "qmsum")
WORKLOADS = {**{task: partial(official, task) for task in OFFICIAL}, "drawn": drawn, "shared": shared}


def pieces(workload: str, rows: Sequence[Row], batch_sizes: Sequence[int]) -> list[list[Row]]:
    """The rows in pieces that are whole batches of every size; each side answers one at a time.

    A text stays with all of its questions, since reading it once is what is to be measured. Other rows are grouped by
    length, as both sides do, and the pieces are shuffled: a run that ends early has seen long and short ones.
    """
    size = math.lcm(*batch_sizes, QUESTIONS if workload == "shared" else 1)
    if workload != "shared":
        rows = sorted(rows, key=lambda row: -row.tokens)
    made = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    random.Random(0).shuffle(made)
    return made
