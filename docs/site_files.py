"""The files of the site: the repository's pages at their own paths, with every file that they link to.

mkdocs knows one folder of pages; here pages lie beside what they describe (results, benchmarks, notebooks). Each keeps
its path in the repository, so one relative link works in a checkout, on a code host and on the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "results/**/README.md", "benchmarks/*.md", "notebooks/*.md", "examples/*/*.md")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)


def linked(page: Path) -> set[Path]:
    """Files of the repository that a page links to."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    paths = {(page.parent / target).resolve() for target in LINK.findall(text) if "://" not in target}
    return {path for path in paths if path.is_file() and path.is_relative_to(ROOT)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the pages of docs/ by all pages of the repository and what they link to; the theme's files stay."""
    found = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    while new := {path for page in found if page.suffix == ".md" for path in linked(page)} - found:
        found |= new
    ours = [File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)) for path in sorted(found)]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theme, *ours])
