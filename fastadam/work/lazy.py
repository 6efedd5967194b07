"""Rows that have missed steps, and the steps that they catch up: with ``lazy="exact"``.

A row that has no gradient in a step is not touched by it; before it is stepped again, or read, it takes all the
steps that it has missed with gradients of zero, and with the options of each of them. So it has the bits of dense
steps.
"""

from __future__ import annotations

import functools
import math
import weakref
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.arrays import ALL_DTYPES, Array, address
from fastadam.memory.device import Device
from fastadam.memory.structs import AVERAGE, MOMENTS
from fastadam.step.after import After, Averaging
from fastadam.step.backend import Backend, Call
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.cutting import Cut, Region
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import in_one_go
from fastadam.step.norm import Norm
from fastadam.step.quiet import Quiet
from fastadam.step.row_plan import RowPlan
from fastadam.step.variants import flags_of, number_of
from fastadam.work.row_slots import row_of
from fastadam.work.slots import slots_of

MOST_ROWS = 1 << 16  # that catch up together
MOST_ZEROS = 1 << 16  # numbers in the gradient of a run


class Stretch(NamedTuple):
    """Steps that follow each other with the same options, but for the learning rate.

    Attributes
    ----------
    first : int
        The 1-based number of the first one.
    hyper : Hyperparameters
    averaging : Averaging
    scale : float
        What gradients were multiplied by, narrowed: 1 for all finite numbers, which zero is zero times, or NaN.
    rates : array of float
        The learning rate of each.
    """

    first: int
    hyper: Hyperparameters
    averaging: Averaging
    scale: float
    rates: Any

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self.first + len(self.rates) - 1

    def goes_on(self, hyper: Hyperparameters, averaging: Averaging, scale: float) -> bool:
        """Whether a step with these options belongs to it."""
        same_scale = self.scale == scale or (math.isnan(self.scale) and math.isnan(scale))
        return self.hyper._replace(lr=0) == hyper._replace(lr=0) and self.averaging == averaging and same_scale


