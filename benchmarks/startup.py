"""Times at the start of a process: what `import fastadam` adds to `import numpy`, and the first step.

Each is the least over several processes: whatever else the machine does only adds to it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from benchmarks.suite.startup import first_step

ROOT = Path(__file__).parent.parent
IMPORT = """
import time, numpy
start = time.perf_counter()
import fastadam
print(time.perf_counter() - start)
"""


@contextlib.contextmanager
def _with_bytecode() -> Iterator[str]:
    """Have processes keep compiled modules, as an install does, whatever the environment says; give a folder."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, PYTHONPYCACHEPREFIX=folder):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield folder


def _import() -> float:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    return float(done.stdout)


def import_seconds(rounds: int = 11) -> float:
    """Return what `import fastadam` takes after `import numpy`."""
    with _with_bytecode():
        _import()  # compiles the modules
        return min(_import() for _ in range(rounds))


def first_step_seconds(backend: str, rounds: int = 9) -> float:
    """Return what making an optimizer and its first step take, with compiled kernels in Numba's cache.

    Importing what the backend needs is part of it.
    """
    with _with_bytecode() as folder:
        first_step(backend, folder)
        return min(first_step(backend, folder) for _ in range(rounds))
