"""Every shell command in README and docs works, every Python snippet runs, every link resolves.

The commands of a page run in order, in an empty folder into which examples/, benchmarks/ and notebooks/ are linked,
with these changes:

- A preset keeps its name and method and gets tiny random weights (`TINY`). Of several lengths the longest is run, at
  most 2k (RULER and BABILong 8k: with one token per byte their tasks do not fit into less). `--limit` is 2.
- A name in capitals (DATA, TEXTS, BASE, ...) is a folder with a few invented rows and texts.
- `sharedllm-report` on a run that no earlier command wrote gets one of tests/fixtures/synthetic_run.py.
- pip installs a folder of the repository into the empty folder; of a line that installs this package the words are
  checked. make only
  says what it would do, and of that `sharedllm-eval` is run. Training, lm-eval, the scripts in benchmarks/ and
  `doctor` have their arguments checked (other tests run them).

`<!-- test: plan only (reason) -->` before a block: `sharedllm-eval` only plans it (`--dry-run`) with the real presets.
The same holds for every `--task efficiency`, whose models are measured in processes of their own.
"""

from __future__ import annotations

import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
import typer
from fixtures.synthetic_run import write_run
from not_empty import not_empty

from evals import registry
from evals.methods import presets
from evals.methods.presets import Preset
from evals.run.identity import TaskChoice
from evals.run.spec import parse_length
from sharedllm.adapter_files import SHIPPED
from sharedllm.trained_adapter import BaseIdentity, write_trained

