"""Comparisons with a rival's published answers, as Evaluation/llm_eval.py of L-Eval makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.errors import UserError
from evals.records.models import SampleRecord
from evals.tasks.common.files import RowFile, load_json
from evals.tasks.common.source import DataSource
from evals.tasks.leval.rows import beside
from evals.tasks.settings.judged import Messages

TIE = 0.5


@dataclass(frozen=True)
class Rivals:
    """Answers by question and reference."""

    answers: Mapping[tuple[str, str], str]

    @classmethod
    def read(cls, path: Path) -> Rivals:
        """Raises UserError for a file of another form."""
        file, answers = RowFile(path), {}
        for number, line in file.lines():
            row = load_json(line, f"{file}, line {number}", "clone the repository again")
            texts = row if isinstance(row, dict) else {}
            answer = next((value for key, value in texts.items() if key.endswith("_pred")), None)
            if not all(isinstance(text, str) for text in (answer, texts.get("query"), texts.get("gt"))):
                raise UserError(f"{file}, line {number} has no query, gt and answer: clone the repository again.")
            answers[texts["query"], texts["gt"]] = str(answer)
        return cls(answers)

    def comparisons(
        self, texts: Mapping[str, str], question: str, reference: str, sample: SampleRecord
    ) -> Sequence[Messages]:
        """The answer of a sample against the rival's, first in the place of A, then in that of B."""
        rival, ours = self.answers.get((question, reference)), sample.output.text
        if rival is None:
            return []
        orders = [{"answer_a": ours, "answer_b": rival}, {"answer_a": rival, "answer_b": ours}]
        return [
            [
                {"role": "system", "content": texts["judge"]},
                {
                    "role": "user",
                    "content": texts["judge form"].format(question=question, ref_answer=reference, **order),
                },
            ]
            for order in orders
        ]


def rivals_file(data: DataSource, rival: str) -> Path:
    """The published answers of a rival. Raises UserError where they are missing."""
    return beside(data, f"Predictions/{rival}.pred.jsonl", "name another rival")


def better(replies: Sequence[str]) -> float | None:
    """The share won of two comparisons, of which our answer was A and then B; ties count half. A comparison without a
    verdict is dropped, as officially; None where both are.
    """
    won = [won for reply, ours in zip(replies, "AB", strict=True) if (won := _won(reply, ours)) is not None]
    return sum(won) / len(won) if won else None


def _won(reply: str, ours: str) -> float | None:
    winner = next((letter for letter in "ABC" if f"[[{letter}]]" in reply), None)
    if winner is None:
        return None
    return TIE if winner == "C" else float(winner == ours)
