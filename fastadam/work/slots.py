"""Slots: the arrays of a step that get one gradient each, and what the plan says of them.

A *slot* is a parameter, or a whole packed group. Each is a span of the plan.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from fastadam.groups.group import Group
from fastadam.groups.members import Member
from fastadam.memory.arrays import ALL_DTYPES, Array, address
from fastadam.memory.device import Device
from fastadam.memory.devices import device_of
from fastadam.memory.structs import IDLE, ROLES, SLOT, SPAN
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.precision import codes_of, formats_of
from fastadam.step.variants import flags_of, variants_of


class Columns(NamedTuple):
    """What is known of each slot, as lists of the same length.

    Attributes
    ----------
    owners, arrays : list
        Its array as the user gave it, and as it was checked.
    labels : list of str
        How error messages call it.
    grad_sources : list
        Where its gradient is found: an array, a `Parameter`, or None.
    devices : list of Device
    dtypes : list of dtype
    """

    owners: list[Any]
    arrays: list[Array]
    labels: list[str]
    grad_sources: list[Any]
    devices: list[Device]
    dtypes: list[np.dtype[Any]]


class GroupSlots:
    """The slots of one group, which all plans over it begin with.

    Parameters
    ----------
    group : Group
    one_piece : bool
        Whether it is one slot.

    Attributes
    ----------
    columns : Columns
    spans : ndarray of SPAN
        But for rows, slots and gradients.
    objects : ndarray of SLOT
        By which native code knows owners and dtypes, which `columns` keeps.
    starts : ndarray of int64
        Where the parameters of a packed group begin; its span holds the address.
    elements : list of Element
        What the elements of their arrays are.
    moments : list of dict
        The group's, whose addresses are in the spans.
    members : list of Member
    """

    def __init__(self, group: Group, one_piece: bool) -> None:
        # Everything as the optimizer took it; the next step finds out whether it is so still.
        if one_piece:
            assert group.whole is not None
            members = [group.whole]
            self.starts = ALL_DTYPES[group.whole.dtype].reals * np.array(group.offsets, np.int64)
        else:
            members = group.members
            self.starts = np.zeros(0, np.int64)
        each = [(m.owner, m.array, m.label, m.grad_source, m.device, m.dtype) for m in members]
        self.members = members
        self.columns = columns = Columns(*map(list, zip(*each, strict=True)))
        sizes = [member.size for member in members]
        elements = [ALL_DTYPES[dtype] for dtype in columns.dtypes]
        self.elements = elements
        self.objects = np.zeros(len(sizes), SLOT.dtype)
        self.objects["param_object"] = [id(owner) for owner in columns.owners]
        self.objects["dtype_object"] = [id(dtype) for dtype in columns.dtypes]
        self.objects["grad_dtype_object"] = self.objects["dtype_object"]
        self.objects["elements"] = sizes
        self.spans = np.zeros(len(sizes), SPAN.dtype)
        self.spans["size"] = [size * element.reals for size, element in zip(sizes, elements, strict=True)]
        if one_piece:
            self.spans["starts"], self.spans["n_starts"] = address(self.starts), len(self.starts)
        self.spans["param"] = [member.address for member in members]
        self.moments = list(group.moments.values())
        reals = [element.reals for element in elements]
        self.spans["first"] = [member.first * each for member, each in zip(members, reals, strict=True)]
        self.spans["position"] = np.arange(group.start, group.start + len(sizes))
        for name, buffers in group.moments.items():
            bases = {key: (device_of(each).address(each), each.dtype.itemsize) for key, each in buffers.items()}
            for i, key in enumerate(zip(columns.dtypes, columns.devices, strict=True)):
                if key in bases:
                    base, itemsize = bases[key]
                    self.spans[name][i] = base + (0 if one_piece else group.place(name, i) * itemsize)

    def formats(self, hyper: Hyperparameters) -> Array:
        """Return the codes of the formats of each span's arrays, of shape (5, spans), by the group's options."""
        codes = {each: codes_of(formats_of(hyper, each)) for each in dict.fromkeys(self.elements)}
        return np.array([codes[each] for each in self.elements], np.int64).T


_made: weakref.WeakKeyDictionary[Group, dict[bool, GroupSlots]] = weakref.WeakKeyDictionary()


def slots_of(group: Group, one_piece: bool) -> GroupSlots:
    """Return the slots of a group, made anew where its moments are other buffers than the last time."""
    made = _made.setdefault(group, {})
    found = made.get(one_piece)
    if found is None or list(map(id, group.moments.values())) != list(map(id, found.moments)):
        found = made[one_piece] = GroupSlots(group, one_piece)
    return found


class StepSlots:
    """The slots of one plan.

    Parameters
    ----------
    groups : sequence of Group
    in_pieces : bool
        Whether packed groups are one slot where they can be, else their members are.
    active : ndarray of bool or None
        Which slots to step; None for all.
    averages : bool
        Whether there are averages, which move without a gradient, too: the other slots are IDLE then.
    leaves_out : bool, default False
        Whether each of them may be without a gradient; then each of them is IDLE, too, in a second span.
    grad_dtypes : sequence of dtype, optional
        Those of the gradients, for each slot that is stepped; by default they are the parameters'. The caller
        keeps them, as native code knows them by their addresses.

    Attributes
    ----------
    columns : Columns
        Of those that are stepped.
    idle : list of Member
        What the others are, which come after them.
    spans : ndarray of SPAN
        But for gradients.
    objects : ndarray of SLOT
    variants : ndarray of int64
        The compiled variant of each span.
    rows : list of (Group, ndarray, int)
        Each row's group, the group's step counters, and its index in them.
    counters : ndarray of COUNTER
        Where these counters are.
    n_stepped : int
        How many of the rows, the first ones, are stepped.
    kept : list
        What the spans hold the addresses of, but for parameters.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        in_pieces: bool,
        active: Array | None,
        averages: bool,
        leaves_out: bool = False,
        grad_dtypes: Sequence[np.dtype[Any]] | None = None,
    ) -> None:
        self._grad_dtypes = grad_dtypes
        self.columns = Columns([], [], [], [], [], [])
        self.idle: list[Member] = []
        self.rows: list[tuple[Group, Array, int]] = []
        self.kept: list[Any] = []
        self._parts: list[tuple[Array, Array, Array, Array]] = []
        each = [(group, in_pieces and group.one_piece) for group in groups]
        self._take(each, active, idle=False)
        self.n_stepped = len(self.rows)
        if averages and active is not None:
            self._take(each, ~active, idle=True)
        elif averages and leaves_out:
            rows, self.rows = self.rows, []
            self._take(each, None, idle=True)  # of the same rows
            assert len(rows) == len(self.rows)
            self.rows = rows
        self.spans, self.objects, self.variants, self.counters = map(
            np.concatenate, zip(*self._parts, strict=True)
        )
        self.counters = self.counters[: len(self.rows)]
        self.spans["slot"] = np.arange(len(self.spans))

    def _take(self, groups: Sequence[tuple[Group, bool]], which: Array | None, *, idle: bool) -> None:
        for group, one_piece in groups:
            slots = slots_of(group, one_piece)
            taken: Array = np.ones(len(slots.spans), bool)
            if which is not None:
                taken, which = which[: len(taken)], which[len(taken) :]
            formats, objects = slots.formats(group.hyper)[:, taken], slots.objects[taken]
            if idle:
                self.idle.extend(compress(slots.members, taken.tolist()))
            else:
                if self._grad_dtypes is not None:
                    first = len(self.columns.owners)
                    dtypes = self._grad_dtypes[first : first + len(objects)]
                    formats[ROLES.index("grad")] = [ALL_DTYPES[dtype].format.code for dtype in dtypes]
                    objects["grad_dtype_object"] = [id(dtype) for dtype in dtypes]
                for name in Columns._fields:
                    getattr(self.columns, name).extend(compress(getattr(slots.columns, name), taken.tolist()))
            row_of: Array = np.zeros(1, np.int64) if one_piece else group.row_of
            rows, local = np.unique(row_of[taken], return_inverse=True)
            spans = slots.spans[taken]
            spans["row"] = local.reshape(-1) + len(self.rows)
            variants = variants_of(formats, IDLE if idle else flags_of(group.hyper))
            self._parts.append((spans, objects, variants, counters_in(group.row_steps)[rows]))
            self.rows += [(group, group.row_steps, row) for row in rows.tolist()]
            self.kept.append((slots.starts, slots.moments))
