"""What our commands have in common: how they are declared, and how they end."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from evals.errors import UserError
from evals.safe_text import plain_line


def new_app(completion: bool = False) -> typer.Typer:
    """A command line without decorated tracebacks. completion: with options that set up the shell's completion."""
    return typer.Typer(
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_command(app: typer.Typer, name: str, arguments: list[str]) -> NoReturn:
    """Run a command and exit with the code that it returns.

    A mistake of the user's is one sentence on stderr and exit code 2. A bug keeps its traceback.
    """
    try:
        code = app(args=arguments, standalone_mode=False, prog_name=name)
    except UserError as error:
        print(plain_line(str(error)), file=sys.stderr)
        code = 2
    except typer.TyperException as error:  # a command line that Typer cannot read
        print(plain_line(error.format_message()), file=sys.stderr)
        code = 2
    sys.exit(code)
