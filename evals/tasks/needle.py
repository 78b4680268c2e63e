"""Needle in a haystack (Kamradt 2023, github.com/gkamradt/LLMTest_NeedleInAHaystack): a fact is put at a known depth
of a long text and asked for.

Kept from there: sorted-and-repeated haystack, insertion on token ids behind a sentence end, the spacing of several
needles, the classic needle. Changed: answers are 7-digit numbers of random keys and compared exactly, so neither
a judge model nor knowledge of the world decides; the haystack is trimmed so that prompt + answer is the length.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from evals.errors import UserError
from evals.methods.base import Stop
from evals.tasks.base import Instance, Output, Task, TaskSettings
from evals.tasks.common import documents as data
from evals.tasks.common.prompt import Frame, PromptBuilder, assemble
from evals.tasks.common.source import DataSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGITS = 7
CITIES = (  # noqa: SIM905 - a list literal of a hundred quoted names is hard to read
    "Aberdeen Accra Adelaide Almaty Antwerp Asuncion Athens Baku Bamako Belgrade Bergen Bilbao Bogota Bologna Bremen "
    "Brisbane Bucharest Cairo Calgary Cardiff Casablanca Dakar Dresden Dublin Durban Edmonton Florence Geneva Genoa "
    "Ghent Glasgow Graz Hamburg Hanoi Harare Havana Helsinki Hobart Istanbul Jakarta Kampala Karachi Krakow Kyoto "
    "Lagos Lahore Leipzig Lima Lisbon Ljubljana Luanda Lusaka Lyon Malaga Manila Maputo Marseille Medellin Montevideo "
    "Munich Nagoya Nairobi Nantes Naples Osaka Oslo Ottawa Palermo Perth Porto Prague Pretoria Quito Riga Rotterdam "
    "Salzburg Santiago Sapporo Seville Sofia Stockholm Sydney Tallinn Tbilisi Tirana Toronto Toulouse Trieste Tunis "
    "Turin Utrecht Valencia Venice Vienna Vilnius Warsaw Windhoek Yerevan Zagreb Zurich"
).split()
ITEMS = (  # noqa: SIM905
    "amber box|brass cabinet|bronze gate|cedar chest|copper vault|crystal case|ebony drawer|glass cupboard|granite "
    "cellar|green locker|iron safe|ivory casket|jade shrine|leather trunk|marble crypt|mirror room|north tower|oak "
    "wardrobe|old barn|painted shed|pine crate|red garage|silver coffer|south tower|steel container|stone archive|"
    "tin canister|velvet pouch|walnut desk|white pavilion|wooden hatch|yellow depot"
).split("|")


@dataclass(frozen=True)
class Wording:
    """How a fact is told and asked. {key} and {value} are filled in; stem begins the answer."""

    needle: str
    question: str
    stem: str
    keys: Sequence[str] = ()


TEMPLATES = {
    # The wording that a trained adapter may have seen; needle and question share most of their words.
    "city": Wording(
        "The magic number for {key} is {value}.",
        "What is the magic number for {key}?",
        " The magic number for {key} is",
        CITIES,
    ),
    # Only the key is shared between needle and question.
    "item": Wording(
        "To unlock the {key}, the guard types {value}.", "Which code opens the {key}?", " It is opened by", ITEMS
    ),
    "classic": Wording(
        "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.",
        "What is the best thing to do in San Francisco?",
        " The best thing to do in San Francisco is",
    ),
}
CLASSIC_ANSWER = "eat a sandwich and sit in Dolores Park on a sunny day"
NEW_TOKENS = {"city": 12, "item": 12, "classic": 32}


class NeedleSettings(TaskSettings):
    """depths: percent of the haystack before the (first) needle. samples: contexts per depth. needles: how many
    are in a context, the first at the depth and the others spread evenly behind it. questions: how many of them
    are asked on one read. chat: wrap the prompt in the tokenizer's chat template."""

    depths: data.Numbers = (0, 25, 50, 75, 100)
    samples: int = Field(1, ge=1)
    needles: int = Field(1, ge=1, le=32)
    questions: int = Field(1, ge=1)
    template: Literal["city", "item", "classic"] = "city"
    chat: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> NeedleSettings:
        if not self.depths or any(not 0 <= depth <= 100 for depth in self.depths):
            raise ValueError("depths are percentages from 0 to 100, at least one")
        if self.questions > self.needles:
            raise ValueError(f"{self.questions} questions need as many needles: set needles={self.questions}")
        if self.template == "classic" and self.needles > 1:
            raise ValueError("the classic needle is one sentence: set needles=1")
        return self


