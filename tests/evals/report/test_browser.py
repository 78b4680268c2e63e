"""The report page in a real browser: one report, opened anew by each test."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import pytest
from fixtures.synthetic_run import HOSTILE, MODELS, write_run

from evals.report import page
from evals.report.data import Data
from evals.report.effective import effective_table
from evals.report.load import load

FULL, SHARED = "synthetic-full", "synthetic-sharedllm"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), samples=12)
    data, path = Data.of(load(folder)), folder / "report.html"
    page.write_page(data, [], list(effective_table(data)), path)  # drawing plots takes longer than all tests
    return path


@pytest.fixture
def opened(browser, built):
    browser.open(built)
    return browser


def column(browser, name):
    """The cells of a column of the long table, by its heading."""
    heads = [text.split("\n")[0].split(" ↕")[0].strip(" ↑↓") for text in browser.texts("#cells thead th")]
    return browser.texts(f"#cells tbody tr:not(.more) td:nth-child({heads.index(name) + 1})")


def sort(browser, name):
    browser.run(
        "[...document.querySelectorAll('#cells thead button')].find((b) => b.textContent === arguments[0]).click()",
        name,
    )


def estimates(cells):
    return [float(cell.split()[0]) for cell in cells if cell[:1].isdigit()]


def test_the_page_opens_with_the_verdict(opened) -> None:
    sections = opened.texts("main section:not([hidden]) h2")
    assert sections[:4] == ["Verdict", "Method by length", "Cost", "All cells"]
    assert "combinations of task and length" in opened.text("#verdict .lead")
    said = opened.text("#verdict .findings")
    assert re.search(r"falls? below 85 % of (its|their) own scores?", said)
    assert "pairs of models" in said
    assert "At 64K the first token takes" in said or "At 128K the first token takes" in said


def test_a_method_that_is_clicked_becomes_the_base_of_all_differences(opened) -> None:
    assert not opened.texts("#matrices .difference")
    assert "out of memory" in opened.text("#matrices .block:first-child tbody tr:first-child")
    opened.click("#matrices tbody tr:nth-child(2) button")
    assert opened.run("return JSON.parse(document.getElementById('base').value)") == "synthetic-truncated"
    first = opened.texts("#matrices .block:first-child tbody tr:nth-child(1) .difference")
    assert re.fullmatch(r"[+−]?[\d.]+ \[[-\d.]+, [-\d.]+\] (better|worse|n\.s\.)", first[0].replace("\n", " "))
    assert set(opened.texts("#matrices .block:first-child tbody tr:nth-child(2) .difference")) == {"base"}
    assert re.fullmatch(r"[\d.]+ times", opened.texts("#costs tbody tr:nth-child(1) .difference")[0])
    assert "base=synthetic-truncated" in opened.hash


def test_a_narrow_interval_keeps_the_digits_that_tell_its_ends_apart(opened) -> None:
    for ends, shown in (
        ("0.7071, 0.9829", "[0.71, 0.98]"),
        ("0, 0.1391", "[0, 0.14]"),
        ("10.449, 10.551", "[10.45, 10.55]"),
        ("48621.1, 49969.4", "[48600, 50000]"),
        ("null, null", "[too few]"),
        ("2.5, 2.5", "[2.5, 2.5]"),
    ):
        assert opened.run(f"return range({ends}, 2).textContent") == f" {shown}"


def test_scores_are_sorted_within_each_metric_best_first(opened) -> None:
    sort(opened, "Score")
    groups = opened.texts("#cells tr.group")
    assert groups == ["exact match, higher is better", "ppl, lower is better", "score, higher is better"]
    metrics = column(opened, "Metric")
    assert metrics == sorted(metrics, key=[g.split(",")[0] for g in groups].index)
    for metric, reverse in (("exact match", True), ("ppl", False)):
        mine = estimates(s for s, m in zip(column(opened, "Score"), metrics, strict=True) if m == metric)
        assert mine == sorted(mine, reverse=reverse)
    sort(opened, "Score")
    assert column(opened, "Metric") == metrics
    mine = estimates(s for s, m in zip(column(opened, "Score"), metrics, strict=True) if m == "ppl")
    assert mine == sorted(mine, reverse=True)


def test_costs_are_sorted_both_ways_with_empty_values_last(opened) -> None:
    for direction in ("ascending", "descending"):
        sort(opened, "TTFT s")
        shown = column(opened, "TTFT s")
        numbers = [float(v) for v in shown if v]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert shown[-1] == ""
        assert opened.run("return document.querySelector('#cells [aria-sort]').ariaSort") == direction


def test_the_table_filters_by_choice_and_by_text(opened) -> None:
    total = len(column(opened, "Model"))
    opened.choose("cell-model", SHARED)
    assert set(column(opened, "Model")) == {SHARED}
    opened.write("cell-text", "128K")
    assert set(column(opened, "Length")) == {"128K"}
    assert opened.text("#cell-count") == f"2 of {total} cells"
    opened.choose("cell-model", None)
    assert len(column(opened, "Model")) == 2 * len(MODELS)


def test_the_other_metrics_of_a_cell_open_below_it(opened) -> None:
    opened.click("#cells tbody tr:first-child button[aria-expanded]")
    assert "digit_accuracy" in opened.text("#cells tr.more")
    opened.click("#cells tbody tr:first-child button[aria-expanded]")
    assert not opened.find("#cells tr.more")


def test_no_column_is_cut_at_1400_pixels(browser, built) -> None:
    browser.emulate(width=1400)
    try:
        browser.open(built)
        script = """return [...document.querySelectorAll('#cells, table.matrix, table.turned')].map((table) => {
          const box = table.parentElement; return box.scrollWidth - box.clientWidth; });"""
        assert max(browser.run(script)) <= 0
        cut = (
            "return [...document.querySelectorAll('#cells td')].filter((c) => c.scrollWidth > c.clientWidth + 1).length"
        )
        assert browser.run(cut) == 0
    finally:
        browser.emulate()


def test_the_first_columns_stay_in_sight(browser, built) -> None:
    browser.emulate(width=900)
    try:
        browser.open(built)
        places = """return [...document.querySelectorAll('#cells tbody tr:first-child .frozen')].map((c) => {
          const box = c.getBoundingClientRect(); return [box.left, box.right]; });"""
        before = browser.run(places)
        browser.run("const box = document.getElementById('cells').parentElement; box.scrollLeft = box.scrollWidth;")
        assert browser.run(places) == before
        assert len(before) == 3
        assert all(a[1] <= b[0] + 1 for a, b in pairwise(before))
    finally:
        browser.emulate()


def test_a_phone_scrolls_down_only_and_shows_scores(browser, built) -> None:
    browser.emulate(width=390)
    try:
        browser.open(built)
        browser.click("#sample-list button")
        assert browser.run("return document.documentElement.scrollWidth") <= 390
        assert browser.find(".filters select")[0].size["height"] < 60
        right = "const c = document.querySelector(arguments[0]).getBoundingClientRect(); return [c.left, c.right];"
        for score in ("#cells tbody td:nth-child(4)", "#matrices tbody td .score"):
            left, end = browser.run(right, score)
            assert 0 <= left < end <= 390
    finally:
        browser.emulate()


def test_the_address_keeps_the_view(browser, built) -> None:
    browser.open(built)
    assert browser.hash == ""
    browser.choose("base", FULL)
    browser.choose("cell-task", "needle")
    sort(browser, "Score")
    browser.write("sample-text", "number 3")
    browser.click("#sample-list button")
    kept = browser.hash
    for part in (f"base={FULL}", "cell-task=needle", "sort=Score,down", "sample="):
        assert part in kept
    rows, sample = browser.texts("#cells tbody tr"), browser.text("#sample")
    address = browser.run("return location.hash")
    browser.open(built, address)
    assert browser.texts("#cells tbody tr") == rows
    assert browser.text("#sample") == sample
    assert browser.run("return location.hash") == address
    assert browser.find("#matrices tr.base")


def test_an_address_that_nobody_made_does_no_harm(browser, built) -> None:
    browser.open(built, f"#base={HOSTILE}&sort=Nothing,down&cell-model=%22nobody%22&sample=x&__proto__=1")
    assert browser.text("#cell-count") == "44 of 44 cells"
    assert not browser.complaints()


def test_printed_it_shows_everything(opened) -> None:
    opened.click("#sample-list button")
    words = printed(opened)
    assert words["pages"] >= 4
    shown = opened.run("return [...document.querySelectorAll('details')].every((part) => part.open)")
    assert shown
    opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = """return [...document.querySelectorAll('section:not([hidden])')].filter(
          (part) => getComputedStyle(part).display === 'none').map((part) => part.id)"""
        assert opened.run(hidden) == []
        inside = """return [...document.querySelectorAll('.scroll, pre, #sample-list')].filter(
          (box) => box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== 'visible').length"""
        assert opened.run(inside) == 0
    finally:
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def printed(browser) -> dict[str, int]:
    """How many pages the page has in print."""
    raw = browser.pdf()
    streams = [raw, *inflated(raw)]
    return {"pages": max(len(re.findall(rb"/Type\s*/Page\b", part)) for part in streams)}


def inflated(raw: bytes):
    """The streams of a PDF that are compressed."""
    for found in re.finditer(rb"stream\r?\n(.*?)endstream", raw, re.S):
        try:
            yield zlib.decompress(found[1])
        except zlib.error:
            continue


def test_dark_and_light_have_enough_contrast(browser, built) -> None:
    script = """
      const channel = (v) => (v <= .04 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
      const light = (c) => {
        const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => channel(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      const ratio = (c) => (Math.max(light(c), paper) + .05) / (Math.min(light(c), paper) + .05);
      const shown = ['.lead', '.hint', '.range', '.mark', '.status-oom', '.link'].map((s) => document.querySelector(s));
      return shown.filter(Boolean).map((e) => ratio(getComputedStyle(e).color)).concat(paper);"""
    for scheme, dark in (("dark", True), ("light", False)):
        browser.emulate(scheme=scheme)
        try:
            browser.open(built)
            *ratios, paper = browser.run(script)
            assert min(ratios) >= 4.5
            assert (paper < 0.1) == dark
        finally:
            browser.emulate()


def test_a_sample_opens_by_keyboard_with_prompt_trace_and_score(opened) -> None:
    opened.choose("sample-model", SHARED)
    opened.choose("sample-task", "needle")
    first = opened.find("#sample-list button")[0]
    first.send_keys("\ue007")  # Enter
    text = opened.text("#sample")
    for part in (
        "needle-0",
        "Question 0: where is <it>?",
        "4821907",
        "What the tree kept in full: 8 pieces",
        "the model read all of it",
    ):
        assert part in text
    assert len(opened.find("#sample svg.strip rect.kept")) == 8
    first.send_keys("\ue015")  # arrow down
    assert "needle-1" in opened.text("#sample")
    assert opened.texts("#sample-list button[aria-current=true] .first") == ["needle-1"]


def test_where_a_prompt_was_cut_is_said(opened) -> None:
    opened.choose("sample-task", "longbench:qasper")
    opened.find("#sample-list button")[1].click()
    assert "4000 tokens of the context were removed at token 6000" in opened.text("#sample")


def test_a_prediction_with_a_script_is_text(opened) -> None:
    title = opened.driver.title
    opened.choose("sample-task", "longbench:qasper")
    opened.click("#sample-list button")
    assert HOSTILE in opened.text("#sample")
    assert opened.driver.title == title != "broken"
    assert not opened.find("#sample img, #sample script")


def test_a_model_named_like_a_script_is_text_everywhere(browser, tmp_path) -> None:
    run = load(write_run(tmp_path, samples=3))
    run.models[HOSTILE] = run.models.pop(SHARED)
    for cell in run.cells.values():
        cell.model = HOSTILE if cell.model == SHARED else cell.model
    page.write_page(Data.of(run), [], [], tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    browser.click("#matrices tbody tr:nth-child(4) button")
    assert set(browser.texts("#matrices tr.base th")) == {HOSTILE}
    assert browser.driver.title == page.title(run)
    assert not browser.find("main img, main script")
    assert not browser.complaints()


def test_worst_first_and_text_search(opened) -> None:
    opened.choose("sample-task", "longbench:qasper")
    opened.run(
        "const s = document.getElementById('sample-order'); s.value = 'worst'; s.dispatchEvent(new Event('change'));"
    )
    shown = [float(text) for text in opened.texts("#sample-list .second span:last-child")]
    assert shown == sorted(shown)
    opened.write("sample-text", "number 3")
    assert set(opened.texts("#sample-list .first")) == {"longbench:qasper-3"}


def test_a_row_of_the_table_leads_to_its_samples(opened) -> None:
    opened.click("#cells tbody button.link")
    assert opened.text("#sample-count").startswith("12 of")


def test_nothing_is_blocked_or_broken(opened) -> None:
    assert opened.complaints() == []


def test_five_thousand_samples_stay_quick(browser, tmp_path) -> None:
    run = load(write_run(tmp_path, samples=1250, tasks=("longbench:qasper",)))
    page.write_page(Data.of(run), [], [], tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    assert browser.text("#sample-count") == "5000 of 5000 samples"
    assert len(browser.find("#sample-list li")) == 50
    script = """
      const box = document.getElementById('sample-text'), start = performance.now();
      box.value = 'number 77'; box.dispatchEvent(new Event('input'));
      document.querySelector('#sample-list button').click();
      return performance.now() - start;
    """
    assert browser.run(script) < 2000
