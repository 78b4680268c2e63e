"""Stand-in rows in the official formats of LongBench and InfiniteBench, to show both without their data.

    python sample_rows.py FOLDER

One row per data set, made of texts and sources of Python itself. Scores on them say nothing about the benchmarks: the
rows only exercise the official prompts, truncation and scorers.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

FACT = "The keeper of the northern archive is Ada Lindqvist."
QUESTION = "Who is the keeper of the northern archive?"
QA = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique")
SUMMARIES = ("gov_report", "qmsum", "multi_news")
CHARACTERS = 5000


def prose(name: str, fact: str = "") -> str:
    """Python's help on a topic, with a sentence in its middle."""
    lines = topics[name][:CHARACTERS].splitlines()
    middle = len(lines) // 2
    return "\n".join([*lines[:middle], fact, *lines[middle:]])


def code() -> tuple[str, str]:
    """A source text, and the line that follows it."""
    lines = inspect.getsource(textwrap).splitlines()[:120]
    *before, last = [line for line in lines if line.strip()]
    return "\n".join(before) + "\n", last


def few_shot(name: str) -> dict[str, Any]:
    """Examples, then a new case of the same kind."""
    if name == "trec":
        shown = [("What is an expression?", "Definition"), ("Who wrote it?", "Person"), ("When was it?", "Date")]
        context = "\n".join(f"Question: {q}\nType: {t}" for q, t in shown * 12)
        return row(context, "Question: Who is the keeper?\nType:", ["Person"], ["Definition", "Person", "Date"])
    if name == "triviaqa":
        examples = "\n".join(
            f"Passage:\n{prose(t)[:900]}\nQuestion:\nWhat is it about?\nAnswer:\n{t}" for t in ("if", "while")
        )
        return row(examples, f"Passage:\n{FACT}\nQuestion:\n{QUESTION}\nAnswer:", ["Ada Lindqvist"])
    dialogue = "Dialogue: Ann: Are you coming?\nBen: At nine.\nSummary: Ben is coming at nine."
    return row(
        "\n".join([dialogue] * 20), "Dialogue: Cid: Where?\nDan: At the archive.\nSummary: ", ["Dan is at the archive."]
    )


def row(context: str, question: str, answers: list[str], classes: list[str] | None = None) -> dict[str, Any]:
    return {
        "input": question,
        "context": context,
        "answers": answers,
        "length": len(context.split()),
        "all_classes": classes,
    }


def longbench() -> dict[str, dict[str, Any]]:
    """One row for each of the 14 English and code sets that the paper reports."""
    names = list(topics)
    rows = {name: row(prose(names[i], FACT), QUESTION, ["Ada Lindqvist"]) for i, name in enumerate(QA)}
    for i, name in enumerate(SUMMARIES):
        text = prose(names[-1 - i])
        rows[name] = row(text, "Summarize the discussion." if name == "qmsum" else "", [text[:300]])
    rows |= {name: few_shot(name) for name in ("trec", "triviaqa", "samsum")}
    before, following = code()
    rows["lcc"] = row(before, "", [following])
    rows["repobench-p"] = row(prose(names[0])[:2000], before[-1500:], [following])
    return rows


def infinitebench() -> dict[str, dict[str, Any]]:
    """A multiple-choice row; the other tasks of the paper's table are generated."""
    options = ["Ada Lindqvist", "Ben Moreau", "Cid Tanaka", "Dan Okafor"]
    text = prose("assignment", FACT)
    return {"longbook_choice_eng": {"context": text, "input": QUESTION, "answer": [options[0]], "options": options}}


def write(folder: Path) -> None:
    for benchmark, rows in (("longbench", longbench()), ("infinitebench", infinitebench())):
        (folder / benchmark).mkdir(parents=True, exist_ok=True)
        for name, content in rows.items():
            (folder / benchmark / f"{name}.jsonl").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
