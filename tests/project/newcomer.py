"""The path of a person who sees the project for the first time, from the install line to an adapter that is shared.

    python tests/project/newcomer.py [--environment DIR]

Takes minutes: it makes an environment of its own (or uses DIR again) and installs the wheel of this checkout there with
all that it needs. What is cached lies in a new folder, so the weights of the demo are fetched as they would be for the
first time. `make fuzz` runs it. The hub is never asked. Ends at the first step that fails, with what was printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADVICE = "are not on this machine: run `sharedllm-eval doctor --fix`"

OWN_MODEL = """
from pathlib import Path
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from sharedllm.files import cache_folder
(copy,) = cache_folder().glob("SmolLM2*")
sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
LlamaForCausalLM(LlamaConfig(vocab_size=49152, max_position_embeddings=2048, **sizes)).save_pretrained("mine")
AutoTokenizer.from_pretrained(copy).save_pretrained("mine")
"""
SHARE = """
import os, shutil
from pathlib import Path
from types import SimpleNamespace
from huggingface_hub import HfApi
from sharedllm import SharedLLMForCausalLM

def keep(self, repo_id, folder_path, **options):
    place = Path(os.environ["HF_HUB_CACHE"]) / "models--me--adapter"
    shutil.copytree(folder_path, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    return SimpleNamespace(oid="a" * 40)

HfApi.create_repo, HfApi.upload_folder = (lambda self, name, **options: None), keep
model = SharedLLMForCausalLM.from_base("./mine", chunk_size=64, ratios=[4, 2], lower_layers=1)
for parameter in model.base.parameters():
    parameter.requires_grad_(False)
model.push_to_hub("me/adapter", base_name="me/base", training_data="none", quality=[{"needles": 0.0}])
place = Path(os.environ["HF_HUB_CACHE"]) / "models--me--base"
shutil.copytree("mine", place / "snapshots" / ("b" * 40))
(place / "refs").mkdir()
(place / "refs" / "main").write_text("b" * 40)
"""
LOAD = """
import sharedllm
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("me/adapter")
print(type(model).__name__, repr(model.answer(AutoTokenizer.from_pretrained("me/base"), "A text. " * 50, "What?", 4)))
"""
RUN_FILE = """\
task: [needle]
model: [./mine]
length: [512]
limit: 1
device: cpu
"""


class Newcomer:
    """Runs commands in one folder with the programs of one environment."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.programs, self.folder = environment / "bin", folder
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.env = clean | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        }

    def step(self, name: str, *words: str, code: int = 0, says: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run a command; end the script unless it exits with `code` and prints `says`."""
        start = time.monotonic()
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**self.env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        right = done.returncode == code and says in done.stdout
        print(f"{'ok ' if right else 'NO '} {time.monotonic() - start:7.1f} s  {name}", flush=True)
        if not right:
            sys.exit(f"{' '.join(words)}\nexit code {done.returncode}, wanted {code} and '{says}'\n{done.stdout}")
        return done.stdout

    def python(self, name: str, code: str, says: str = "") -> str:
        """Run Python code in the environment."""
        return self.step(name, str(self.programs / "python"), "-c", code, says=says)


def install(person: Newcomer, environment: Path, version: str) -> None:
    """The environment, and the wheel in it with the extra of the demo."""
    if not (environment / "bin" / "python").exists():
        person.step("an environment", sys.executable, "-m", "venv", str(environment))
    pip = str(environment / "bin" / "pip")
    person.step("the wheel", pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", str(ROOT))
    wheel = f"dist/sharedllm-{version}-py3-none-any.whl"
    person.step("the install line", pip, "install", "--quiet", f"{wheel}[demo]")
    person.step("... of this checkout", pip, "install", "--quiet", "--no-deps", "--force-reinstall", wheel)


def walk(person: Newcomer) -> None:
    """From the first command to a shared adapter."""
    small = ("--length", "512", "--limit", "1", "--device", "cpu")
    person.step("the list says what is missing", "sharedllm-eval", "--list", says=ADVICE)
    person.step(
        "so does a run", "sharedllm-eval", "--task", "needle", "--model", "full-135m", *small, code=2, says=ADVICE
    )
    person.step("doctor --fix brings it", "sharedllm-eval", "doctor", "--fix", "--device", "cpu", says="fetched into")
    snippet = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)[0]
    person.python("the README's example", snippet, says="4179392")
    person.step(
        "a first run",
        "sharedllm-eval",
        "--task",
        "needle",
        "--model",
        "full-135m,sharedllm-135m",
        *small,
        says='"failed": 0',
    )
    person.python("a model of one's own", OWN_MODEL)
    person.step(
        "... is measured", "sharedllm-eval", "--task", "needle", "--model", "./mine", *small, says='"failed": 0'
    )
    if "--config" in person.step("the options", "sharedllm-eval", "--help"):
        (person.folder / "run.yaml").write_text(RUN_FILE, encoding="utf-8")
        person.step("a run file", "sharedllm-eval", "--config", "run.yaml", says='"failed": 0')
    person.python("an adapter is shared", SHARE)
    person.python("... and loaded by name", LOAD, says="SharedLLMForCausalLM")
    (person.folder / "evals").mkdir()
    (person.folder / "evals" / "__init__.py").touch()
    person.step("a folder called evals is no trouble", "sharedllm-eval", "--version")
    path = {"PYTHONPATH": str(person.folder)}
    person.step("... or is named", "sharedllm-eval", "--version", code=2, says="another one lies in", env=path)


def main() -> None:
    """Walk the path."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--environment", type=Path, help="environment to make, or to use again")
    chosen = parser.parse_args()
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[0]
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        environment = (chosen.environment or Path(name, "environment")).resolve()
        person = Newcomer(environment, Path(name))
        install(person, environment, version)
        walk(person)


if __name__ == "__main__":
    main()
