"""The report page: what it holds. How it behaves: test_browser.py."""

from __future__ import annotations

import json
import re

import pytest
from fixtures.synthetic_run import HOSTILE, write_run

from evals import report
from evals.report import page
from evals.report.data import Data
from evals.report.load import load


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), samples=6, tasks=("needle", "longbench:qasper"))
    report.write(load(folder), folder)
    return folder


@pytest.fixture(scope="module")
def html(built):
    return (built / "report.html").read_text()


def test_the_page_needs_nothing_else(html) -> None:
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', html)
    assert not re.findall(r"url\((?!#)", html)
    assert html.count("<script") == 2


def test_what_models_and_data_say_is_never_markup(html) -> None:
    assert HOSTILE not in html
    assert "<img src=x" not in html
    held = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert any(sample["output"]["text"] == HOSTILE for sample in held["samples"])


def test_ids_of_plots_do_not_collide(html) -> None:
    ids = [i for svg in re.findall(r"<svg.*?</svg>", html, re.S) for i in set(re.findall(r'\bid="([^"]+)"', svg))]
    assert ids
    assert len(ids) == len(set(ids))


def test_a_hostile_name_is_escaped_everywhere(tmp_path) -> None:
    run = load(write_run(tmp_path, samples=2, models=("synthetic-full",), tasks=("longbench:qasper",)))
    run.models[HOSTILE] = run.models.pop("synthetic-full")
    run.models[HOSTILE].fairness[HOSTILE] = HOSTILE
    run.meta.environment["host"] = HOSTILE
    for cell in run.cells.values():
        cell.model = HOSTILE
    page.write_page(Data.of(run), [("p", HOSTILE, picture(tmp_path))], [], tmp_path / "report.html")
    assert HOSTILE not in (tmp_path / "report.html").read_text()


def picture(folder):
    file = folder / "p.svg"
    file.write_text('<?xml version="1.0"?><svg width="100pt"><g id="a"/><use href="#a"/></svg>')
    return file


def test_a_big_run_leaves_samples_out_of_every_cell_alike(tmp_path, monkeypatch) -> None:
    run = load(write_run(tmp_path, samples=20))
    total = sum(map(len, run.samples.values()))
    everything, note = page.embedded(run)
    assert len(everything) == total
    assert not note
    monkeypatch.setattr(page, "MOST_SAMPLES", 200)
    some, note = page.embedded(run)
    counts = {cell: sum(s["cell"] == cell for s in some) for cell in run.samples}
    assert len(some) == 200
    assert max(counts.values()) - min(counts.values()) <= 1
    assert note.startswith(f"{total - 200} of {total} samples are left out")
    monkeypatch.setattr(page, "MOST_CHARACTERS", 10_000)
    assert 0 < len(page.embedded(run)[0]) < 20
