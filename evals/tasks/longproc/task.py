"""Long answers in the manner of LongProc (Ye et al. 2025, arXiv:2501.05414): routes, and states after every step.

Kept from there: the two tasks, marked rows, the share of rows before the first error. Changed: names, wording and sizes
are generated here, so scores must not stand beside published ones. An instance depends on (task, output, steps, rooms,
seed, length, index, tokenizer, texts) alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common import documents
from evals.tasks.common.haystack import hide, places, shared, window
from evals.tasks.common.prompt import Frame, Prompt, assemble
from evals.tasks.common.prompt_builder import PromptBuilder
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.longproc import households, routes, scores
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
MARKS = 16
"""Tokens of the answer that are left for its marks."""
MOST_STEPS = 1000
ROW_TOKENS = 4
PROBE = 100
"""Lines whose mean length tells how many are wanted."""


class LongProcSettings(ChatSettings):
    """How long an answer is asked for."""

    output: int = Field(
        512, ge=64, le=16384, description="answer budget, part of the length; published sizes are 512, 2048 and 8192"
    )
    steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="most rows of an answer; null: as many as the output holds"
    )
    rooms: int = Field(2, ge=2, le=8, description="of a house, for state_tracking")
    chat: bool = Field(False, description="wrap the prompt in the tokenizer's chat template")


class LongProc(Task):
    """path_traversal: the route between two towns. state_tracking: what is where, and believed, after every step."""

    settings: LongProcSettings
    settings_model = LongProcSettings
    name: ClassVar[str] = "longproc"
    subsets: ClassVar[Sequence[str]] = ("path_traversal", "state_tracking")
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768)

    def check(self) -> None:
        if self.subset == "state_tracking":
            documents.verify(self.data)

    def files(self) -> Sequence[Path]:
        return documents.files(self.data) if self.subset == "state_tracking" else []

    def made_to(self, length: int) -> bool:
        return True

    def sample_count(self) -> int:
        return SAMPLES

    def answer_tokens(self) -> int:
        return self.settings.output

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of LongProc always has a length"
        builder = self.settings.builder(tokenizer)
        make = self._route if self.subset == "path_traversal" else self._states
        asked = self.settings
        key = f"longproc {self.subset}:{asked.output}:{asked.steps}:{asked.rooms}:{seed}:{length}"
        for index in range(min(SAMPLES, limit or SAMPLES)):
            prompt, rows, guess = make(builder, f"{key}:{index}", length)
            yield Instance(
                id=str(index),
                prompt=prompt,
                max_new_tokens=asked.output,
                stop=stop_at_end(tokenizer),
                thinking=asked.reading(builder, asked.chat),
                reference=rows,
                group=str(index),
                meta={"source": "generated", "steps": len(rows), "guess": guess},
            )

    def _most(self) -> int:
        """Rows of an answer, at most: no row has fewer than `ROW_TOKENS` tokens."""
        return min(self.settings.steps or MOST_STEPS, max(1, self.settings.output // ROW_TOKENS))

    def _fitting(self, builder: PromptBuilder, rows: Sequence[str]) -> int:
        """How many of the rows fit the output; one at least."""
        sizes = [len(row) for row in lines(builder, [row + "\n" for row in rows])]
        return max(1, int(np.searchsorted(np.cumsum(sizes), self.settings.output - MARKS, side="right")))

    def _frame(self, builder: PromptBuilder, before: str, question: str, form: str, begun: str) -> Frame:
        chat = self.settings.chat
        after = f"\n\n{question}\n{form}\n"
        return builder.frame(before, after, chat=chat, question=question, answer="" if chat else begun)

    def _room(self, frame: Frame, length: int, told: Sequence[Sequence[int]]) -> int:
        """Tokens that are left of the length."""
        room = length - len(frame) - self.settings.output - sum(map(len, told))
        if room < 0:
            raise UserError(
                f"A length of {length} tokens cannot hold {len(told)} steps and an answer of {self.settings.output} "
                "tokens: choose a larger --length, or a smaller output."
            )
        return room

    def _route(self, builder: PromptBuilder, key: str, length: int) -> tuple[Prompt, list[str], float]:
        """The map of a route, with as many other connections as the length holds."""
        steps = self._fitting(builder, routes.draw(random.Random(key), self._most(), 0).rows)
        few = lines(builder, routes.draw(random.Random(key), steps, PROBE).lines)
        others = length * len(few) // sum(map(len, few)) + PROBE
        drawn = routes.draw(random.Random(key), steps, others)
        frame = self._frame(builder, routes.BEFORE, drawn.question, routes.FORM, f"{scores.OPEN}\n")
        told = lines(builder, drawn.lines)
        room = self._room(frame, length, told[:steps])
        fitting = int(np.searchsorted(np.cumsum([len(line) for line in told[steps:]]), room, side="right"))
        taken = told[: steps + fitting]
        random.Random(f"{key}:order").shuffle(taken)
        prompt = assemble(frame, [i for line in taken for i in line])
        return prompt, drawn.rows, 1 / (len(routes.WAYS) * len(taken))

    def _states(self, builder: PromptBuilder, key: str, length: int) -> tuple[Prompt, list[str], float]:
        """A story whose steps are hidden in a text."""
        rooms = self.settings.rooms
        story = households.draw(random.Random(key), self._most() - 1, rooms)
        taken = self._fitting(builder, story.rows)
        told = [builder.encode(f" {step}", after=".") for step in story.told[:taken]]
        form = households.FORM.format(example=story.example)
        frame = self._frame(builder, households.BEFORE, story.question, form, "Answer:\n")
        texts, rng = shared(builder, self.data), random.Random(f"{key}:places")
        noise = window(rng, texts, self._room(frame, length, told), length)
        where = sorted(rng.choices(places(noise, texts.ends, 0, 100), k=taken))
        guess = 1 / ((rooms + 1) * 2 * rooms * (2 * rooms + 1))
        return assemble(frame, hide(noise, told, where).ids), story.rows[:taken], guess

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: the share of rows before the first error. accuracy: 1 where all rows are right and there are no more.

        rows: given, as a share of those wanted. chance: the expected score where every row is guessed.
        """
        read = scores.route if self.subset == "path_traversal" else scores.states
        given, wanted = read(output.text), read("\n".join(instance.reference))
        guess, count = instance.meta["guess"], len(wanted)
        return {
            "score": scores.right_rows(given, wanted) / count,
            "accuracy": float(given == wanted),
            "rows": len(given) / count,
            "chance": sum(guess**k for k in range(1, min(count, 20) + 1)) / count,
        }


def lines(builder: PromptBuilder, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each line, as it stands after another; all are tokenised as one text."""
    whole = builder.encode_with_spans("".join(texts), after="\n")
    ends = np.cumsum([len(text) for text in texts])
    cuts = np.searchsorted(whole.spans[:, 1], ends, side="right")
    return [whole.ids[first:last] for first, last in pairwise([0, *cuts])]
