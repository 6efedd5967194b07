"""Commands run in this process, and in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastadam.cli.app import app
from tests.conftest import AVAILABLE

LONG = 240  # seconds that no process comes near to, unless it hangs
WITHOUT = Path(__file__).parents[1] / "support" / "without_cli"
STEERING = ("NUMBA_", "FASTADAM_", "OMP_")

needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason="the C extension is not available")


def run(*arguments: str, code: int = 0) -> Any:
    """Run a command in this process; fail if it ends with another exit code."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def words(text: str) -> str:
    """Return the text with every run of blanks as one: lines break where the terminal is narrow."""
    return " ".join(text.split())


def process(*arguments: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(STEERING)}
    if path is not None:
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), inherited.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "fastadam", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