ROOT = folders.ROOT
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "notebooks", "examples/third_party_method")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
READ = [*PAGES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "results").rglob("README.md"))]
"""Pages whose links and paths are checked; the commands of recorded runs are not run again."""
BLOCK = re.compile(r"(?:<!-- test: (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
PROGRAMS = ("sharedllm-eval", "sharedllm-report", "sharedllm-train", "sharedllm-lm-eval", "python", "pip", "uv", "make")
PLAN_ONLY = re.compile(r"plan only \((.+)\)")
SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
}
LONG_WORDED = ("ruler", "babilong")
INVENTED = ("synthetic-streamingllm", "synthetic-sharedllm")
TINY: dict[str, dict[str, Any]] = {  # settings of methods whose defaults are too large for the shape
    "sharedllm": {"chunk_size": 64, "ratios": [4, 2], "lower_layers": 1},
    "streaming_llm": {"sinks": 4, "recent": 124, "chunk": 128},
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. plan_only: why its commands are not run, if they are not."""

    language: str
    text: str
    plan_only: str

    @property
    def commands(self) -> list[list[str]]:
        """The command lines, as words; a synopsis (with brackets for what may be left out) is none."""
        if self.language not in ("", "bash", "sh"):
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        words = [shlex.split(line, comments=True) for line in lines if "[--" not in line]
        return [w for w in words if w and w[0] in PROGRAMS]


def blocks(page: Path) -> Iterator[Block]:
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        mark = found["mark"] or ""
        reason = PLAN_ONLY.fullmatch(mark)
        assert not mark or reason, f"{page.name}: the mark '{mark}' is not 'plan only (reason)'"
        yield Block(found["language"], found["text"], reason[1] if reason else "")


def tiny(preset: Preset) -> Preset:
    """The preset with its method and name, and little else."""
    settings = TINY.get(preset.method, preset.settings)
    return preset.model_copy(update={"shape": SHAPE, "settings": settings, "adapter": None, "max_context": None})


def shrink(words: list[str]) -> list[str]:
    """A command of `sharedllm-eval` with tiny random weights, one short length and few samples."""
    words = list(words)
    most = 8192 if any(name in word for word in words for name in LONG_WORDED) else 2048
    for i, word in enumerate(words):
        if word == "--length":
            words[i + 1] = str(min(most, max(parse_length(text) for text in words[i + 1].split(","))))
        if word == "--limit":
            words[i + 1] = "2"
    if "--list" in words or "--dry-run" in words:
        return words
    return [
        *words,
        "--random-weights",
        "--device",
        "cpu",
        "--no-perf",
        *([] if "--limit" in words else ["--limit", "2"]),
    ]


def called(main: Callable[[list[str]], Any], words: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(end.value.code or 0)


class Shell:
    """Runs the commands of one page in one folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        monkeypatch.chdir(folder)
        for name in ("examples", "benchmarks", "notebooks", "Makefile", "pyproject.toml", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)

    def run(self, words: list[str], plan_only: bool) -> None:
        self.placeholders(words)
        getattr(self, words[0].replace("-", "_"))(words[1:], plan_only)

    def placeholders(self, words: list[str]) -> None:
        for name in {part for word in words for part in re.findall(r"\b[A-Z]{4,}\b", word)}:
            (self.folder / name).mkdir(exist_ok=True)
            for kind in ("prose", "code"):
                text = "".join(f"Sentence {i} of the {kind} is made up. " for i in range(2000))
                (self.folder / name / f"{kind}.txt").write_text(text, encoding="utf-8")

    def sharedllm_eval(self, words: list[str], plan_only: bool) -> None:
        from evals.cli.evaluate import main

        if words[0] == "doctor":  # the machine decides what it finds; its options must exist
            assert called(main, [*words, "--help"]) == 0
            return
        if plan_only or "efficiency" in words:
            with self.patch.context() as patch:  # the files of published benchmarks are not here
                patch.setattr(TaskChoice, "_here", lambda task, check: None)
                assert called(main, [*words, "--dry-run"]) == 0
            return
        load = presets.load_preset
        with self.patch.context() as patch:
            patch.setattr(presets, "load_preset", lambda *chosen: tiny(load(*chosen)))
            assert called(main, shrink(words)) == 0

    def sharedllm_report(self, words: list[str], plan_only: bool) -> None:
        from evals.cli.report import main

        for word in takewhile(lambda word: not word.startswith("-"), words):
            if word != "compare" and not (self.folder / word).exists():
                write_run(self.folder / word, samples=4, tasks=("needle",), models=INVENTED)
                record = self.folder / word / "run.json"
                record.write_text(re.sub(r'"synthetic-(\w+)"', r'"\1-135m"', record.read_text()))
        assert called(main, words) == 0

    def sharedllm_train(self, words: list[str], plan_only: bool) -> None:
        from sharedllm.training.cli import app

        chosen = typer.main.get_command(app).make_context("sharedllm-train", words).params
        made = self.folder / chosen["output"] / "adapter"  # for the commands that go on with it
        if chosen["method"] == "sharedllm":
            shutil.copytree(SHIPPED / "smollm2-135m", made)
        else:
            base = BaseIdentity("llama", None, "", {})
            write_trained(made, chosen["method"], base, "BASE", {}, {"trained": torch.zeros(1)}, 2**20)

    def sharedllm_lm_eval(self, words: list[str], plan_only: bool) -> None:
        from lm_eval._cli.harness import HarnessCLI

        from evals.lm_eval import command as lm_eval_plugin

        self.patch.setattr(sys, "argv", ["lm-eval", *words])
        chosen = HarnessCLI().parse_args()
        assert chosen.model in lm_eval_plugin.models()
        assert chosen.model_args["preset"] in presets.names()

    def python(self, words: list[str], plan_only: bool) -> None:
        """A script's own `--help` names every option that the page gives it; after `--` they are sharedllm-eval's."""
        script, *rest = words
        if "--" in rest:
            end = rest.index("--")
            self.sharedllm_eval(rest[end + 1 :], plan_only=True)
            rest = rest[:end]
        shown = io.StringIO()
        self.patch.setattr(sys, "argv", [script, "--help"])
        with redirect_stdout(shown), pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert {w for w in rest if w.startswith("--")} <= set(re.findall(r"--[a-z-]+", shown.getvalue()))

    def pip(self, words: list[str], plan_only: bool) -> None:
        command, *packages = [word for word in words if word not in ("-e", "--no-deps")]
        if packages != [folder := f"./{Path(packages[-1])}"]:
            self.installs_us(command, packages)
            return
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        copy = self.folder / "source"
        subprocess.run(["cp", "-r", ROOT / folder, copy], check=True)
        subprocess.run([*pip, "--target", self.folder / "site", copy], check=True, capture_output=True)
        self.patch.syspath_prepend(str(self.folder / "site"))
        registry._targets.cache_clear()

    def installs_us(self, command: str, words: list[str]) -> None:
        """A line that installs this package names what there is: extras, the wheel of this version, real options.

        The lines themselves are run, in environments of their own, by tests/project/newcomer.py.
        """
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wheel = f"dist/{project['name']}-{project['version']}-py3-none-any.whl"
        what, _, extras = words[-1].partition(" @ ")[0].rstrip("]").partition("[")
        assert command in ("install", "wheel")
        assert what in (".", project["name"], wheel), f"{what} is not a way to name this package"
        assert {e for e in extras.split(",") if e} <= set(project["optional-dependencies"])
        options = subprocess.run([sys.executable, "-m", "pip", command, "--help"], capture_output=True, text=True)
        assert {w for w in words if w.startswith("-")} <= set(re.findall(r"--?[a-z-]+", options.stdout))

    def uv(self, words: list[str], plan_only: bool) -> None:
        """`uv pip` takes pip's words; `uv venv` makes the environment."""
        if words != ["venv"]:
            assert words[0] == "pip"
            self.pip(words[1:], plan_only)

    def make(self, words: list[str], plan_only: bool) -> None:
        """What make would do, without its set-up; what it would measure is run."""
        planned = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True, text=True)
        for line in planned.stdout.replace("\\\n", "").splitlines():
            program, *rest = shlex.split(line)
            if program.endswith("/sharedllm-eval"):
                self.sharedllm_eval(rest, plan_only)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Plots are left out: they take most of the time and have tests of their own."""
    from evals.report import plots

    monkeypatch.setattr(plots, "draw", lambda data, folder: [])
    yield Shell(tmp_path, monkeypatch)
    registry._targets.cache_clear()


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.commands for b in blocks(p))], ids=lambda p: p.stem)
def test_the_commands_of_a_page_work(shell: Shell, page: Path) -> None:
    for block in blocks(page):
        for words in block.commands:
            shell.run(words, bool(block.plan_only))


@pytest.mark.parametrize("page", PAGES[1:], ids=IDS[1:])
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README has its own tests (tests/project/test_readme.py)."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    monkeypatch.setitem(sys.modules, page.stem, type(sys)(page.stem))  # dataclasses look their module up
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


PATH = re.compile(r"`((?:sharedllm|evals|baselines|benchmarks|tests|docs|examples)/[\w./-]+)`")


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_a_page_exist(page: Path) -> None:
    """The first column of the table of old paths is about files that are gone."""
    text = page.read_text(encoding="utf-8").partition("| old | new |")
    present = text[0] + "".join(line.split("|")[2] for line in text[2].splitlines() if line.count("|") > 2)
    assert [path for path in PATH.findall(present) if not (ROOT / path).exists()] == []


NAME = re.compile(r"\b_?[A-Za-z][A-Za-z_]*\b")
ELSEWHERE = {"long_context_eval", "llama_cpp", "response_format", "json_schema"}
"""Names of other packages, and of what servers take."""


@pytest.fixture(scope="module")
def known_names() -> set[str]:
    """Every word in the project's code and presets, and in the names of their files."""
    listed = subprocess.run(["git", "ls-files", "*.py", "*.yaml", "*.toml"], cwd=ROOT, capture_output=True, text=True)
    paths = listed.stdout.split() or [str(p.relative_to(ROOT)) for p in ROOT.glob("[!.]*/**/*.py")]
    texts = [*paths, *((ROOT / path).read_text(encoding="utf-8") for path in paths if (ROOT / path).is_file())]
    return {word for text in texts for word in NAME.findall(text)}


