"""How near a step comes to what the memory gives."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .measured import COMPILED, LAYOUTS, Benchmark, current, make_step

# Read: parameter, gradient and both moments; written: parameter and both moments; in float32.
BYTES_PER_PARAMETER = 28
BYTES_PER_COPIED = 8  # read once, written once
ROUNDS = 30


class Bandwidth(Benchmark):
    """Bytes of parameters, gradients and moments that a step moves, by the second."""

    param_names = ("backend", "layout", "size")
    params = (COMPILED, LAYOUTS, [10**5, 10**7])
    timeout = 120

    def setup(self, backend: str, layout: str, size: int) -> None:
        self.step = make_step(backend, layout, [(size,)])

    def track_gigabytes_per_second(self, backend: str, layout: str, size: int) -> float:
        seconds, _ = self.in_turns(size)
        return size * BYTES_PER_PARAMETER / statistics.median(seconds) / 1e9

    def track_share_of_copy(self, backend: str, layout: str, size: int) -> float:
        """Above 1 too: a copy that goes through the cache reads what it overwrites, and is not counted for it."""
        weight = BYTES_PER_PARAMETER / BYTES_PER_COPIED
        return statistics.median(weight * copy / step for step, copy in zip(*self.in_turns(size), strict=True))

    track_gigabytes_per_second.unit = "GB/s"  # type: ignore[attr-defined]
    track_share_of_copy.unit = "of a plain copy's bandwidth"  # type: ignore[attr-defined]

    def in_turns(self, size: int) -> tuple[list[float], list[float]]:
        """Return the seconds of a step and of a copy of as many float32 numbers, in each round."""
        timed = current("measure").timed
        steps, copies = [], []
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            copy = plain_copy(size, pool)
            for _ in range(ROUNDS + 1):
                steps.append(timed(self.step, 3))
                copies.append(timed(copy, 3))
        return steps[1:], copies[1:]


def plain_copy(size: int, pool: ThreadPoolExecutor) -> Callable[[], object]:
    """Return what copies so many float32 numbers: on this thread, or, where they are many, on all processors."""
    source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
    if size < 10**6:  # a thread would take longer to wake than the copy
        return lambda: np.copyto(target, source)
    pieces = pool._max_workers
    sources, targets = np.array_split(source, pieces), np.array_split(target, pieces)
    return lambda: list(pool.map(np.copyto, targets, sources))
