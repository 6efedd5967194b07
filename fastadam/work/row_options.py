"""What the options of groups say of the rows of coefficients of a plan, and the learning rates of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.arrays import Array
from fastadam.step.coefficients import Coefficients


class Takes(Protocol):
    """A plan."""

    row_inputs: Array

    def write_options(self, coefficients: Sequence[Coefficients], which: Array) -> None:
        """Set what the options say, for each row of coefficients."""


class RowOptions:
    """The options of the rows of one plan.

    Parameters
    ----------
    rows : sequence of (Group, ndarray, int)
        Each row's group, the group's step counters, and its index in them.
    n_stepped : int
        How many of them, the first ones, are stepped.

    Attributes
    ----------
    schedules : list
        Of the learning rates, for `call_schedules`.
    """

    def __init__(self, rows: Sequence[tuple[Group, Array, int]], n_stepped: int) -> None:
        self._stepped = rows[:n_stepped]
        self._groups = list(dict.fromkeys(group for group, *_ in rows))
        numbers = {group: number for number, group in enumerate(self._groups)}
        self._group_of: Array = np.array([numbers[group] for group, *_ in rows], np.int64)
        self.schedules: list[Any] = []

    def write_to(self, plan: Takes) -> None:
        """Take over the groups' options, after they were checked."""
        plan.write_options([group.coefficients for group in self._groups], self._group_of)
        self.schedules = [
            (group.coefficients.lr_at, steps, row, index)
            for index, (group, steps, row) in enumerate(self._stepped)
            if group.coefficients.lr_at is not None
        ]

    def call_schedules(self, plan: Takes) -> None:
        """Set the learning rates of the next step; raises what a schedule raises."""
        rates: dict[tuple[int, int], float] = {}
        for lr_at, steps, row, index in self.schedules:
            step = steps[row].item() + 1
            known = id(lr_at), step
            if known not in rates:
                rates[known] = lr_at(step)
            plan.row_inputs["lr"][index] = rates[known]
