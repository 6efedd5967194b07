"""What all commands print with."""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

SPELLED = {"µ": "u", "×": "x"}  # for terminals without these signs


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    return SPELLED.get(sign, "?"), error.start + 1


codecs.register_error("fastadam", _spell)


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: what looks like markup (``fastadam[cli]``) is not any.

    Signs that the terminal's encoding lacks are spelled in ASCII.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="fastadam")
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a value as JSON, and nothing else, to standard output."""
    print(json.dumps(value, indent=2))


def fail(message: str) -> NoReturn:
    """Print one sentence to standard error and end with exit code 1."""
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(1)
