"""What is paid once: the import, and the compilation of the first step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from .measured import BACKENDS, Benchmark, need_backend, need_module

IMPORTS = {
    "numpy": ("import numpy", "pass"),
    "fastadam after numpy": ("import fastadam", "import numpy"),
    "fastadam.torch after torch": ("import fastadam.torch", "import torch"),
}


class Import(Benchmark):
    """An import in a fresh process, which has imported what it builds on before."""

    param_names = ("what",)
    params = (list(IMPORTS),)

    def setup(self, what: str) -> None:
        if "torch" in what:
            need_module("torch")
            need_module("fastadam.torch")

    def timeraw_import(self, what: str) -> tuple[str, str]:
        return IMPORTS[what]


FIRST_STEP = """
import sys, time
import numpy as np
import fastadam
param, grad = np.ones(1000, np.float32), np.ones(1000, np.float32)
start = time.perf_counter()
fastadam.Adam([param], backend=sys.argv[1]).step([grad])
print(time.perf_counter() - start)
"""
RUNS = 3


class FirstStep(Benchmark):
    """Making an optimizer and taking its first step in a fresh process, with Numba's cache empty or filled.

    The import of what the backend needs is in it; the import of NumPy and fastadam is not.
    """

    param_names = ("backend", "cache")
    params = (BACKENDS, ["empty", "filled"])
    timeout = 240

    def setup(self, backend: str, cache: str) -> None:
        need_backend(backend)
        if backend != "numba" and cache == "filled":
            raise NotImplementedError(f"{backend} has no cache")

    def track_seconds(self, backend: str, cache: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            if cache == "filled":
                first_step(backend, os.path.join(folder, "filled"))
                return min(first_step(backend, os.path.join(folder, "filled")) for _ in range(RUNS))
            return min(first_step(backend, os.path.join(folder, str(run))) for run in range(RUNS))

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]


def first_step(backend: str, cache: str) -> float:
    """Return the seconds of the first step in a fresh process with Numba's cache in that folder."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, backend],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return float(done.stdout)
