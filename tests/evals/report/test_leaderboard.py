"""One site of many runs: its folder, and how it behaves in a browser."""

from __future__ import annotations

import json
import re

import pytest
from fixtures.synthetic_run import HOSTILE, MODELS, write_run

from evals.report import leaderboard, plots
from evals.report.load import load

SHARED = "synthetic-sharedllm"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two runs; a model of the second is named like a script."""
    folder = tmp_path_factory.mktemp("site")
    first = load(write_run(folder / "one" / "run", samples=12, tasks=("needle", "perplexity")))
    second = load(write_run(folder / "two" / "run", samples=4, tasks=("needle",), models=(SHARED,)))
    second.models[HOSTILE] = second.models.pop(SHARED)
    for cell in second.cells.values():
        cell.model = HOSTILE
    second.meta.command[:] = ["sharedllm-eval", HOSTILE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda data, folder: [])
        leaderboard.write_leaderboard([first, second], folder / "site")
    return folder / "site"


def test_the_folder_is_all_that_a_server_needs(site) -> None:
    html = (site / "index.html").read_text()
    links = re.findall(r'(?:src|href)="(?!#)([^"]*)"', html)
    assert links == ["runs/one-run/report.html", "runs/two-run/report.html"]
    assert all((site / link).is_file() for link in links)
    assert HOSTILE not in html
    assert (site / ".nojekyll").exists()
    assert "sdk: static" in (site / "README.md").read_text()


def test_every_cell_has_its_origin(site) -> None:
    cells = json.loads(re.search(r'id="data">(.*?)</script>', (site / "index.html").read_text(), re.S)[1])["cells"]
    assert len(cells) == 2 * 5 * len(MODELS) + 5
    assert {cell["run"] for cell in cells} == {"one-run", "two-run"}
    assert all(cell["device"] == "none (synthetic)" and cell["method"] for cell in cells)


def test_filters_sorting_and_links_in_a_browser(browser, site) -> None:
    browser.open(site / "index.html")
    total = 2 * 5 * len(MODELS) + 5
    assert browser.text("#count") == f"{total} of {total} cells"
    browser.choose("task", "needle")
    assert browser.texts("#matrices h3") == ["needle: exact match, higher is better"]
    browser.choose("samples", 10)
    assert set(browser.texts("#cells tbody td:last-child")) == {"one-run"}
    browser.choose("task", None)
    browser.run("document.querySelector('#cells thead th:nth-child(4) button').click()")
    assert browser.texts("#cells tr.group") == ["exact match, higher is better", "ppl, lower is better"]
    kept, rows = browser.run("return location.hash"), browser.texts("#cells tbody tr")
    assert kept == "#samples=10&sort=Score%2Cdown"
    browser.open(site / "index.html", kept)
    assert browser.texts("#cells tbody tr") == rows
    link = browser.run("return document.querySelector('#cells tbody a').href")
    assert "runs/one-run/report.html#cell-model=synthetic-" in link
    browser.run("document.querySelector('#cells tbody a').click()")
    browser.wait()
    assert len(set(browser.texts("#cells tbody td:first-child"))) == 1
    assert browser.complaints() == []


def test_a_hostile_name_is_text_and_a_phone_scrolls_down_only(browser, site) -> None:
    browser.emulate(width=390)
    try:
        browser.open(site / "index.html")
        browser.choose("run", "two-run")
        assert set(browser.texts("#matrices th a")) == {HOSTILE}
        assert browser.driver.title == "Leaderboard"
        assert not browser.find("main img, main script")
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        assert browser.complaints() == []
    finally:
        browser.emulate()
