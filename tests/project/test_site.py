"""The documentation site builds without a warning, has the API reference, and loads nothing from a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import folders
import pytest
from not_empty import not_empty

pytest.importorskip("mkdocs", reason="the site needs the extra `docs` (make docs)")
pytest.importorskip("mkdocstrings", reason="the site needs the extra `docs` (make docs)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error: links, anchors and references included."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(folders.ROOT)},
        cwd=folders.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_repository_is_in_the_site(site: Path) -> None:
    pages = [*(folders.ROOT / "docs").rglob("*.md"), *(folders.ROOT / "results").rglob("README.md")]
    expected = [page.relative_to(folders.ROOT).with_suffix(".html") for page in pages]
    expected = [path.with_name("index.html") if path.stem == "README" else path for path in expected]
    assert [path for path in expected if not (site / path).is_file()] == []


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("methods", ["LongContextModel", "prefill", "CachedSession", "state_bytes"]),
        ("tasks", ["Task", "Instance", "PromptBuilder"]),
        ("presets", ["Preset", "load_preset", "UserError"]),
        ("sharedllm", ["SharedLLMForCausalLM", "from_base", "SharedLLMConfig"]),
    ],
)
def test_the_reference_describes_the_public_names(site: Path, page: str, names: list[str]) -> None:
    text = (site / "docs" / "reference" / f"{page}.html").read_text(encoding="utf-8")
    anchors = " ".join(re.findall(r'<h\d id="([^"]+)"', text))
    assert [name for name in names if name not in re.split(r"[. ]", anchors)] == []


def test_each_field_of_a_docstring_is_an_item(site: Path) -> None:
    text = (site / "docs" / "reference" / "tasks.html").read_text(encoding="utf-8")
    items = re.findall(r"<li><code>([\w, ]+)</code>: ", text)
    assert {"id", "target", "thinking", "reference", "group", "control", "holds"} <= set(items)


def test_stylesheets_and_scripts_of_the_pages_are_there(site: Path) -> None:
    for page in not_empty(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        wanted = re.findall(r'<(?:script|link rel="stylesheet")[^>]*\s(?:src|href)="([^"]+)"', text)
        assert wanted
        base = site if page.name == "404.html" else page.parent
        assert [path for path in wanted if not (base / path.lstrip("/")).is_file()] == [], page.relative_to(site)


def test_pages_load_nothing_from_a_network(site: Path) -> None:
    for page in not_empty(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(https?:[^"]+)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="(https?:[^"]+)"', text)
        assert loaded == [], f"{page.relative_to(site)} loads {loaded}"
