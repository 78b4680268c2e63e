"""Execute the notebooks: each NAME.py (percent format) becomes NAME.ipynb with its outputs.

    python notebooks/execute.py [NAME ...]

What needlessly differs between executions (timings, ids, Python's version) is removed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
HELPERS = ("execute", "sample_rows", "tools")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 600
"""Time limit of a cell."""


def names() -> list[str]:
    """The notebooks, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def read(name: str) -> NotebookNode:
    """The notebook of a text file: cells without outputs, numbered in order."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(name: str) -> NotebookNode:
    """The notebook with its outputs. Raises CellExecutionError if a cell fails."""
    notebook = read(name)
    NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    return notebook


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*names(), []], metavar="NAME", help=f"of {', '.join(names())}; all")
    for chosen in parser.parse_args().name or names():  # Python 3.11 checks an empty list against the choices
        nbformat.write(execute(chosen), FOLDER / f"{chosen}.ipynb")
        print(chosen)
