"""Schedules made of schedules."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Any

from fastadam.schedules.checks import listed, rate, whole
from fastadam.schedules.decays import Constant
from fastadam.schedules.schedule import Schedule, count_before, named


@named
class Join(Schedule):
    """One schedule after another; each counts its steps from its own beginning.

    Parameters
    ----------
    schedules : sequence of Schedule or float
        A number is a constant.
    boundaries : sequence of int
        After how many steps each of them but the first begins; growing.
    """

    _fields = ("schedules", "boundaries")
    __slots__ = _fields
    schedules: tuple[Schedule, ...]
    boundaries: tuple[int, ...]

    def __init__(self, schedules: Iterable[Schedule | float], boundaries: Iterable[int]) -> None:
        parts = tuple(as_schedule(f"schedules[{i}]", one) for i, one in enumerate(listed("schedules", schedules)))
        ends = tuple(whole(f"boundaries[{i}]", b, 0) for i, b in enumerate(listed("boundaries", boundaries)))
        if not parts or len(ends) != len(parts) - 1:
            raise ValueError(
                f"boundaries must be one less than schedules, got {len(ends)} for {len(parts)}: each says after "
                f"how many steps the next schedule begins"
            )
        if list(ends) != sorted(ends):
            raise ValueError(
                f"boundaries must grow, got {list(ends)}; they are counted from the first step of all"
            )
        self._set(schedules=parts, boundaries=ends)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        place = bisect.bisect_right(self.boundaries, count_before(step))
        return self.schedules[place](step - self.boundaries[place - 1] if place else step)


@named
class Warmup(Schedule):
    """Along a line up to the first value of a schedule, which follows.

    With ``start=0`` the first step of all has the learning rate 0, as in optax.

    Parameters
    ----------
    schedule : Schedule or float
        What follows; a number is a constant. It counts its steps from the end of the warm-up. (The `decay_steps`
        of optax's ``warmup_cosine_decay_schedule`` contain the warm-up.)
    steps : int
        How many steps the warm-up takes.
    start : float, default 0
        Its first value; not negative.
    """

    _fields = ("schedule", "steps", "start")
    __slots__ = _fields
    schedule: Schedule
    steps: int
    start: float

    def __init__(self, schedule: Schedule | float, steps: int, start: float = 0.0) -> None:
        self._set(
            schedule=as_schedule("schedule", schedule), steps=whole("steps", steps, 0), start=rate("start", start)
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = count_before(step)
        if count >= self.steps:
            return self.schedule(step - self.steps)
        peak = self.schedule(1)
        return (self.start - peak) * (1.0 - count / self.steps) + peak


def as_schedule(name: str, value: Any) -> Schedule:
    """Return a schedule, or a number as a constant one."""
    if isinstance(value, Schedule):
        return value
    if callable(value):
        raise TypeError(
            f"{name} must be a schedule of fastadam.schedules or a number, got {value!r}, which has no "
            f"definition; join functions in a function of your own"
        )
    return Constant(rate(name, value))
