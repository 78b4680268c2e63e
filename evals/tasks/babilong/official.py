"""BABILong, official: the published rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from evals.tasks.babilong import rows, scores
from evals.tasks.babilong.settings import BabilongSettings
from evals.tasks.base import Instance
from evals.tasks.common.files import RowFile
from evals.tasks.common.prompt_builder import PromptBuilder, fill
from evals.tasks.common.rows import errors_at, first
from evals.tasks.common.stopping import stop_at_end
from evals.tasks.settings.controls import one_document
from evals.tasks.settings.source import Source
from evals.tasks.settings.whole_rows import refused_if_longer


class Official(Source):
    """The published rows of the set that the length can hold."""

    samples = 100  # every published set has as many

    settings: BabilongSettings

    def check_length(self, length: int | None) -> None:
        if length is not None:
            self._file(length)

    def files(self) -> Sequence[Path]:
        return rows.files(self.subset, self.data)

    def _set(self, length: int) -> str:
        return self.settings.set or rows.fitting(length)

    def _file(self, length: int) -> RowFile:
        return rows.locate(self.subset, self._set(length), self.data)

    def instances(self, builder: PromptBuilder, length: int, limit: int | None, seed: int) -> Iterator[Instance]:
        """Rows in file order, never cut: one that is too long for its cell is refused. seed is not used."""
        asked, template, file = self.settings, self.settings.template(self.subset), self._file(length)
        for number, row in first(rows.read(file, scores.LABELS[self.subset]), limit):
            question = row.question.strip()
            before, after = fill(template, question=question)
            with errors_at(f"{file}, row {number}"):
                prompt = builder.build(
                    before,
                    row.input.strip(),
                    after,
                    chat=asked.chat,
                    question=question,
                    answer=asked.begun,
                    template=template,
                )
            made = Instance(
                id=f"{number:04d}",
                prompt=prompt,
                max_new_tokens=asked.max_new_tokens,
                stop=stop_at_end(builder.tokenizer),
                thinking=asked.reading(builder, asked.chat),
                reference=row.target,
                group=f"{number:04d}",
                meta={"source": "official", "question": question, "set": self._set(length)},
                holds=one_document(row.input),
            )
            yield refused_if_longer(made, length)
