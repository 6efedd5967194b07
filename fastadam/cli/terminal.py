"""What all commands print with."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: what looks like markup (``fastadam[cli]``) is not any."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a value as JSON, and nothing else, to standard output."""
    print(json.dumps(value, indent=2))


def fail(message: str) -> NoReturn:
    """Print one sentence to standard error and end with exit code 1."""
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(1)
