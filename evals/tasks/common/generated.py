"""What every generator of samples produces, and how a haystack shrinks until it fits a length."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from evals.errors import UserError
from evals.tasks.common.fitting import fitting_size
from evals.tasks.common.prompt import Prompt
from evals.tasks.common.prompt_builder import PromptBuilder


@dataclass(frozen=True)
class Sample:
    """The text of one instance: before + context + lead + question + answer_prefix.

    question: what is asked (the span that a search may look at); `lead` stands between it and the context.
    answers: official references. meta: for plots and reports.
    """

    before: str
    context: str
    lead: str
    question: str
    answer_prefix: str
    answers: list[str]
    meta: dict[str, list[float]] = field(default_factory=dict)


class Family(ABC):
    """A generator of samples whose haystack has a size in units of its own (sentences, words, documents)."""

    family: ClassVar[str]
    """Name of the template."""
    new_tokens: ClassVar[int]
    """Tokens to generate, part of the length."""

    @property
    def count(self) -> int | None:
        """Number of instances; None: no limit."""
        return None

    @property
    def largest(self) -> int | None:
        """Number of units; None: the haystack is endless."""
        return None

    @abstractmethod
    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        """Instance number `index` with a haystack of `size` units, drawn from `rng` alone."""

    def smallest(self, index: int) -> int:
        """Units that instance `index` cannot do without."""
        return 1


def in_full(builder: PromptBuilder, chat: bool, begun: str) -> Callable[[Sample, int | None], Prompt]:
    """Makes the prompt of a sample, cut to a budget if there is one (`build` of `fitted`).

    begun: begins the answer where there is no chat template, which opens the reply itself.
    """

    def build(sample: Sample, budget: int | None) -> Prompt:
        return builder.build(
            sample.before,
            sample.context,
            sample.lead + sample.question + sample.answer_prefix,
            budget=budget,
            question=sample.question,
            answer="" if chat else begun,
            chat=chat,
        )

    return build


def shrinking(size: int, smallest: int) -> Iterator[int]:
    """`size`, then 2% less each time, down to `smallest`.

    The official steps are fixed (500 words of essay, 25 sentences of noise), which takes a sixth of a 4K prompt
    at once; 2% keeps every prompt close to the length of its cell.
    """
    while size > smallest:
        yield size
        size -= max(1, size // 50)
    yield smallest


def fitted(
    family: Family, build: Callable[[Sample, int | None], Prompt], key: str, length: int, count: int
) -> Iterator[tuple[Sample, Prompt]]:
    """`count` samples with their prompts, each of no more than `length` ids with the answer budget.

    The size of the haystack is found with sample 0 and shrunk for other samples where it does not fit, as in the
    official code. That code never ends at a sample whose smallest haystack is too long (ten paragraphs of HotpotQA
    at 2K): here its context loses its middle, and its audit counts the tokens. build: makes the prompt of a sample,
    cut to a budget if there is one. key: what the random numbers depend on, besides the index.
    Raises UserError for a length that cannot hold sample 0.
    """

    def draw(index: int, size: int) -> tuple[Sample, Prompt]:
        sample = family.sample(random.Random(f"{key}:{index}"), size, index)
        return sample, build(sample, None)

    def tokens(size: int) -> int:
        return len(draw(0, size)[1]) + family.new_tokens

    size = fitting_size(tokens, length, family.smallest(0), family.largest)
    for index in range(count):
        for smaller in shrinking(size, family.smallest(index)):
            sample, prompt = draw(index, smaller)
            if len(prompt) + family.new_tokens <= length:
                yield sample, prompt
                break
        else:
            if index == 0:
                task = key.partition(":")[0]
                raise UserError(f"A length of {length} tokens cannot hold {task}: choose a larger --length.")
            yield sample, build(sample, length - family.new_tokens)
