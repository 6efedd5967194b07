"""Measure from which size on a second thread pays, for the rule in fastadam/step/threads.py.

Two curves: hot, steps back to back, where the worker threads still spin; and cold, with other work between two
steps (as in training), after which they have to be woken. The rule must not lose on the cold curve. Usage::

    python benchmarks/threshold.py
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import fastadam
from fastadam.step import threads

SIZES = [2**k for k in range(13, 23)]
PAUSE = 0.003  # seconds of work on one thread between cold steps


def work(seconds: float) -> None:
    """Keep this thread, and none other, busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def main() -> None:
    """Print the time of a step on one thread over that on two, by backend and size."""
    threads.ELEMENTS_PER_THREAD = 1  # take two threads where two are asked for
    states = fastadam.available_backends()
    print("time on one thread / time on two (above 1: the second thread pays)")
    print(f"{'backend':8} {'elements':>10} {'us on one':>10} {'hot':>7} {'cold':>7}")
    for backend in ("c", "numba"):
        if states[backend] != "available":
            continue
        for size in SIZES:
            one, two = (
                fastadam.Adam(fastadam.pack([np.ones(size, np.float32)]), backend=backend, threads=n).step
                for n in (1, 2)
            )
            ratios: dict[float, list[float]] = {0.0: [], PAUSE: []}
            times = []
            for pause, found in ratios.items():
                for _ in range(60 if pause else 100):
                    taken = []
                    for step in (one, two):
                        for _ in range(1 if pause else 3):
                            work(pause)
                            start = time.perf_counter()
                            step()
                            seconds = time.perf_counter() - start
                        taken.append(seconds)
                    found.append(taken[0] / taken[1])
                    times.append(taken[0])
            hot, cold = (statistics.median(found) for found in ratios.values())
            print(
                f"{backend:8} {size:10,} {statistics.median(times) * 1e6:10.1f} {hot:7.2f} {cold:7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