@dataclass(frozen=True)
class Fact:
    """A needle: its key, the number to find, and both as the sentence that is hidden."""

    key: str
    value: str
    sentence: str


class Needle(Task):
    """A grid of depths at one length; heat maps put the lengths side by side."""

    name = "needle"
    version = 1
    metric = "exact_match"
    lengths = (1024, 2048, 4096, 8192)
    settings_model = NeedleSettings

    def __init__(self, subset: str | None, settings: NeedleSettings, source: DataSource) -> None:
        super().__init__(subset, settings, source)
        self.wording = TEMPLATES[settings.template]
        self.grid = settings
        self._haystacks: dict[tuple[str, int], Haystack] = {}  # by tokenizer and sample, for all lengths

    def check(self) -> None:
        next(data.haystack(self.data))

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """Depths in an order whose every start is spread over the grid, so that a small limit is too; then the
        next sample of each. Raises UserError where needles and question alone are longer than `length`."""
        if length is None:
            raise UserError("The task needle needs a length: add --length 4k.")
        builder = PromptBuilder.of(tokenizer)
        made = 0
        for sample in range(self.grid.samples):
            key = builder.fingerprint, sample
            texts = self._haystacks.setdefault(key, Haystack(builder, self.data, first=sample))
            for depth in spread(self.grid.depths):
                facts = draw(self.grid.template, self.grid.needles, seed, length, depth, sample)
                for instance in self._ask(builder, texts, facts, length, depth, sample):
                    if limit is not None and made == limit:
                        return
                    made += 1
                    yield instance

    def _ask(
        self, builder: PromptBuilder, texts: Haystack, facts: list[Fact], length: int, depth: float, sample: int
    ) -> Iterator[Instance]:
        """One context, and a question about each of the first needles."""
        frames = [self._frame(builder, fact.key) for fact in facts[: self.grid.questions]]
        needles = [builder.encode(" " + fact.sentence, after=".") for fact in facts]
        new_tokens = NEW_TOKENS[self.grid.template]
        beside = max(map(len, frames)) + new_tokens + sum(map(len, needles))
        if length <= beside:
            raise UserError(
                f"A length of {length} tokens is too short for the needle task: needles, question and answer take "
                f"{beside}, so choose a longer --length or fewer needles."
            )
        hay = texts.ids(length - beside)
        context, positions = insert(hay, needles, depth, texts.ends)
        eos = builder.tokenizer.eos_token_id
        for index, (frame, fact) in enumerate(zip(frames, facts, strict=False)):
            start = positions[index]
            prompt = assemble(frame, context, budget=length, evidence=(start, start + len(needles[index])))
            yield Instance(
                id=f"depth{depth:g}-sample{sample}-needle{index}",
                prompt=prompt,
                max_new_tokens=new_tokens,
                stop=Stop(frozenset([eos])) if eos is not None else Stop(),
                reference=fact.value,
                group=f"depth{depth:g}-sample{sample}",
                meta={
                    "depth": depth_of(index, len(needles), depth),
                    "depth_percent": round(100 * start / len(context), 2),
                    "needle": index,
                    "key": fact.key,
                    "token": len(frame.prefix) + start,
                },
            )

    def _frame(self, builder: PromptBuilder, key: str) -> Frame:
        question = self.wording.question.format(key=key)
        stem = self.wording.stem.format(key=key)
        if self.grid.chat:
            return builder.frame("", f"\n\n{question}", chat=True, question=question, answer=stem.lstrip())
        return builder.frame("", f"\n\nQuestion: {question}\nAnswer:", question=question, answer=stem)

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """Numbers: exact_match and digit_accuracy of the first run of digits. Classic: recall of the answer's
        words, and exact_match where the whole answer is there."""
        if self.grid.template == "classic":
            recall = word_recall(output.text, instance.reference)
            whole = instance.reference.lower() in " ".join(output.text.lower().split())
            return {"exact_match": float(whole), "recall": recall}
        return score_number(output.text, instance.reference)


