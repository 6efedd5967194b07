"""``optimizer.state``: a live view of the moments and step counters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.memory.devices import is_array, on_host
from fastadam.memory.nesting import MOST_LISTED
from fastadam.memory.parameter import Parameter
from fastadam.memory.structs import MASTER, ROW_STEP, SCALES
from fastadam.memory.words import shown
from fastadam.step.compact_arrays import decode


class State(Mapping[Any, Mapping[str, Any]]):
    """The moments and step counters, by parameter.

    Keys are the positions of the parameters that have been stepped; an array, a `Parameter` or a name finds
    its parameter too. A value is a read-only mapping with ``step`` (int64), where rows have taken less steps
    ``row_step``, a copy of theirs (int64, one for each slice along the first axis), and live views, in the
    parameter's shape, of ``exp_avg``, ``exp_avg_sq`` and, with amsgrad, ``max_exp_avg_sq`` and, with averages,
    ``ema``: writing to a view changes the state.

    What lies in other formats than the parameter's (`state_dtype`, `master_weights`) cannot be viewed: of that,
    the values are read-only copies of the numbers, in float32 (complex64), and ``master_param`` is among them. To
    change such state, load one: `fastadam.Adam.load_state_dict` takes plain arrays, too.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def __getitem__(self, key: Any) -> Mapping[str, Any]:
        position = find(self._groups, key)
        if position is not None:
            group, index = self._groups.where[position]
            if group.step_of(index):
                return MappingProxyType(decoded(group, index))
            raise KeyError(f"{shown(key)}: this parameter has not been stepped yet, so that it has no state")
        raise KeyError(missing(self._groups, key))

    def __iter__(self) -> Iterator[int]:
        for group in self._groups:
            yield from (np.flatnonzero(group.steps) + group.start).tolist()

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(group.steps)) for group in self._groups)

    def __repr__(self) -> str:
        return repr({key: dict(value) for key, value in self.items()})


def decoded(group: Group, index: int) -> dict[str, Any]:
    """Return a member's entry with numbers in place of codes: read-only copies, the others are live views."""
    entry, member = group.entry(index), group.members[index]
    found = {}
    for name, value in entry.items():
        if name in ("step", ROW_STEP) or not group.is_compact(name, index):
            found[name] = value
        elif name not in SCALES.values():
            number_format = group.kept[member.buffer_key][name].format
            stored, beside = value, entry.get(SCALES.get(name, ""))
            if name == MASTER:
                stored, beside = on_host(member.array).view(np.uint16), value
            numbers = decode(on_host(stored), None if beside is None else on_host(beside), number_format)
            numbers = np.array(numbers)  # a copy, also of what was float32 already
            if member.dtype.kind == "c":
                numbers = numbers.view(np.complex64).reshape(member.shape)
            numbers.flags.writeable = False
            found[name] = numbers
    return found


def missing(groups: Groups, key: Any) -> str:
    """Say why no parameter is found under a key."""
    if isinstance(key, str):
        names = ", ".join(itertools.islice(groups.positions, MOST_LISTED))
        more = ", ..." if len(groups.positions) > MOST_LISTED else ""
        return f"{key!r}: no parameter has this name; " + (
            f"there are {names}{more}" if names else "they have none"
        )
    label = groups.was_resized(key)
    if label is not None:
        return f"{label} was resized, and has another array now; ask with the one that resize returned"
    if isinstance(key, Parameter) or is_array(key):
        return "this array is not one of the optimizer's; ask with the array itself, not with a view or a copy"
    return f"{shown(key)}: there are the parameters 0 to {len(groups.where) - 1}"


def find(groups: Groups, key: Any) -> int | None:
    """Return the position of the parameter that a key stands for, or None.

    Parameters
    ----------
    groups : Groups
    key : object
        A position, a name, or an array or `Parameter` that the user gave.
    """
    if isinstance(key, Parameter) or is_array(key):
        return groups.position_of(key)
    if isinstance(key, str):
        return groups.positions.get(key)
    every = range(len(groups.where))
    if isinstance(key, int):
        return int(key) if key in every else None
    try:  # NumPy's integers, and all other numbers that equal a position
        position = int(key)
    except (TypeError, ValueError, OverflowError):
        return None
    return position if position in every and key == position else None
