"""Question answering among distractor documents (RULER section 3.4): SQuAD v2 and HotpotQA."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, RootModel, model_validator

from evals.errors import UserError
from evals.tasks.common import rows
from evals.tasks.common.files import RowFile
from evals.tasks.common.generated import Family, Sample
from evals.tasks.common.rows import PlainVisible
from evals.tasks.ruler.templates import template


@dataclass(frozen=True)
class Question:
    """gold: documents that hold the answer. near: others of the same article, the first distractors."""

    text: str
    answers: list[str]
    gold: list[int]
    near: list[int]


@dataclass(frozen=True)
class Documents(Family):
    """size: documents in the context, gold ones included."""

    family: ClassVar[str] = "qa"
    new_tokens: ClassVar[int] = 32

    questions: list[Question]
    documents: list[str]

    def smallest(self, index: int) -> int:
        return len(self.questions[index].gold)

    @property
    def count(self) -> int:
        return len(self.questions)

    @property
    def largest(self) -> int:
        return len(self.documents)

    def sample(self, rng: random.Random, size: int, index: int) -> Sample:
        official = template("qa")
        question = self.questions[index]
        chosen = question.gold + self._distractors(rng, question, size - len(question.gold))
        rng.shuffle(chosen)
        return Sample(
            before=official.before,
            context=self._listed(chosen),
            lead=official.after.replace("{query}", ""),
            question=question.text,
            answer_prefix=official.answer_prefix,
            answers=question.answers,
        )

    def without(self, rng: random.Random, size: int, index: int) -> str:
        """A context of `size` documents, or as many as there are, without those that hold the answer."""
        question = self.questions[index]
        return self._listed(self._distractors(rng, question, min(size, len(self.documents) - len(question.gold))))

    def _listed(self, chosen: list[int]) -> str:
        heading = template("qa").snippets[0]
        return "\n\n".join(heading.format(i=i, document=self.documents[d]) for i, d in enumerate(chosen, 1))

    def _distractors(self, rng: random.Random, question: Question, count: int) -> list[int]:
        if count <= len(question.near):
            return rng.sample(question.near, count)
        taken = sorted({*question.gold, *question.near})
        others_before = [document - i for i, document in enumerate(taken)]
        drawn = rng.sample(range(len(self.documents) - len(taken)), count - len(question.near))
        # Number i of the others: listing them for each prompt takes longer than all else that is drawn.
        return question.near + [i + bisect_right(others_before, i) for i in drawn]


class SquadAnswer(BaseModel):
    """An answer to a question of SQuAD."""

    text: PlainVisible


class SquadQuestion(BaseModel):
    """A question of SQuAD; those that are impossible have no answers."""

    question: PlainVisible
    answers: list[SquadAnswer]
    is_impossible: bool

    @model_validator(mode="after")
    def _has_answers(self) -> SquadQuestion:
        if not self.answers and not self.is_impossible:
            raise ValueError("answers is empty")
        return self


class SquadParagraph(BaseModel):
    """A paragraph of an article of SQuAD, and what is asked about it."""

    context: rows.Visible
    qas: list[SquadQuestion]


class SquadArticle(BaseModel):
    """An article of SQuAD."""

    paragraphs: list[SquadParagraph]


class Squad(BaseModel):
    """A file of SQuAD v2."""

    data: list[SquadArticle]


def _tuple(value: object) -> object:
    """JSON has only lists, and strict validation does not take them for tuples."""
    return tuple(value) if isinstance(value, list) else value


class HotpotRow(BaseModel):
    """A row of HotpotQA. context: title and sentences of each paragraph."""

    question: PlainVisible
    answer: PlainVisible
    context: Annotated[list[Annotated[tuple[str, list[str]], BeforeValidator(_tuple)]], Field(min_length=1)]


class Hotpot(RootModel[list[HotpotRow]]):
    """A file of HotpotQA."""


def read_squad(path: Path) -> Documents:
    """The answerable questions of a SQuAD v2 file and all its paragraphs. Raises UserError for another file."""
    articles = rows.validate(RowFile(path).json(), Squad, str(path)).data
    documents = sorted({p.context for article in articles for p in article.paragraphs})
    place = {text: i for i, text in enumerate(documents)}
    questions = []
    for article in articles:
        own = [place[p.context] for p in article.paragraphs]
        for paragraph in article.paragraphs:
            gold = place[paragraph.context]
            near = [i for i in own if i != gold]
            questions += [
                Question(q.question, [a.text for a in q.answers], [gold], near)
                for q in paragraph.qas
                if not q.is_impossible
            ]
    return _documents(path, questions, documents)


def read_hotpotqa(path: Path) -> Documents:
    """The questions of a HotpotQA distractor file and all its paragraphs, each under its title.

    Raises UserError for another file.
    """
    asked = rows.validate(RowFile(path).json(), Hotpot, str(path)).root
    titled = [[f"{title}\n{''.join(sentences)}" for title, sentences in row.context] for row in asked]
    documents = sorted({text for texts in titled for text in texts})
    place = {text: i for i, text in enumerate(documents)}
    questions = [
        Question(row.question, [row.answer], [place[text] for text in texts], [])
        for row, texts in zip(asked, titled, strict=True)
    ]
    return _documents(path, questions, documents)


def _documents(path: Path, questions: list[Question], documents: list[str]) -> Documents:
    if not questions:
        raise UserError(f"{path} has no question with an answer: get the original file again.")
    return Documents(questions, documents)
