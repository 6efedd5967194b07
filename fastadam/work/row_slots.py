"""What a plan of steps over rows says of its parameters (see `fastadam.step.row_plan`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.arrays import ALL_DTYPES, Array, address
from fastadam.memory.device import Device
from fastadam.memory.devices import device_of
from fastadam.memory.rows import Read
from fastadam.memory.structs import IDLE, SCALE_BLOCK
from fastadam.step.cutting import Cut, Region, sets_of
from fastadam.step.variants import number_of
from fastadam.work.slots import StepSlots, slots_of

_NOTHING: Array = np.zeros(0, np.int64)


class Table(NamedTuple):
    """A parameter that is stepped row by row.

    Attributes
    ----------
    group : Group
    member : int
        Which of its group's.
    slot : int
        The number of its span.
    """

    group: Group
    member: int
    slot: int


class RowSlots:
    """The slots of one plan, of which some are stepped row by row.

    Parameters
    ----------
    groups : sequence of Group
    active, apart : ndarray of bool
        Which of their members have a gradient, and which of these are stepped row by row.
    dtypes : sequence of dtype
        Those of the gradients; kept here, as of all slots.
    averages : bool
        Whether there are averages.
    others : bool
        Whether these move in rows that are not stepped, too.

    Attributes
    ----------
    spans, variants
        Of those that are stepped as a whole, as `fastadam.step.plan.Plan` takes them.
    whole : ndarray of int64
        Which of all slots these are.
    devices : list of Device
        Of all slots.
    rows, n_stepped, counters
        See `fastadam.work.slots.StepSlots`.
    n_whole : int
        How many are stepped as a whole, those that are idle included.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        active: Array,
        apart: Array,
        dtypes: Sequence[np.dtype[Any]],
        averages: bool,
        others: bool,
    ) -> None:
        self._slots = slots = StepSlots(groups, False, active, averages, False, tuple(dtypes))
        self._others = averages and others
        where = [(group, index) for group in groups for index in range(len(group.members))]
        stepped = np.flatnonzero(active)
        self._tables = [Table(*where[place], slot) for slot, place in enumerate(stepped.tolist()) if apart[place]]
        is_whole: Array = np.ones(len(slots.spans), bool)
        is_whole[[table.slot for table in self._tables]] = False
        self.whole = np.flatnonzero(is_whole)
        self.n_whole = len(self.whole)
        self.spans, self.variants = slots.spans[self.whole], slots.variants[self.whole]
        self.devices: list[Device] = slots.columns.devices + [member.device for member in slots.idle]
        self.rows, self.n_stepped, self.counters = slots.rows, slots.n_stepped, slots.counters

    @property
    def rows_of_tables(self) -> list[int]:
        """The rows of coefficients of the parameters that are stepped row by row."""
        return [int(self._slots.spans["row"][table.slot]) for table in self._tables]

    def regions(self, backend_of: Array) -> list[Region]:
        """Return the regions: of each parameter that is stepped row by row, and, with averages, of its other rows.

        Parameters
        ----------
        backend_of : ndarray of int64
            Of all slots.
        """
        found = []
        for table in self._tables:
            span = self._slots.spans[table.slot : table.slot + 1]
            row_size, row_bytes = row_of(table.group, table.member)
            variant, backend = int(self._slots.variants[table.slot]), int(backend_of[table.slot])
            found.append(Region(span, variant, backend, row_size, row_bytes, False))
            if self._others:
                formats = slots_of(table.group, False).formats(table.group.hyper)[:, table.member]
                idle = number_of(tuple(formats.tolist()), IDLE)
                found.append(Region(span, idle, backend, row_size, row_bytes, True))
        return found

    def cuts(self, read: Sequence[Read]) -> list[Cut]:
        """Return what a step steps of each region.

        Parameters
        ----------
        read : sequence of Read
            The gradients of the parameters that are stepped row by row. They are to be kept until the step is
            taken; the counters are so by the groups.
        """
        found = []
        for table, each in zip(self._tables, read, strict=True):
            own, values = table.group.own_steps[table.member], each.values
            numbers = each.numbers if table.group.members[table.member].size else _NOTHING
            firsts, of = sets_of(own[numbers])
            grad = device_of(values).address(values)
            grad_bytes = int(values.nbytes // max(len(values), 1))
            like = int(self._slots.spans["row"][table.slot])
            cut = Cut(
                numbers, each.places[: len(numbers)], grad, grad_bytes, address(own), len(own), like, firsts, of
            )
            found += [cut, cut] if self._others else [cut]
        return found


def row_of(group: Group, index: int) -> tuple[int, dict[str, int]]:
    """Return how many real numbers a row has, and how many bytes in each array of the parameter."""
    member = group.members[index]
    reals = ALL_DTYPES[member.dtype].reals
    width = member.size // max(member.n_rows, 1)
    found = {"param": width * member.dtype.itemsize}
    for name, kept in group.kept[member.buffer_key].items():
        if group.has(name, index):
            if kept.block > 1:
                found[name] = width * reals // SCALE_BLOCK * group.moment(name, index).itemsize
            else:
                found[name] = width * member.dtype.itemsize
                if kept.stored is not None:
                    found[name] = width * reals * kept.stored.itemsize
    return width * reals, found