class Haystack:
    """Texts of a data source as one stream of ids that starts with text number `first` and repeats without end."""

    def __init__(self, builder: PromptBuilder, source: DataSource, first: int) -> None:
        self._builder = builder
        self._texts = islice(_endless(source), first, None)
        self._ids: list[int] = []
        self.ends: set[int] = set()
        """Ids seen so far that end a sentence, whatever the vocabulary glues to a full stop."""

    def ids(self, tokens: int) -> list[int]:
        """The first `tokens` ids."""
        while len(self._ids) < tokens:
            new = self._builder.encode("\n\n" + next(self._texts).strip(), after=".")
            self._ids += new
            self.ends |= {i for i in set(new) - self.ends if self._text(i).rstrip().endswith(".")}
        return self._ids[:tokens]

    def _text(self, token: int) -> str:
        return str(self._builder.tokenizer.decode([token]))


def _endless(source: DataSource) -> Iterator[str]:
    while True:
        yield from data.haystack(source)


def spread(depths: Sequence[float]) -> list[float]:
    """Both ends first, then always the depth farthest from those before it (the smaller one where equal)."""
    left = sorted(set(depths))
    order = [left.pop(0)]
    while left:
        farthest = max(left, key=lambda depth: min(abs(depth - other) for other in order))
        order.append(farthest)
        left.remove(farthest)
    return order


def draw(template: str, needles: int, seed: int, length: int, depth: float, sample: int) -> list[Fact]:
    """Needles with different keys. Each cell of the grid has its own generator: none depends on another."""
    wording = TEMPLATES[template]
    if not wording.keys:
        return [Fact("", CLASSIC_ANSWER, wording.needle)]
    rng = random.Random(f"{template}/{seed}/{length}/{depth:g}/{sample}")
    facts = []
    for key in rng.sample(list(wording.keys), needles):
        value = str(rng.randrange(10 ** (DIGITS - 1), 10**DIGITS))
        facts.append(Fact(key, value, wording.needle.format(key=key, value=value)))
    return facts


def depth_of(needle: int, needles: int, depth: float) -> float:
    """Percent of the haystack before each needle: the first at `depth`, the others evenly behind it."""
    return depth + needle * (100 - depth) / needles


def insert(
    hay: Sequence[int], needles: Sequence[Sequence[int]], depth: float, ends: set[int]
) -> tuple[list[int], list[int]]:
    """The haystack with every needle at its `depth_of`, and where each begins.

    A needle stands behind the last sentence end (an id of `ends`) at or before its place; without one it stands
    first. At 100 percent it is appended. (gkamradt, insert_needle and insert_needles.)
    """
    places = []
    for k in range(len(needles)):
        percent = depth_of(k, len(needles), depth)
        place = len(hay) if percent >= 100 else int(len(hay) * percent / 100)
        while percent < 100 and place and hay[place - 1] not in ends:
            place -= 1
        places.append(place)
    context: list[int] = []
    starts, at = [], 0
    for place, needle in zip(places, needles, strict=True):
        context += hay[at:place]
        starts.append(len(context))
        context += needle
        at = place
    return context + list(hay[at:]), starts


def score_number(text: str, value: str) -> dict[str, float]:
    """exact_match: the first run of digits is the number. digit_accuracy: share of digits right at their place."""
    found = re.search(r"\d+", text)
    digits = found.group() if found else ""
    right = sum(a == b for a, b in zip(digits, value, strict=False))
    return {"exact_match": float(digits == value), "digit_accuracy": right / len(value)}


def word_recall(text: str, answer: str) -> float:
    """Share of the answer's different words that occur in the text, without case and punctuation."""
    wanted = set(re.findall(r"\w+", answer.lower()))
    return len(wanted & set(re.findall(r"\w+", text.lower()))) / len(wanted)