class Missed:
    """The steps that rows of one optimizer's parameters may have missed.

    Parameters
    ----------
    backends : mapping of Device to Backend
        The optimizer's.
    """

    def __init__(self, backends: Mapping[Device, Backend]) -> None:
        self._backends = backends
        self._quiet = Quiet()
        # Of members, by group and index: the counters of their rows, and the steps since these were alike.
        self._known: weakref.WeakKeyDictionary[Group, dict[int, tuple[Array, list[Stretch]]]] = (
            weakref.WeakKeyDictionary()
        )

    def _stretches(self, group: Group, index: int) -> list[Stretch]:
        own, known = group.own_steps[index], self._known.setdefault(group, {})
        if index not in known or known[index][0] is not own:
            known[index] = own, []
        return known[index][1]

    def note_calls(self, group: Group, index: int, averaging: Averaging, scale: float, lr: float) -> list[Call]:
        """Return native calls that note the step which a member takes now.

        Parameters
        ----------
        group : Group
        index : int
        averaging : Averaging
        scale : float
            What its gradients are multiplied by.
        lr : float
            Its learning rate.
        """
        stretches = self._stretches(group, index)
        compute = ALL_DTYPES[group.members[index].dtype].format.compute.type
        scale = 1.0 if np.isfinite(self._quiet.run(compute, scale)) else math.nan
        if stretches and stretches[-1].goes_on(group.hyper, averaging, scale):
            return [functools.partial(stretches[-1].rates.append, lr)]
        step = int(group.step_of(index)) + 1
        made = Stretch(step, group.hyper, averaging, scale, array("d", [lr]))
        return [functools.partial(stretches.append, made)]

    def catch_up(self, group: Group, index: int, numbers: Array | None, limit: int) -> None:
        """Let rows take the steps that they have missed.

        Parameters
        ----------
        group : Group
        index : int
        numbers : ndarray of int64 or None
            Which rows; None for all.
        limit : int
            Upper limit of threads.
        """
        own, last = group.own_steps[index], int(group.step_of(index))
        behind = np.flatnonzero(own < last) if numbers is None else numbers[own[numbers] < last]
        if len(behind):
            self._take(group, index, behind, limit)
        if numbers is None:
            self._stretches(group, index).clear()  # no row lacks any of these steps

    def _take(self, group: Group, index: int, behind: Array, limit: int) -> None:
        """Let rows that are behind take all that they have missed."""
        own, last = group.own_steps[index], int(group.step_of(index))
        stretches = [each for each in self._stretches(group, index) if each.last > own[behind].min()]
        kept = group.kept[group.members[index].buffer_key]
        # (8-bit state of zeros has other codes after a step than before.)
        if all(map(_moves_nothing, stretches)) and not any(each.block > 1 for each in kept.values()):
            still = _are_zero(group, index, behind)
            own[behind[still]] = last
            behind = behind[~still]
        behind = behind[np.argsort(own[behind], kind="stable")]
        for low in range(0, len(behind), MOST_ROWS):
            some = behind[low : low + MOST_ROWS]
            for stretch in stretches:
                if stretch.last > own[some[0]]:
                    self._repeat(group, index, some, stretch, limit)

    def _repeat(self, group: Group, index: int, numbers: Array, stretch: Stretch, limit: int) -> None:
        """Let rows, those that are furthest behind first, take what they lack of the steps of a stretch."""
        member, own = group.members[index], group.own_steps[index]
        steps = own[numbers]
        numbers, steps = numbers[steps < stretch.last], steps[steps < stretch.last]
        row_size, row_bytes = row_of(group, index)
        at_once = max(1, MOST_ZEROS // max(row_size, 1))
        zeros = member.device.zeros(at_once * max(1, member.size // len(own)), member.dtype, "grad")
        # A run ends where the number of steps is another one, and where there are no more zeros.
        places: Array = np.arange(len(numbers)) + np.arange(len(numbers)) // at_once
        places[1:] += np.cumsum(steps[1:] != steps[:-1])
        ends = (np.diff(numbers) != 1) | (np.diff(places) != 1)
        n_runs = np.concatenate([[1], np.cumsum(ends) + 1])  # of the rows up to each one
        slots = slots_of(group, False)
        formats = slots.formats(group.hyper)[:, index]
        variant = number_of(tuple(formats.tolist()), flags_of(stretch.hyper))
        backend = self._backends[member.device]
        region = Region(slots.spans[index : index + 1], variant, 0, row_size, row_bytes, False)
        norm = Norm()
        norm.block["coefficient"] = stretch.scale
        after = After(stretch.averaging if AVERAGE in group.moments else Averaging())
        counted = own[numbers[0] : numbers[0] + 1]  # by now, all that are stepped have taken as many
        nothing = np.zeros(0, np.int64)
        plan = RowPlan(
            *(slots.spans[:0], nothing, nothing, [region], counters_in(counted), counters_in(counted)[:0]),
            *([backend], limit, False, norm, after),
        )
        plan.write_options([Coefficients(stretch.hyper)], np.zeros(1, np.int64))
        grad = member.device.address(zeros)
        cut = Cut(numbers, places, grad, 0, address(own), len(own), 0, np.zeros(1, np.int64), None)
        plan.lay(nothing, [cut])
        for step, lr in _steps_of(stretch, int(steps[0]) + 1):
            n = int(np.searchsorted(steps, step))
            plan.first([int(n_runs[n - 1])], n)
            plan.row_inputs["lr"] = lr
            _, ready = plan.prepare()
            assert ready is not None
            in_one_go(ready.calls)
            if ready.check is not None:
                ready.check()


def _steps_of(stretch: Stretch, first: int) -> Iterator[tuple[int, float]]:
    """Yield the steps of a stretch from one on, with their learning rates."""
    for step in range(max(first, stretch.first), stretch.last + 1):
        yield step, stretch.rates[step - stretch.first]


def _moves_nothing(stretch: Stretch) -> bool:
    """Whether its steps leave a row as it is whose moments and gradients are zero."""
    hyper = stretch.hyper
    keeps = stretch.averaging.ema_decay is not None
    return not (hyper.weight_decay or hyper.eps == 0 or keeps or math.isnan(stretch.scale))


def _are_zero(group: Group, index: int, numbers: Array) -> Array:
    """Return which of some rows have moments of zero, whose bits are."""
    found: Array = np.ones(len(numbers), bool)
    member = group.members[index]
    n_rows = len(group.own_steps[index])
    for name in MOMENTS:
        if group.has(name, index):
            moment = member.device.as_reals(group.moment(name, index))
            bits = member.device.on_host(moment).reshape(n_rows, -1)
            bits = bits.view(np.dtype(f"u{bits.itemsize}"))
            for low in range(0, len(numbers), MOST_ROWS):
                some = slice(low, low + MOST_ROWS)
                found[some] &= ~bits[numbers[some]].any(axis=1)
    return found
