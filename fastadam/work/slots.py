"""The slots of a group: the arrays that get one gradient each, and what the plan of a step says of them.

A *slot* is a parameter, or a whole packed group. Each is a span of the plan.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.devices import device_of
from fastadam.step.formats import CODES
from fastadam.step.plan import SPAN


class GroupSlots:
    """The slots of one group, and their spans but for rows, slots and gradients.

    Parameters
    ----------
    group : Group
    one_piece : bool
        Whether it is one slot.

    Attributes
    ----------
    owners, arrays, labels : list
        Each slot's array as the user gave it, as it was checked, and how error messages call it.
    grad_sources : list
        Where each slot's gradient is found: an array, a `Parameter`, or None.
    devices : list of Device
    dtypes : list of dtype
    spans : ndarray of SPAN
    formats : ndarray of int64
        Places in `fastadam.step.formats.FORMATS`.
    moments : list of dict
        The group's, whose addresses are in the spans.
    """

    def __init__(self, group: Group, one_piece: bool) -> None:
        if one_piece:
            assert group.packed is not None
            whole = group.packed.param
            self.owners: list[Any] = [whole]
            self.arrays: list[Array] = [whole]
            self.grad_sources: list[Any] = [group.packed.grad]
            self.labels = [f"the packed {group.members[0].label} and its group"]
            self.devices, self.dtypes, sizes, offsets = [device_of(whole)], [whole.dtype], [whole.size], [0]
        else:
            members = group.members
            self.owners = [member.owner for member in members]
            self.arrays = [member.array for member in members]
            self.grad_sources = [member.home for member in members]
            self.labels = [member.label for member in members]
            # As the optimizer took them; the next step finds out whether they are so still.
            self.devices = [member.device for member in members]
            self.dtypes = [member.dtype for member in members]
            sizes = [member.size for member in members]
            offsets = group.offsets
        reals = [ALL_DTYPES[dtype] for dtype in self.dtypes]
        self.formats = np.array([CODES[real.name] for real, _ in reals], np.int64)
        self.spans = np.zeros(len(self.owners), SPAN)
        self.spans["size"] = [size * each for size, (_, each) in zip(sizes, reals, strict=True)]
        self.spans["param"] = [
            device.address(array) for device, array in zip(self.devices, self.arrays, strict=True)
        ]
        self.moments = list(group.moments.values())
        for name, buffers in group.moments.items():
            bases = {place: device_of(buffer).address(buffer) for place, buffer in buffers.items()}
            self.spans[name] = [
                bases[dtype, device] + offset * dtype.itemsize
                for dtype, device, offset in zip(self.dtypes, self.devices, offsets, strict=True)
            ]


_made: weakref.WeakKeyDictionary[Group, dict[bool, GroupSlots]] = weakref.WeakKeyDictionary()


def slots_of(group: Group, one_piece: bool) -> GroupSlots:
    """Return the slots of a group, made anew where its moments are other buffers than the last time.

    They are read, not written, and serve all plans over the group.
    """
    made = _made.setdefault(group, {})
    found = made.get(one_piece)
    if found is None or list(map(id, group.moments.values())) != list(map(id, found.moments)):
        found = made[one_piece] = GroupSlots(group, one_piece)
    return found
