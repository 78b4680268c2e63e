"""The 21 data sets of LongBench v1: category, language, metric, answer budget and prompt rules."""

from __future__ import annotations

from dataclasses import dataclass

from evals.errors import unknown


@dataclass(frozen=True)
class Dataset:
    """One line of the benchmark's tables.

    metric: key of `evals.tasks.longbench.metrics.METRICS`. max_new_tokens: official answer budget.
    chat: whether the official script wraps the prompt in a chat template (not for few-shot and code sets).
    first_line: whether the official scorer keeps the first non-empty line of a prediction only.
    """

    category: str
    language: str
    metric: str
    max_new_tokens: int

    @property
    def chat(self) -> bool:
        return self.category not in ("Few-shot", "Code")

    @property
    def first_line(self) -> bool:
        return self.category == "Few-shot"


DATASETS = {
    "narrativeqa": Dataset("Single-Doc QA", "en", "qa_f1", 128),
    "qasper": Dataset("Single-Doc QA", "en", "qa_f1", 128),
    "multifieldqa_en": Dataset("Single-Doc QA", "en", "qa_f1", 64),
    "multifieldqa_zh": Dataset("Single-Doc QA", "zh", "qa_f1_zh", 64),
    "hotpotqa": Dataset("Multi-Doc QA", "en", "qa_f1", 32),
    "2wikimqa": Dataset("Multi-Doc QA", "en", "qa_f1", 32),
    "musique": Dataset("Multi-Doc QA", "en", "qa_f1", 32),
    "dureader": Dataset("Multi-Doc QA", "zh", "rouge_zh", 128),
    "gov_report": Dataset("Summarization", "en", "rouge", 512),
    "qmsum": Dataset("Summarization", "en", "rouge", 512),
    "multi_news": Dataset("Summarization", "en", "rouge", 512),
    "vcsum": Dataset("Summarization", "zh", "rouge_zh", 512),
    "trec": Dataset("Few-shot", "en", "classification", 64),
    "triviaqa": Dataset("Few-shot", "en", "qa_f1", 32),
    "samsum": Dataset("Few-shot", "en", "rouge", 128),
    "lsht": Dataset("Few-shot", "zh", "classification", 64),
    "passage_count": Dataset("Synthetic", "en", "count", 32),
    "passage_retrieval_en": Dataset("Synthetic", "en", "retrieval", 32),
    "passage_retrieval_zh": Dataset("Synthetic", "zh", "retrieval_zh", 32),
    "lcc": Dataset("Code", "code", "code_sim", 64),
    "repobench-p": Dataset("Code", "code", "code_sim", 64),
}

LONGBENCH_E = (
    "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "gov_report", "multi_news", "trec", "triviaqa",
    "samsum", "passage_count", "passage_retrieval_en", "lcc", "repobench-p",
)  # fmt: skip
"""Data sets with an even length distribution (files `<name>_e.jsonl`)."""

ANSWERS = {"retrieval": r"Paragraph (\d+)", "retrieval_zh": r"段落(\d+)", "count": r"^\d+$"}
"""What every answer looks like, by metric; other metrics take any text."""


def get(name: str) -> Dataset:
    """The data set of that name; a LongBench-E name (`qasper_e`) means the same set.

    Raises UserError for an unknown name.
    """
    if base(name) not in DATASETS:
        raise unknown("LongBench data set", name, DATASETS)
    return DATASETS[base(name)]


def base(name: str) -> str:
    """The plain name of a data set, of a LongBench-E name too."""
    return name.removesuffix("_e")


def bucket(length: int) -> str:
    """LongBench-E's bucket of a row, by its stored `length`."""
    return "0-4k" if length < 4000 else "4-8k" if length < 8000 else "8k+"
