"""LongBench v2 (Bai et al., ACL 2025): 503 four-choice questions, answered in a sentence that is parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from evals.errors import UserError
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common import official_prompts
from evals.tasks.common.files import RowFile
from evals.tasks.common.hub import fetch
from evals.tasks.common.rows import PlainVisible, Visible, array, find, first, naming, one_or_more, parse, validate
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.settings.controls import named
from evals.tasks.settings.official import OfficialSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPO = "zai-org/LongBench-v2"
REVISION = "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9"
SHA256 = "15d61c22d92c96900b3c4948b6aeea218d3214b676a65df48e7b8555604c7fe2"
"""Of data.json at that revision, as several public reproductions give it."""
MAX_NEW_TOKENS = 128
OFFICIAL_BUDGET = 120_000
FORMAT = 'Format your response as follows: "The correct answer is (insert answer here)".'
"""The official last line, without which no answer can be parsed; lm-eval asks by likelihood and ends in "Answer:"."""
SLOTS = {
    "{{context}}": "$DOC$",
    "{{question.strip()}}": "$Q$",
    "{{choices[0]}}": "$C_A$",
    "{{choices[1]}}": "$C_B$",
    "{{choices[2]}}": "$C_C$",
    "{{choices[3]}}": "$C_D$",
}


class Row(BaseModel):
    """One official row."""

    id: str = Field(alias="_id")
    domain: str
    sub_domain: str
    difficulty: Literal["easy", "hard"]
    length: Literal["short", "medium", "long"]
    question: PlainVisible
    choice_A: PlainVisible
    choice_B: PlainVisible
    choice_C: PlainVisible
    choice_D: PlainVisible
    answer: Literal["A", "B", "C", "D"]
    context: Visible


class LongBenchV2(Task):
    """Zero-shot generate and parse. Greedy, where the official script samples at temperature 0.1."""

    name = "longbench-v2"
    version = 2
    settings_model = OfficialSettings
    settings: OfficialSettings

    @property
    def chance(self) -> float:
        return 0.25  # four choices

    @property
    def drawn(self) -> bool:
        return False

    def check(self) -> None:
        template()
        self._locate()

    def check_length(self, length: int | None) -> None:
        self._budget(length)

    def files(self) -> Sequence[Path]:
        found = self._brought()
        return [found.path] if found else []

    def sample_count(self) -> int:
        return 503

    def answer_tokens(self) -> int:
        return MAX_NEW_TOKENS

    def _brought(self) -> RowFile | None:
        """longbench_v2.jsonl or data.json of the data folder, if it has one of them."""
        folder = self.data.data_dir
        if folder is None:
            return None
        if (found := find(folder, ["longbench_v2"], "longbench-v2")) is not None:
            return found
        places = [place / "data.json" for place in (folder / "longbench-v2", folder)]
        return next((RowFile(path) for path in places if path.is_file()), None)

    def _locate(self) -> RowFile:
        """The file of the data folder, else data.json of the hub. Raises UserError that says how to get it."""
        if self.data.data_dir is None:
            return RowFile(fetch(REPO, "data.json", REVISION, self.data.offline, SHA256))
        found = self._brought()
        if found is None:
            raise UserError(
                f"LongBench v2 is not in {self.data.data_dir}: put data.json of "
                f"https://huggingface.co/datasets/{REPO} there."
            )
        return found

    def instances(
        self, tokenizer: PreTrainedTokenizerBase, length: int | None, limit: int | None, seed: int
    ) -> Iterator[Instance]:
        """The rows in file order. seed is not used: nothing is random."""
        builder = self.settings.builder(tokenizer)
        chat = self.settings.wraps(tokenizer, officially=True)
        budget, file = self._budget(length), self._locate()
        for number, row in first(read(file), limit):
            before, after, question = render(row)
            with naming(f"{file}, row {number}"):
                prompt = builder.build(
                    before,
                    row.context.strip(),
                    after,
                    budget=budget,
                    rule="uneven",
                    chat=chat,
                    question=question,
                    template=template(),
                )
            instance = Instance(
                id=f"{number:04d}",
                prompt=prompt,
                max_new_tokens=MAX_NEW_TOKENS,
                stop=stop_at_end(tokenizer),
                thinking=self.settings.reading(builder, chat),
                reference=row.answer,
                meta={
                    "row": row.id,
                    "domain": row.domain,
                    "sub_domain": row.sub_domain,
                    "difficulty": row.difficulty,
                    "length": row.length,
                    "chat": chat,
                },
                holds=named(row.context),
            )
            yield self.settings.fitting(instance, budget, f"{file}, row {number}")

    def _budget(self, length: int | None) -> int:
        budget = self.settings.prompt_budget(length, MAX_NEW_TOKENS, "LongBench v2")
        return OFFICIAL_BUDGET if budget is None else budget

    def evaluate(self, instance: Instance, output: Output) -> dict[str, float]:
        """score, again under the row's difficulty and length class, and unparsed: 1 where no answer was found."""
        answer = parse_answer(output.text)
        right = float(answer == instance.reference)
        difficulty, length = instance.meta["difficulty"], instance.meta["length"]
        return {
            "score": right,
            f"score_{difficulty}": right,
            f"score_{length}": right,
            "unparsed": float(answer is None),
        }


@cache
def template() -> str:
    """The official prompts/0shot.txt: lm-eval's text with the official slots and last line, checked by hash."""
    config = official_prompts.read_yaml("longbench2/_longbench_common_yaml")
    if config is None:
        raise UserError(f"{official_prompts.version()} has no LongBench v2: pip install 'lm-eval==0.4.13'.")
    text = config["doc_to_text"]
    for theirs, official in SLOTS.items():
        text = text.replace(theirs, official)
    text = text.removesuffix("Answer:") + FORMAT
    expected = official_prompts.hashes()["longbench_v2"]["0shot"]
    return official_prompts.check(text, expected, "LongBench v2", official_prompts.version())


def render(row: Row) -> tuple[str, str, str]:
    """Text before and after the document, and the question with its choices; values are stripped, as officially."""
    before, _, after = template().partition("$DOC$")
    start, end = after.index("$Q$"), after.index("$C_D$") + len("$C_D$")
    question = after[start:end].replace("$Q$", row.question.strip())
    for letter in "ABCD":
        question = question.replace(f"$C_{letter}$", getattr(row, f"choice_{letter}").strip())
    return before, after[:start] + question + after[end:], question


def parse_answer(response: str) -> str | None:
    """The letter of "The correct answer is (A)", else of "The correct answer is A", asterisks ignored."""
    text = response.strip().replace("*", "")
    for pattern in (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])"):
        if match := re.search(pattern, text):
            return match.group(1)
    return None


def read(file: RowFile) -> Iterator[tuple[int, Row]]:
    """Numbers and rows of a JSON array or of JSON Lines. Raises UserError for a bad row, or none."""
    if file.path.suffix == ".json":
        rows = ((number, validate(value, Row, f"{file}, row {number}")) for number, value in array(file))
    else:
        rows = ((number, parse(file, number, line, Row)) for number, line in file.lines())
    return one_or_more(rows, file)
