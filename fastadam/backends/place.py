"""Where this package was imported from: an installation, or its source folder, which can hide one."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]  # of the package


def source_folder() -> Path | None:
    """Return the folder with the source that this package is imported from; None if it is an installed one."""
    root = FOLDER.parent
    return root if (root / "pyproject.toml").is_file() and (root / "cext" / "build.py").is_file() else None


def hidden() -> Path | None:
    """Return the folder of another fastadam on Python's path, which this one hides, or None."""
    for entry in filter(lambda entry: isinstance(entry, str), sys.path):
        found = Path(os.path.realpath(os.path.join(entry or ".", FOLDER.name)))
        if found != FOLDER and (found / "__init__.py").is_file():
            return found
    return None


def why_not_built() -> str | None:
    """Return that the source folder has no C extension, and what to do; None if it has one, or there is none."""
    source = source_folder()
    if source is None or any((FOLDER / "backends").glob("_c.*")):
        return None
    where = f"the C extension was not built in {source}, the source folder that fastadam is imported from"
    build = f"build it there: pip install -e {shlex.quote(str(source))}"
    other = hidden()
    if other is None:
        return f"{where}; install a C compiler if there is none, then {build}"
    return (
        f"{where}, and which hides the fastadam that is installed in {other}; start Python in another folder, or "
        f"{build}"
    )


def again() -> str:
    """Return how to get the C extension that belongs to this code."""
    source = source_folder()
    if source is not None:
        return f"build the C extension again: pip install -e {shlex.quote(str(source))}"
    return (
        "install fastadam again from its source: pip install --force-reinstall --no-deps --no-cache-dir . (and "
        "start Python in another folder than that)"
    )