@pytest.mark.parametrize("page", READ, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_a_page_exist(page: Path, known_names: set[str]) -> None:
    """Functions, classes and settings in backticks; a plain word proves nothing and is not looked for."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S).partition("| old | new |")[0]
    named = {name for code in re.findall(r"`([^`\n]+)`", text) for name in NAME.findall(code)}
    telling = {n for n in named if ("_" in n.strip("_") or re.match(r"[A-Z][a-z]+[A-Z]", n)) and not n.endswith("_")}
    assert telling - known_names - ELSEWHERE == set()


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES if p.parent.name == "docs" and p.name != "index.md" and p.name not in index] == []


def test_the_command_line_page_names_every_option() -> None:
    from evals.cli.evaluate import app as evaluate
    from sharedllm.training.cli import app as train

    text = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    known = {
        option
        for app in (evaluate, train)
        for parameter in typer.main.get_command(app).params
        for option in [*parameter.opts, *parameter.secondary_opts]
        if option.startswith("--")
    }
    on_by_default = {"--perf", "--reuse"}
    assert known - on_by_default - set(re.findall(r"--[a-z-]+", text)) == set()
    tables = re.findall(r"^\| `(--.*?)` \|", text, re.M)
    named = {option for cell in tables for option in re.findall(r"--[a-z-]+", cell)}
    assert named <= known, "an option that is gone"


def test_a_synopsis_names_known_options() -> None:
    from evals.cli.evaluate import app

    known = {o for p in typer.main.get_command(app).params for o in p.opts}
    shown = [block.text for page in PAGES for block in blocks(page) if "[--" in block.text]
    for text in not_empty(text for text in shown if "sharedllm-eval" in text):
        assert set(re.findall(r"--[a-z-]+", text)) <= known


def test_a_page_that_is_wrong_would_be_noticed(shell: Shell) -> None:
    with pytest.raises(AssertionError):
        shell.run(["sharedllm-eval", "--task", "neddle", "--model", "full-135m"], plan_only=True)
    with pytest.raises(typer.TyperException):
        shell.run(["sharedllm-train", "--bass", "x", "--output", "y"], plan_only=False)
    with pytest.raises(AssertionError):
        shell.run(["python", "benchmarks/throughput.py", "--no-such-option"], plan_only=False)
