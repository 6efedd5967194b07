"""How many bytes a parameter takes with each setting, measured from the process that steps it (on Linux).

What is resident before and after: first of the weights, then of the optimizer, with one step taken. Each setting
has a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

import fastadam
from benchmarks.low_precision.settings import SETTINGS

SIZE = 2**28


def resident() -> int:
    """Return how many bytes of this process are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_here(name: str, size: int) -> dict[str, float]:
    """Return the bytes of a weight, and those that the optimizer keeps for it."""
    setting = SETTINGS[name]
    dtype = ml_dtypes.bfloat16 if setting.weights == "bfloat16" else np.float32
    grad = np.full(size, 1e-3, np.float32)
    small = np.ones(64, dtype)
    fastadam.Adam([small], backend="c", threads=1, **setting.options).step([grad[:64]])  # what is loaded once
    before = resident()
    weights = np.full(size, 0.5, dtype)
    with_weights = resident()
    optimizer = fastadam.Adam([weights], backend="c", threads=1, **setting.options)
    optimizer.step([grad])
    return {"weight": (with_weights - before) / size, "optimizer": (resident() - with_weights) / size}


def measure(name: str, size: int = SIZE) -> dict[str, float]:
    """Return what `measure_here` finds in a process of its own."""
    command = [sys.executable, "-m", __name__, name, str(size)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {key: round(each, 3) for key, each in json.loads(found.stdout).items()}


if __name__ == "__main__":
    print(json.dumps(measure_here(sys.argv[1], int(sys.argv[2]))))
