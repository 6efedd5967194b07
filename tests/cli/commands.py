"""Commands run in this process, and in one of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fastadam.cli.app import app
from tests.support.processes import LONG, only

WITHOUT = Path(__file__).parents[1] / "support" / "without_cli"


def run(*arguments: str, code: int = 0) -> Any:
    """Run a command in this process; fail if it ends with another exit code."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def words(text: str) -> str:
    """Return the text with every run of blanks as one: lines break where the terminal is narrow."""
    return " ".join(text.split())


def process(*arguments: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with nothing but `environment` of what steers steps."""
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-m", "fastadam", *arguments],
        env=only(environment),
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
