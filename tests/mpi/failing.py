"""A rank that raises, hangs or is killed, as a program of its own: ``python -m tests.mpi.failing WAY SECONDS``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import numpy as np
from mpi4py import MPI

import fastadam
import fastadam.mpi
from fastadam.mpi.lanes import Lane

COMM = MPI.COMM_WORLD
STEPS = 5


def die() -> None:
    """End as by the system's memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def fail() -> None:
    """Raise what has nothing to do with the library."""
    raise ZeroDivisionError("of the user's own")


def hang() -> None:
    """Do something else for ever."""
    time.sleep(10_000)


WAYS = {"raises": fail, "hangs": hang, "killed": die, "interrupted": interrupt}


def main(way: str, where: str, timeout: float) -> None:
    """Fail on the last rank in some way: at first, between two steps, or within an exchange."""
    is_last = COMM.rank == COMM.size - 1
    if where == "first" and is_last:
        WAYS[way]()
    optimizer = fastadam.mpi.Adam(np.zeros(4000), timeout=timeout)
    if where == "exchange" and is_last:
        finish = Lane._finish

        def spoiled(self: Lane, *arguments: Any) -> None:
            finish(self, *arguments)
            if optimizer.state and optimizer.state[0]["step"] == STEPS - 1:
                WAYS[way]()

        Lane._finish = spoiled  # type: ignore[method-assign]
    for step in range(10 * STEPS):
        if where == "between" and is_last and step == STEPS:
            WAYS[way]()
        begin = time.monotonic()
        try:
            optimizer.step(np.ones(4000))
        except fastadam.mpi.LostRankError as error:
            took = time.monotonic() - begin
            print(f"rank {COMM.rank} after {step} steps and {took:.1f} seconds: {error}", flush=True)
            try:
                optimizer.step(np.ones(4000))
            except fastadam.mpi.LostRankError as again:
                print(f"rank {COMM.rank} again: {again}", flush=True)
            raise


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
