"""Time a packed float32 step by how far apart, within a page of memory, its buffers begin.

A kernel goes through its buffers side by side. Where they are at nearly the same place of their pages, it can be
slower: how much depends on the pages, probably because caches tell lines apart by a hash of addresses. So every
timing has its buffers in other pages, drawn at random. All placements are timed in turns; the last one is that of
fastadam/memory/buffers.py. Usage::

    python benchmarks/placement.py
    python benchmarks/placement.py --size 2500 --backend numba --rounds 500
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from fastadam import backends
from fastadam.cli.measure import timed
from fastadam.memory.arrays import address
from fastadam.memory.buffers import ALIGNMENT, PAGE, SPREAD
from fastadam.memory.structs import ROLES, SPAN
from fastadam.step.backend import BackendName
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import Plan

LINES = PAGE // ALIGNMENT
LAGS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
STEPPED = ROLES[:4]
ITEMSIZE = 4
PAGES = 4096  # to draw from
SECONDS_AT_ONCE = 2e-4


class Steps:
    """Steps over buffers that can be put anywhere in memory that is theirs alone."""

    def __init__(self, size: int, backend: BackendName) -> None:
        pages = -(-size * ITEMSIZE // PAGE) + 1  # for one buffer, at any line of its first page
        self._room, self._places = pages * PAGE, PAGES // pages
        self._memory = np.full((PAGES + 1) * PAGE // ITEMSIZE, 0.5, np.float32)
        self._steps = np.zeros(1, np.int64)
        span = np.zeros(1, SPAN.dtype)
        span["size"] = size
        counters = counters_in(self._steps)
        self._plan = Plan(span, np.zeros(1, np.int64), counters, counters, [backends.load(backend)], 1, True)
        self._plan.write_options([Coefficients(Hyperparameters(lr=1e-9))])

    def put(self, lag: int, rng: np.random.Generator) -> None:
        """Let each buffer begin `lag` lines after the last one, within pages of its own."""
        start = address(self._memory)
        start += -start % PAGE
        for i, (role, place) in enumerate(zip(STEPPED, rng.permutation(self._places), strict=False)):
            self._plan.spans[role] = start + place * self._room + i * lag % LINES * ALIGNMENT

    def step(self) -> None:
        """Take a step."""
        self._plan.take()


def measure(size: int, backend: BackendName, rounds: int) -> dict[int, list[float]]:
    """Return the nanoseconds per parameter in each round, by the lag."""
    steps, rng = Steps(size, backend), np.random.default_rng(0)
    lags = [*LAGS, SPREAD // ALIGNMENT]
    steps.put(lags[-1], rng)
    steps.step()
    repeats = max(1, int(SECONDS_AT_ONCE / timed(steps.step, 2)))
    times: dict[int, list[float]] = {lag: [] for lag in lags}
    for _ in range(rounds):
        for lag in rng.permutation(lags).tolist():
            steps.put(lag, rng)
            steps.step()  # not timed: brings the memory into the caches
            times[lag].append(timed(steps.step, repeats))
    return {lag: [each / size * 1e9 for each in own] for lag, own in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in backends.HOST if backends.load(name).why_missing() is None]
    parser.add_argument("--size", type=int, default=9155, help="parameters, up to a million")
    parser.add_argument("--backend", choices=known, default=known[0])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    found = measure(options.size, options.backend, options.rounds)
    print(f"{options.backend}, {options.size:,} parameters: ns per parameter")
    print(f"{'lines from one buffer to the next':>34}{'median':>10}{'mean':>10}{'worst 10 %':>12}")
    for lag, own in found.items():
        name = str(lag % LINES) + (", as in fastadam" if lag not in LAGS else "")
        print(f"{name:>34} {np.median(own):9.3f} {np.mean(own):9.3f} {np.quantile(own, 0.9):11.3f}")


if __name__ == "__main__":
    main()
