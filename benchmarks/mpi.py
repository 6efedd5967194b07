"""A step over MPI beside its exchanges alone, and the memory of moments per rank.

``mpiexec -n 2 python -m benchmarks.mpi`` steps 100 million float32 numbers, packed and in arrays. In turns with
the steps, the same exchanges are made without a step: the mean of the gradients (an all-to-all, and the sum in the
order of the ranks) and the gathering of the parameters. The ratio of the best times is to be at most 1.6 on two
ranks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

import fastadam
import fastadam.mpi

BAR = 1.6
COMM = MPI.COMM_WORLD


def best(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the shortest time of each call, of the slowest rank, in seconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            COMM.Barrier()
            begin = time.perf_counter()
            call()
            times[name].append(COMM.allreduce(time.perf_counter() - begin, MPI.MAX))
    return {name: min(each) for name, each in times.items()}


def moments(optimizer: Any) -> int:
    """Return the bytes of the moments that this rank has."""
    buffers = [each for group in optimizer._groups for each in group.moments.values()]
    return sum(buffer.nbytes for each in buffers for buffer in each.values())


def measure(n: int, rounds: int, layout: str, **options: Any) -> dict[str, float]:
    """Return the times of a step and of its exchanges, and the bytes of moments."""
    rng = np.random.default_rng(COMM.rank)
    shape = (n // 1000, 1000)
    if layout == "packed":
        params: Any = fastadam.pack([np.zeros(shape, np.float32), np.zeros(n % 1000, np.float32)])
        params.grad[...] = 1.5
        grads = None
    else:
        params = [np.zeros((shape[0] // 50, 1000), np.float32) for _ in range(50)]
        grads = [rng.standard_normal(each.shape, dtype=np.float32) for each in params]
    optimizer = fastadam.mpi.Adam(params, timeout=300, threads=1, **options)
    optimizer.step(grads)
    steps = optimizer._steps
    (means,) = steps._means.values()
    given = list(params.grad_views) if grads is None else grads

    def exchanges() -> None:
        means.compute(given)
        steps._parameters.gather()

    own: Any = np.empty(shape[0] * 1000 // COMM.size, np.float32)

    def theirs() -> None:
        COMM.Reduce_scatter_block(params.grad[: own.size * COMM.size], own)

    calls: dict[str, Callable[[], object]] = {
        "reduce": lambda: means.compute(given),
        "gather": steps._parameters.gather,
        "exchanges": exchanges,
        "step": lambda: optimizer.step(grads),
    }
    if grads is None:
        calls["MPI's reduce-scatter"] = theirs
    before = steps.received
    optimizer.step(grads)
    received = steps.received - before
    return {**best(calls, rounds), "received": received, "moments": moments(optimizer)}


def main() -> None:
    """Read the command line, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layouts", nargs="+", default=["packed", "arrays"])
    parser.add_argument("--json", help="where to write the figures")
    given = parser.parse_args()
    figures = {}
    for layout in given.layouts:
        found = measure(given.numbers, given.rounds, layout)
        figures[layout] = found
        every = COMM.allgather(found["moments"])
        share = max(every) * COMM.size / sum(every)
        if COMM.rank == 0:
            ratio = found["step"] / found["exchanges"]
            print(
                f"{layout}: {COMM.size} ranks, {given.numbers:,} numbers: step {found['step'] * 1e3:.1f} ms, "
                f"exchanges alone {found['exchanges'] * 1e3:.1f} (reduce {found['reduce'] * 1e3:.1f}, gather "
                f"{found['gather'] * 1e3:.1f}): ratio {ratio:.2f}, bar {BAR}; moments of a rank at most "
                f"{(share - 1) * 100:.2f} % over 1/{COMM.size}, bar 2 %; received {found['received'] / 1e6:.1f} "
                f"MB",
                flush=True,
            )
            if (theirs := found.get("MPI's reduce-scatter")) is not None:
                print(f"MPI's own reduce-scatter takes {theirs * 1e3:.1f} ms", flush=True)
    if COMM.rank == 0 and given.json:
        with open(given.json, "w") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
