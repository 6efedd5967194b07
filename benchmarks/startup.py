"""Times at the start of a process: what `import fastadam` adds to `import numpy`, and the first step."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORT = """
import time, numpy
start = time.perf_counter()
import fastadam
print(time.perf_counter() - start)
"""
# From the making of the optimizer on: the first step imports Numba and gets its kernels where they are needed.
FIRST_STEP = """
import time, numpy, fastadam
w, g = numpy.ones(1000, numpy.float32), numpy.ones(1000, numpy.float32)
start = time.perf_counter()
fastadam.Adam([w], backend={backend!r}).step([g])
print(time.perf_counter() - start)
"""


def _median(code: str, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
        times.append(float(done.stdout))
    return statistics.median(times[1:])  # the first one fills the caches, of Numba and of the disk


def import_seconds(rounds: int = 11) -> float:
    """Return what `import fastadam` takes after `import numpy`: the median over processes."""
    return _median(IMPORT, rounds)


def first_step_seconds(backend: str, rounds: int = 5) -> float:
    """Return what a backend's first step takes, with its kernels in the cache: the median over processes."""
    return _median(FIRST_STEP.format(backend=backend), rounds)
