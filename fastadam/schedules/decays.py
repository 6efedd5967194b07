"""Schedules that go from one value to another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from fastadam.schedules.checks import flag, positive, rate, whole
from fastadam.schedules.schedule import Schedule, count_before, half_cosine, named


@named
class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    value : float
        Not negative.
    """

    _fields = ("value",)
    __slots__ = _fields
    value: float

    def __init__(self, value: float) -> None:
        self._set(value=rate("value", value))

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count_before(step)
        return self.value


@named
class Polynomial(Schedule):
    r"""From one value to another along a power: ``end + (start - end) * (1 - t / steps) ** power``.

    Parameters
    ----------
    start, end : float
        First and last value; not negative.
    steps : int
        How many steps it takes from one to the other.
    power : float, default 1
        More than 0.
    begin : int, default 0
        How many steps `start` holds before.
    """

    _fields = ("start", "end", "steps", "power", "begin")
    __slots__ = _fields
    start: float
    end: float
    steps: int
    power: float
    begin: int

    def __init__(self, start: float, end: float, steps: int, power: float = 1.0, begin: int = 0) -> None:
        self._set(
            start=rate("start", start),
            end=rate("end", end),
            steps=whole("steps", steps, 1),
            power=positive("power", power),
            begin=whole("begin", begin, 0),
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = min(max(count_before(step) - self.begin, 0), self.steps)
        share: float = (1.0 - count / self.steps) ** self.power
        return (self.start - self.end) * share + self.end


@named
class Linear(Schedule):
    """From one value to another along a line.

    Parameters
    ----------
    start, end : float
        First and last value; not negative.
    steps : int
        How many steps it takes from one to the other.
    begin : int, default 0
        How many steps `start` holds before.
    """

    _fields = ("start", "end", "steps", "begin")
    __slots__ = _fields
    start: float
    end: float
    steps: int
    begin: int

    def __init__(self, start: float, end: float, steps: int, begin: int = 0) -> None:
        self._set(
            start=rate("start", start),
            end=rate("end", end),
            steps=whole("steps", steps, 1),
            begin=whole("begin", begin, 0),
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = min(max(count_before(step) - self.begin, 0), self.steps)
        return (self.start - self.end) * (1.0 - count / self.steps) + self.end


@named
class Exponential(Schedule):
    """A value that is multiplied again and again: ``start * factor ** (t / every)``.

    Parameters
    ----------
    start : float
        First value; not negative.
    factor : float
        What it is multiplied by over `every` steps; more than 0.
    every : int, default 1
        How many steps that takes.
    begin : int, default 0
        How many steps `start` holds before.
    staircase : bool, default False
        Whether to multiply once in `every` steps, instead of a little in each.
    end : float, optional
        The value at which it stops: the least where `factor` is below 1, else the greatest.
    """

    _fields = ("start", "factor", "every", "begin", "staircase", "end")
    __slots__ = _fields
    start: float
    factor: float
    every: int
    begin: int
    staircase: bool
    end: float | None

    def __init__(
        self,
        start: float,
        factor: float,
        every: int = 1,
        begin: int = 0,
        staircase: bool = False,
        end: float | None = None,
    ) -> None:
        self._set(
            start=rate("start", start),
            factor=positive("factor", factor),
            every=whole("every", every, 1),
            begin=whole("begin", begin, 0),
            staircase=flag("staircase", staircase),
            end=None if end is None else rate("end", end),
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = count_before(step) - self.begin
        value = self.start
        if count > 0:
            try:
                value *= self.factor ** (count // self.every if self.staircase else count / self.every)
            except OverflowError:
                value = math.inf if value and self.factor > 1 else 0.0
        if self.end is None:
            return value
        return max(value, self.end) if self.factor < 1 else min(value, self.end)


@named
class Step(Schedule):
    """A value that is multiplied at chosen steps.

    Parameters
    ----------
    start : float
        First value; not negative.
    scales : mapping or iterable of pairs
        After how many steps it is multiplied, and by what: ``{30: 0.1, 80: 0.1}`` holds `start` for 30 steps.
    """

    _fields = ("start", "scales")
    __slots__ = _fields
    start: float
    scales: tuple[tuple[int, float], ...]

    def __init__(self, start: float, scales: Mapping[int, float] | Iterable[tuple[int, float]]) -> None:
        try:
            given = [
                (after, scale) for after, scale in (scales.items() if isinstance(scales, Mapping) else scales)
            ]
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"scales must map steps to factors, got {scales!r}; try {{30: 0.1, 80: 0.1}}"
            ) from error
        pairs = sorted((whole("a step in scales", after, 0), rate("a factor in scales", s)) for after, s in given)
        for (one, _), (other, _) in itertools.pairwise(pairs):
            if one == other:
                raise ValueError(f"scales has the step {one} twice; give it once, with the product of the factors")
        self._set(start=rate("start", start), scales=tuple(pairs))

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = count_before(step)
        value = self.start
        for after, scale in self.scales:
            if count < after:
                break
            value *= scale
        return value


@named
class Cosine(Schedule):
    r"""From one value down to another along half a cosine.

    With :math:`c = (1 + \cos(\pi t / steps)) / 2` it is ``end + (start - end) * c ** exponent``.

    Parameters
    ----------
    start : float
        First value; not negative.
    steps : int
        How many steps it takes.
    end : float, default 0
        Last value. (optax's `alpha` is ``end / start``.)
    exponent : float, default 1
        More than 0.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, arXiv:1608.03983.
    """

    _fields = ("start", "steps", "end", "exponent")
    __slots__ = _fields
    start: float
    steps: int
    end: float
    exponent: float

    def __init__(self, start: float, steps: int, end: float = 0.0, exponent: float = 1.0) -> None:
        self._set(
            start=rate("start", start),
            steps=whole("steps", steps, 1),
            end=rate("end", end),
            exponent=positive("exponent", exponent),
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        share: float = half_cosine(min(count_before(step), self.steps), self.steps) ** self.exponent
        return (self.start - self.end) * share + self.end
