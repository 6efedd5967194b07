"""A step over two ranks of MPI, as programs of their own."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from .measured import Benchmark

PROGRAM = """
import sys, time
import numpy as np
from mpi4py import MPI
import fastadam.mpi

shapes = [(1_000_000,)]
if sys.argv[2] == "12 tensors":
    shapes = [shape for out in (2, 1) for shape in ((4, 64), (64,), (64, 64), (64,), (64, out), (out,))]
params = [np.ones(shape, np.float32) for shape in shapes]
grads = [np.ones(shape, np.float32) for shape in shapes]
if sys.argv[1] == "packed":
    params = fastadam.pack(params)
    params.grad[...] = 1
    grads = None
optimizer = fastadam.mpi.Adam(params, threads=1, timeout=30)
times = []
begin = time.perf_counter()
while len(times) < 20 or MPI.COMM_WORLD.bcast(time.perf_counter() - begin < 1, 0):
    MPI.COMM_WORLD.Barrier()
    start = time.perf_counter()
    optimizer.step(grads)
    times.append(time.perf_counter() - start)
if MPI.COMM_WORLD.rank == 0:
    print("seconds:", float(np.median(times)))
"""


def mpiexec() -> str | None:
    """Return the command that starts ranks, if there is one."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


class TwoRanks(Benchmark):
    """A step with its exchanges, on one processor each."""

    param_names = ("layout", "problem")
    params = (["packed", "in place"], ["12 tensors", "1e6 in one"])
    timeout = 120

    def setup(self, layout: str, problem: str) -> None:
        for name in ("mpi4py", "fastadam.mpi"):  # looked for and not imported: a rank starts no others
            if importlib.util.find_spec(name) is None:
                raise NotImplementedError(f"{name} is missing")
        if mpiexec() is None:
            raise NotImplementedError("there is no mpiexec")

    def track_seconds(self, layout: str, problem: str) -> float:
        command = [str(mpiexec()), "-n", "2", sys.executable, "-c", PROGRAM, layout, problem]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        return float(done.stdout.split("seconds:")[1])

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
