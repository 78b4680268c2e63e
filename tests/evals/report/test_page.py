"""The report page: what it holds, and how it behaves in a browser without screen or network."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from fixtures.synthetic_run import HOSTILE, MODELS, write_run

from evals import report
from evals.report import page
from evals.report.frames import Data
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


# ---- In a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install selenium)")
    driver_path = shutil.which("chromedriver")
    if driver_path is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, built):
    open_page(browser, built / "report.html")
    return browser


def open_page(browser, path) -> None:
    """Open a page once its script has drawn it: `get` of chromedriver 150 may return while the page still loads."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(path.as_uri())
    WebDriverWait(browser, 30).until(lambda b: b.find_element("id", "page-at").text)  # what the script writes last


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def column(browser, index):
    return [cell.text for cell in find(browser, f"#cells tbody td:nth-child({index})")]


def choose(browser, name, value) -> None:
    script = "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
    browser.execute_script(script + "s.dispatchEvent(new Event('change'));", name, json.dumps(value) if value else "")


def test_the_table_sorts_both_ways_with_empty_values_last(opened) -> None:
    button = find(opened, "#cells th:nth-child(8) button")[0]
    assert button.text.startswith("TTFT")
    button.click()
    up = column(opened, 8)
    numbers = [float(v) for v in up if v]
    assert numbers == sorted(numbers)
    assert up[-1] == ""
    assert find(opened, "#cells th:nth-child(8)")[0].get_attribute("aria-sort") == "ascending"
    find(opened, "#cells th:nth-child(8) button")[0].click()
    down = column(opened, 8)
    assert [float(v) for v in down if v] == sorted(numbers, reverse=True)
    assert down[-1] == ""


def test_the_table_filters_by_choice_and_by_text(opened) -> None:
    total = len(column(opened, 1))
    choose(opened, "cell-model", "synthetic-sharedllm")
    assert set(column(opened, 1)) == {"synthetic-sharedllm"}
    opened.find_element("id", "cell-text").send_keys("128K")
    assert column(opened, 3) == ["128K"]
    assert opened.find_element("id", "cell-count").text == f"1 of {total} cells"
    choose(opened, "cell-model", None)
    assert len(column(opened, 1)) == len(MODELS)


def test_a_sample_opens_by_keyboard_with_prompt_trace_and_score(opened) -> None:
    choose(opened, "sample-model", "synthetic-sharedllm")
    choose(opened, "sample-task", "needle")
    first = find(opened, "#sample-list button")[0]
    first.send_keys("\ue007")  # Enter
    text = opened.find_element("id", "sample").text
    for part in (
        "needle-0",
        "Question 0: where is <it>?",
        "4821907",
        "What the tree kept in full: 8 pieces",
        "the model read all of it",
    ):
        assert part in text
    assert len(find(opened, "#sample svg.strip rect.kept")) == 8
    first.send_keys("\ue015")  # arrow down
    assert "needle-1" in opened.find_element("id", "sample").text
    assert find(opened, "#sample-list button[aria-current=true] .first")[0].text == "needle-1"


def test_where_a_prompt_was_cut_is_said(opened) -> None:
    choose(opened, "sample-task", "longbench:qasper")
    find(opened, "#sample-list button")[1].click()
    assert "4000 tokens of the context were removed at token 6000" in opened.find_element("id", "sample").text


def test_a_prediction_with_a_script_is_text(opened) -> None:
    title = opened.title
    choose(opened, "sample-task", "longbench:qasper")
    find(opened, "#sample-list button")[0].click()
    assert HOSTILE in opened.find_element("id", "sample").text
    assert opened.title == title != "broken"
    assert not find(opened, "#sample img")
    assert not find(opened, "#sample script")


def test_worst_first_and_text_search(opened) -> None:
    choose(opened, "sample-task", "longbench:qasper")
    opened.execute_script(
        "const s = document.getElementById('sample-order'); s.value = 'worst'; s.dispatchEvent(new Event('change'));"
    )
    shown = [float(e.text) for e in find(opened, "#sample-list .second span:last-child")]
    assert shown == sorted(shown)
    opened.find_element("id", "sample-text").send_keys("number 3")
    assert {e.text for e in find(opened, "#sample-list .first")} == {"longbench:qasper-3"}


def test_a_row_of_the_summary_leads_to_its_samples(opened) -> None:
    find(opened, "#cells tbody button.link")[0].click()
    assert opened.find_element("id", "sample-count").text.startswith("6 of")


def test_nothing_is_blocked_or_broken(opened) -> None:
    assert opened.get_log("browser") == []


def test_a_phone_scrolls_down_only(browser, built) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, built / "report.html")
        find(browser, "#sample-list button")[0].click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert find(browser, ".filters select")[0].size["height"] < 60
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_five_thousand_samples_stay_quick(browser, tmp_path) -> None:
    run = load(write_run(tmp_path, samples=1250, tasks=("longbench:qasper",)))
    page.write_page(Data.of(run), [], [], tmp_path / "report.html")
    open_page(browser, tmp_path / "report.html")
    assert browser.find_element("id", "sample-count").text == "5000 of 5000 samples"
    assert len(find(browser, "#sample-list li")) == 50
    script = """
      const box = document.getElementById('sample-text'), start = performance.now();
      box.value = 'number 77'; box.dispatchEvent(new Event('input'));
      document.querySelector('#sample-list button').click();
      return performance.now() - start;
    """
    assert browser.execute_script(script) < 2000
