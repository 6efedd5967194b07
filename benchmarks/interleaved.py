"""Contenders that run in turns, in one process, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

Steps = Mapping[str, Callable[[], object]]
Times = Mapping[str, list[float]]


def seconds(step: Callable[[], object], steps: int) -> float:
    """Return the time of one of `steps` consecutive steps."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def run(steps: Steps, rounds: int, in_a_row: Callable[[str], int], *, warm: bool) -> dict[str, list[float]]:
    """Return the seconds per step of each contender in each round.

    Parameters
    ----------
    steps : mapping
        From names to steps.
    rounds : int
        How often each has its turn.
    in_a_row : callable
        How many steps it takes then, by name.
    warm : bool
        Whether it takes one before that is not timed, which brings its own arrays back into the cache.
    """
    rng = np.random.default_rng(0)
    for step in steps.values():  # compile, make state, fault pages in
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name in rng.permutation(list(steps)).tolist():  # so that none always follows the same one
            step = steps[name]
            if warm:
                step()
            times[name].append(seconds(step, in_a_row(name)))
    return times


def ratio(times: Times, base: str, name: str) -> float:
    """Return how many times faster `name` is than `base`: the median over rounds; NaN without `base`."""
    if base not in times:
        return math.nan
    return statistics.median(b / t for b, t in zip(times[base], times[name], strict=True))
