"""A parameter that grows and is pruned: ``python -m benchmarks.growth``.

A parameter of a million rows of 59 float32 numbers (or as many as the command line says), as of Gaussians in a
scene, grows by a tenth, with parents and without, and is pruned to nine tenths. In turns with that, the parameter
and its two moments are copied by NumPy, as they lie, into new arrays of the same size. The bar is three times as
long as that.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastadam

BAR = 3.0
Work = Callable[[], object]


def copied(arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
    """Return copies in arrays of so many rows, with zeros behind."""
    made = []
    for array in arrays:
        new = np.empty((rows, *array.shape[1:]), array.dtype)
        n = min(rows, len(array))
        new[:n] = array[:n]
        new[n:] = 0
        made.append(new)
    return made


def seconds(work: Work) -> float:
    """Return how long work takes; what it returns is dropped after that."""
    begin = time.perf_counter()
    made = work()
    taken = time.perf_counter() - begin
    del made
    return taken


def made(n_rows: int, width: int) -> fastadam.Adam:
    """Return an optimizer over one array that has been stepped."""
    rng = np.random.default_rng(0)
    optimizer = fastadam.Adam([rng.standard_normal((n_rows, width), np.float32)])
    optimizer.step([np.ones((n_rows, width), np.float32)])
    return optimizer


def ratio(name: str, change: dict[str, Any], rows: int, make: Callable[[], fastadam.Adam], rounds: int) -> float:
    """Return how many times as long a change takes as copying, the median over the rounds; print the times."""
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        optimizer = make()
        state = optimizer.state[0]
        arrays = [optimizer.param_groups[0]["params"][0], state["exp_avg"], state["exp_avg_sq"]]
        works = [(theirs, functools.partial(copied, arrays, rows))]
        works.insert(number % 2, (ours, functools.partial(optimizer.resize, 0, **change)))
        del state, arrays
        for times, work in works:
            times.append(seconds(work))
    first, second = (statistics.median(each[1:]) for each in (ours, theirs))
    print(f"{name}: {1e3 * first:.0f} ms, copying {1e3 * second:.0f} ms")
    return statistics.median(a / b for a, b in zip(ours[1:], theirs[1:], strict=True))


def measure(n_rows: int, width: int, rounds: int) -> dict[str, float]:
    """Return the ratio of each change."""
    rng = np.random.default_rng(1)
    more = n_rows // 10
    left = np.sort(rng.permutation(n_rows)[: n_rows - more])
    changes: dict[str, tuple[dict[str, Any], int]] = {
        "grown by 10 %, of zeros": ({"grow": more}, n_rows + more),
        "grown by 10 %, of parents": ({"grow": rng.integers(0, n_rows, more)}, n_rows + more),
        "pruned to 90 %": ({"keep": left}, n_rows - more),
    }
    make = functools.partial(made, n_rows, width)
    return {name: ratio(name, *change, make, rounds) for name, change in changes.items()}


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Compare, and print the times, the ratios and what came of the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--width", type=int, default=59)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args(args)
    ratios = measure(given.rows, given.width, given.rounds)
    for name, found in ratios.items():
        verdict = "met" if found <= BAR else "MISSED"
        print(f"{name}: {found:.2f} times as long as copying (at most {BAR:g}) {verdict}")
    return ratios


if __name__ == "__main__":
    main()
