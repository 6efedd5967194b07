"""Taking steps of several optimizers in turns, and comparing them round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastadam.cli.contenders import Maker, Step
from fastadam.cli.shapes import Shapes

LEAST_ROUNDS = 3  # taken even where time is short: a median needs some
MOST_STEPS = 10  # timed at once
SHORT = 2e-3  # seconds; shorter steps are timed several at once


class Contender(NamedTuple):
    """One optimizer: how to make its step, and what memory that takes.

    Attributes
    ----------
    make : callable
        Takes the arrays and the gradient sets, and returns the step.
    copies : int
        How many times the memory of all parameters it holds, not counting the shared gradients.
    temporaries : int
        How many times the memory of the largest array it needs on top of that.
    """

    make: Maker
    copies: int
    temporaries: int = 0


class Problem(NamedTuple):
    """What the optimizers step over."""

    title: str
    shapes: Shapes

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return sum(_size(shape) for shape in self.shapes)

    def bytes_needed(self, contenders: dict[str, Contender], itemsize: int) -> int:
        """Return an estimate of the memory that holding all contenders at once takes."""
        largest = max(map(_size, self.shapes))
        copies = 2 + sum(each.copies for each in contenders.values())  # gradients, and the arrays handed over
        temporaries = max(each.temporaries for each in contenders.values())
        return itemsize * (copies * self.parameters + temporaries * largest)


def _size(shape: tuple[int, ...]) -> int:
    size = 1  # as a Python int: sizes beyond any memory must not overflow before they are refused
    for n in shape:
        size *= n
    return size


class Spread(NamedTuple):
    """The median of a number over the rounds, and its quartiles."""

    median: float
    low: float
    high: float


class Result(NamedTuple):
    """What was measured: seconds per step in each round, by contender; and steps timed at once, likewise."""

    problem: Problem
    seconds: dict[str, list[float]]
    steps: dict[str, int]

    @property
    def rounds(self) -> int:
        """How many rounds were taken."""
        return len(next(iter(self.seconds.values())))

    def ratio(self, base: str, name: str) -> Spread:
        """Return how many times as fast as `base` the contender is, compared within each round."""
        pairs = zip(self.seconds[base], self.seconds[name], strict=True)
        return spread([of_base / own for of_base, own in pairs])


def spread(numbers: list[float]) -> Spread:
    """Return the median and the quartiles."""
    low, high = np.quantile(numbers, [0.25, 0.75]).tolist()
    return Spread(statistics.median(numbers), low, high)


def measure(
    problem: Problem,
    contenders: dict[str, Contender],
    dtype: str,
    rounds: int,
    most_seconds: float,
    report: Callable[[str], None],
) -> Result:
    """Time all contenders in one process, in turns.

    Whatever else the machine does hits all of them, and the random order lets none always follow the same one.

    Parameters
    ----------
    problem : Problem
        The shapes.
    contenders : dict of Contender
        By name.
    dtype : str
        Of parameters and gradients.
    rounds : int
        How often each one has its turn, unless the time is up before.
    most_seconds : float
        After them, compilation included, no round begins, once three have been taken.
    report : callable
        Is told the name of the contender before it is made, and then before each turn.

    Returns
    -------
    Result
    """
    end = time.monotonic() + most_seconds
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape, np.float32).astype(dtype, copy=False) for shape in problem.shapes]
    steps: dict[str, Step] = {}
    repeats: dict[str, int] = {}
    for name, contender in contenders.items():
        report(name)
        step = contender.make([np.full(shape, 0.5, dtype) for shape in problem.shapes], [grads])
        step()  # compiles, makes state, has pages given
        repeats[name] = max(1, min(MOST_STEPS, int(SHORT / timed(step, 1))))
        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for name in rng.permutation(list(steps)).tolist():
            report(name)
            steps[name]()  # not timed: brings the contender's own arrays back into the cache
            times[name].append(timed(steps[name], repeats[name]))
    return Result(problem, times, repeats)


def timed(step: Step, times: int) -> float:
    """Return the seconds that one of several consecutive steps takes."""
    start = time.perf_counter()
    for _ in range(times):
        step()
    return max((time.perf_counter() - start) / times, 1e-9)  # a coarse clock must not make it zero


def readable_ratio(ratio: float) -> str:
    """Return a ratio with two or three digits, as many as say something."""
    if ratio < 0.1:
        return f"{ratio:.2g}"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"
