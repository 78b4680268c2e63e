"""Reports without figures, and one browser without screen or network for all pages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evals.report import plots


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures: drawing them takes longer than all else."""
    monkeypatch.setattr(plots, "draw", lambda data, folder: [])


class Browser:
    """A page in Chromium, as a person sees it."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, path: Path, hash_: str = "") -> None:
        """Open a page once its script has drawn it: `get` of chromedriver 150 may return while the page still loads."""
        self.driver.get("about:blank")  # from the same page, another hash would not load it again
        self.driver.get(path.as_uri() + hash_)
        self.wait()

    def wait(self) -> None:
        """Until the script of the page has drawn it."""
        from selenium.webdriver.support.wait import WebDriverWait

        drawn = "return document.body && document.body.dataset.drawn"
        WebDriverWait(self.driver, 60).until(lambda driver: driver.execute_script(drawn))

    def find(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """The visible text of each element: read at once, for an element at a time takes long."""
        return self.run(f"return [...document.querySelectorAll({json.dumps(selector)})].map((e) => e.innerText.trim())")

    def text(self, selector: str) -> str:
        [found] = self.texts(selector)
        return found

    def run(self, script: str, *arguments: object):
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def choose(self, name: str, value, event: str = "change") -> None:
        """Choose an option by its value; None for `all`."""
        script = "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        self.run(script + "s.dispatchEvent(new Event(arguments[2]));", name, json.dumps(value) if value else "", event)

    def write(self, name: str, text: str) -> None:
        script = "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        self.run(script + "s.dispatchEvent(new Event('input'));", name, text)

    @property
    def hash(self) -> str:
        return str(self.run("return decodeURIComponent(location.hash)"))

    def emulate(self, **media: str) -> None:
        """`scheme="dark"`, `width=390`; nothing for the window as it is."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        if width := media.pop("width", None):
            size = {"width": int(width), "height": 844, "deviceScaleFactor": 1, "mobile": int(width) < 500}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": f"prefers-color-{name}", "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def pdf(self) -> bytes:
        """The page as printed."""
        import base64

        return base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])

    def complaints(self) -> list:
        """What the browser blocked or found broken since it was last asked."""
        return self.driver.get_log("browser")


@pytest.fixture(scope="session")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install selenium)")
    driver_path = shutil.which("chromedriver")
    if driver_path is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    yield Browser(driver)
    driver.quit()
