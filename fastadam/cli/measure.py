"""Taking steps of several optimizers in turns, and comparing them round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastadam.cli.contenders import Maker, Step
from fastadam.cli.machine import Machine, Watch
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
    """A number over the rounds: what is shown of it, and the range that half of the rounds lie in."""

    median: float
    low: float
    high: float


class Result(NamedTuple):
    """What was measured.

    Attributes
    ----------
    problem : Problem
        What the optimizers stepped over.
    seconds : dict
        Seconds per step in each round, by contender.
    steps : dict
        How many steps were timed at once, by contender.
    ready : dict
        Seconds that making each contender and its first step took, in which it compiles what it needs.
    machine : Machine
        What the machine did beside the rounds.
    left_out : dict
        Why a contender did not take part in this problem.
    """

    problem: Problem
    seconds: dict[str, list[float]]
    steps: dict[str, int]
    ready: dict[str, float]
    machine: Machine
    left_out: dict[str, str]

    @property
    def rounds(self) -> int:
        """How many rounds were taken."""
        return len(next(iter(self.seconds.values())))

    def time(self, name: str) -> Spread:
        """Return the seconds of a step: the median over the rounds, and the quartiles."""
        return spread(self.seconds[name])

    def ratio(self, base: str, name: str) -> Spread:
        """Return how many times as fast as `base` the contender is: the ratio of the two times that are shown.

        The range is that of the ratios within each round, in which both met the same state of the machine. The
        median of these would be a steadier number, but one that the times beside it can contradict.
        """
        ratio = self.time(base).median / self.time(name).median
        pairs = zip(self.seconds[base], self.seconds[name], strict=True)
        within = spread([of_base / own for of_base, own in pairs])
        return Spread(ratio, min(within.low, ratio), max(within.high, ratio))


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
        After them no round begins, once three have been taken. They are counted from the first round on: what
        making the contenders ready takes, compilation above all, is counted apart.
    report : callable
        Is told the name of the contender before it is made, and then before each turn.

    Returns
    -------
    Result
    """
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape, np.float32).astype(dtype, copy=False) for shape in problem.shapes]
    steps: dict[str, Step] = {}
    repeats: dict[str, int] = {}
    ready: dict[str, float] = {}
    for name, contender in contenders.items():
        report(name)
        start = time.monotonic()
        step = contender.make([np.full(shape, 0.5, dtype) for shape in problem.shapes], [grads])
        step()  # compiles, makes state, has pages given
        ready[name] = time.monotonic() - start
        repeats[name] = max(1, min(MOST_STEPS, int(SHORT / timed(step, 1))))
        steps[name] = step
    times: dict[str, list[float]] = {name: [] for name in steps}
    watch, end = Watch(), time.monotonic() + most_seconds
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for name in rng.permutation(list(steps)).tolist():
            report(name)
            steps[name]()  # not timed: brings the contender's own arrays back into the cache
            times[name].append(timed(steps[name], repeats[name]))
    return Result(problem, times, repeats, ready, watch.stop(), {})


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


def readable_time(seconds: float) -> str:
    """Return a time with its unit and three digits, as far as they count."""
    if seconds >= 999.5:
        return f"{seconds:,.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:  # what would be rounded to 1,000 of the smaller unit is 1 of the larger
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
