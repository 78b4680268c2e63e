"""NoLiMa (Modarressi et al. 2025, arXiv:2502.05167): needle and question share no word, only an association.

`source=generated` (the default): our own associations, in the user's own text. An instance depends on (hops, others,
start, seed, length, index, tokenizer, texts) alone. `source=official`: the published needles, books and prompts. The
score is the published one in both: the answer contains the character's name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common import documents as data
from evals.tasks.common.haystack import Haystack, hide, places, shared, window
from evals.tasks.common.prompt import Prompt, PromptBuilder, assemble, fill
from evals.tasks.common.rows import naming
from evals.tasks.common.spread import order
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.nolima import official
from evals.tasks.nolima.associations import CONTENT, TOPICS, draw
from evals.tasks.nolima.books import Book, opened
from evals.tasks.settings.chat import ChatSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 100
"""Generated samples."""
DEPTHS = 26
"""Official number of depths, from the beginning to the end."""
NEW_TOKENS = {"generated": 16, "official": 192}
OTHERS = 3
MOST_OTHERS = min(len(topic.chains) for topic in TOPICS) - 1
INSTRUCTION = "Some sentences about people are hidden in the following text.\n\n"
FORM = "\nAnswer with the name of the character alone."
BEGUN = "\nAnswer: The name of the character is"
"""Begins the answer of a model without a chat template."""


class NolimaSettings(ChatSettings):
    """source: `generated` needles in your own text (--data-dir, else Python's own help), or the `official` ones.
    set: official needle set, `needle_set` or `needle_set_hard`; the subset `direct` has its own. others: generated
    needles of the same kind about other characters (0 to 7). start: percent of the text before the first generated
    needle. max_new_tokens: answer budget; not given: 16, officially 192. chat: wrap the prompt in the tokenizer's chat
    template.
    """

    source: Literal["generated", "official"] = "generated"
    set: Literal["needle_set", "needle_set_hard"] = "needle_set"
    others: int = Field(OTHERS, ge=0, le=MOST_OTHERS)
    start: float = Field(0, ge=0, le=100)
    max_new_tokens: int | None = Field(None, ge=1)
    chat: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> NolimaSettings:
        if self.source == "official" and (self.others != OTHERS or self.start):
            raise ValueError("others and start are settings of source=generated")
        if self.source == "generated" and self.set != "needle_set":
            raise ValueError("set names official needles: add source=official")
        return self


class Nolima(Task):
    """Questions over one or two hops; `direct` ones repeat the needle's words, as a control."""

    settings: NolimaSettings
    settings_model = NolimaSettings
    name: ClassVar[str] = "nolima"
    subsets: ClassVar[Sequence[str]] = ("onehop", "twohop", "direct")
    lengths: ClassVar[Sequence[int]] = (1024, 2048, 4096, 8192, 16384, 32768)

    @property
    def hops(self) -> str:
        """Name of the subset."""
        assert self.subset is not None, "the grid gives every cell one subset"
        return self.subset

    @property
    def _set(self) -> str:
        return "needle_set_ONLYDirect" if self.hops == "direct" else self.settings.set

    def check(self) -> None:
        if self.settings.source == "generated":
            data.verify(self.data)
        else:
            official.asked(official.needles(self._set, self.data), self.hops)
            official.books(self.data)

    def files(self) -> Sequence[Path]:
        if self.settings.source == "official":
            return official.files(self.data)
        return data.files(self.data)

    def made_to(self, length: int) -> bool:
        return self.settings.source == "generated"

    def sample_count(self) -> int | None:
        return SAMPLES if self.settings.source == "generated" else None

    def answer_tokens(self) -> int:
        return self.settings.max_new_tokens or NEW_TOKENS[self.settings.source]

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        assert length is not None, "a cell of NoLiMa always has a length"
        builder = self.settings.builder(tokenizer)
        if self.settings.source == "official":
            yield from self._official(builder, length, limit, seed)
            return
        texts = shared(builder, self.data)
        for index in range(min(SAMPLES, limit or SAMPLES)):
            yield self._generated(builder, texts, length, seed, index)

    def _generated(self, builder: PromptBuilder, texts: Haystack, length: int, seed: int, index: int) -> Instance:
        asked = self.settings
        rng = random.Random(f"nolima {self.hops}:{asked.others}:{asked.start:g}:{seed}:{length}:{index}")
        around = window(rng, texts, length, length)  # a little too long; what is used of it is cut below
        words = CONTENT.findall(str(builder.tokenizer.decode(around)).lower())
        association, name, others = draw(rng, self.hops, asked.others, words)
        question = association.question(self.hops)
        told = [association.needle(name), *(other.needle(whose) for other, whose in others)]
        needles = [builder.encode(" " + text, after=".") for text in told]
        after = f"\n\nQuestion: {question}{FORM}"
        begun = "" if asked.chat else BEGUN
        frame = builder.frame(INSTRUCTION, after, chat=asked.chat, question=question, answer=begun)
        room = length - len(frame) - self.answer_tokens() - sum(map(len, needles))
        if room < 0:
            raise UserError(f"A length of {length} tokens cannot hold NoLiMa: choose a larger --length.")
        noise = around[:room]
        where = sorted(rng.choices(places(noise, texts.ends, asked.start, 100), k=len(needles)))
        turn = rng.sample(range(len(needles)), len(needles))
        hidden = hide(noise, [needles[i] for i in turn], where)
        begin = hidden.starts[turn.index(0)]
        prompt = assemble(frame, hidden.ids, evidence=(begin, begin + len(needles[0])))
        meta = {
            "needle": told[0],
            "others": [whose for _, whose in others],
            "depth_percent": round(100 * begin / len(hidden.ids), 2),
        }
        return self._instance(builder, str(index), prompt, name, question, meta)

    def _official(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        """Every question at every depth of every book, in an order whose every start is spread over them."""
        asked = official.asked(official.needles(self._set, self.data), self.hops)
        books = [opened(file, builder) for file in official.books(self.data)]
        grid = list(product(range(len(asked)), range(len(books)), range(DEPTHS)))
        ranked = [grid[i] for i in sorted(range(len(grid)), key=order)]
        for which, book, depth in ranked[:limit]:
            chosen = asked[which]
            name = f"{chosen.id}-book{book + 1}-depth{depth:02d}"
            character = random.Random(f"nolima {name}:{seed}").choice(chosen.names)
            with naming(books[book].name):
                prompt = self._placed(books[book], chosen, character, length, depth / (DEPTHS - 1))
            question = chosen.question.replace(official.NAME, character)
            meta = {
                "needle": chosen.needle.replace(official.NAME, character),
                "others": [],
                "depth_percent": round(100 * depth / (DEPTHS - 1), 2),
            }
            yield self._instance(books[book].builder, name, prompt, character, question, meta)

    def _placed(self, book: Book, asked: official.Asked, character: str, length: int, depth: float) -> Prompt:
        """The published prompt, of at most `length` ids with the answer."""
        question = asked.question.replace(official.NAME, character)
        needle = asked.needle.replace(official.NAME, character)
        before, after = fill(asked.template, question=question)
        budget = length - self.answer_tokens()
        tokens = budget - len(book.builder.encode(before + needle + after))
        while tokens > 0:
            start, rest = book.around(tokens, depth)
            prompt = book.builder.build(
                before,
                f"{start} {needle}\n{rest}",
                after,
                chat=self.settings.chat,
                question=question,
                template=asked.template,
                evidence=(len(start) + 1, len(start) + 1 + len(needle)),
            )
            if len(prompt) <= budget:
                return prompt
            tokens -= len(prompt) - budget
        raise UserError(f"A length of {length} tokens cannot hold NoLiMa: choose a larger --length.")

    def _instance(
        self, builder: PromptBuilder, name: str, prompt: Prompt, character: str, question: str, meta: dict[str, object]
    ) -> Instance:
        return Instance(
            id=name,
            prompt=prompt,
            max_new_tokens=self.answer_tokens(),
            stop=stop_at_end(builder.tokenizer),
            thinking=self.settings.reading(builder, self.settings.chat),
            reference=character,
            group=name,
            meta={"source": self.settings.source, "question": question, **meta},
        )

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score: as published, 1 where the answer contains the name. chance: that of a name out of those hidden.

        alone: 1 where it contains the name and none of the others that are hidden with it (generated).
        """
        others = instance.meta["others"]
        right = instance.reference in output.text
        if self.settings.source == "official":
            return {"score": float(right)}
        return {
            "score": float(right),
            "alone": float(right and not any(name in output.text for name in others)),
            "chance": 1 / (1 + len(others)) if others else 0.0,
        }
