"""The run files of a run folder: the options that repeat it, as `sharedllm-eval --config` reads them."""

from __future__ import annotations

from pathlib import Path

from evals.records.disk import replace_file

RUN_FILE_NAME = "run.yaml"
EARLIER = "run-{}.yaml"


def write_run_file(folder: Path, content: str, *, covers: bool) -> None:
    """Write `run.yaml`, the file of the last command.

    covers: whether that command has every cell of the run. Where it has not, the files of earlier commands stay, as
    `run-1.yaml` and so on; where it has, they say nothing more and go.
    """
    path, encoded = folder / RUN_FILE_NAME, content.encode()
    earlier = sorted(folder.glob(EARLIER.format("*")))
    known = [file for file in earlier if covers or file.read_bytes() == encoded]
    if not covers and path.exists() and path.read_bytes() != encoded:
        path.replace(_free(folder))
    replace_file(path, encoded)
    for file in known:
        file.unlink()


def _free(folder: Path) -> Path:
    number = 1
    while (folder / EARLIER.format(number)).exists():
        number += 1
    return folder / EARLIER.format(number)
