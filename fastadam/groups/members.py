"""A parameter of an optimizer: its array, name and label, and where its gradient is found."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.groups.given import Given
from fastadam.memory.arrays import Array
from fastadam.memory.device import Device
from fastadam.memory.devices import check_parameter, device_of, is_array
from fastadam.memory.nesting import why_no_leaf
from fastadam.memory.packed import Packed
from fastadam.memory.parameter import Parameter
from fastadam.memory.words import a_name_of

# Tells the flat buffers of moments apart.
BufferKey = tuple[np.dtype[Any], Device]


class Member:
    """One parameter of a group.

    Attributes
    ----------
    given : ndarray or Parameter
        What the user gave.
    name : str or None
        Its name, where names were given.
    label : str
        How error messages call it.
    owner : ndarray
        The array that holds its values, as the user gave it.
    array : array
        The same as a base-class array.
    device : Device
        The one that it is on.
    shape : tuple of int
    dtype : dtype
    size : int
    address : int
        Those of the values when the optimizer took them. What native code reads and writes comes from these, never
        from the array as it is by then.
    grad_source : ndarray or Parameter or None
        Where ``step()`` without arguments finds its gradient: a view of a packed buffer, or a `Parameter`'s
        ``grad``; None for a plain array, which has no such place.
    """

    first = 0  # number, in the parameter, of the first element that is kept here

    __slots__ = (
        "_guard",
        "address",
        "array",
        "device",
        "dtype",
        "given",
        "grad_source",
        "label",
        "name",
        "owner",
        "shape",
        "size",
    )

    def __init__(self, given: Any, name: str | None, label: str, grad_source: Array | None = None) -> None:
        self.given = given
        self.name = name
        self.label = label
        values = given.data if isinstance(given, Parameter) else given
        self.owner = values
        self.array = check_parameter(values, label)
        self.device = device_of(self.array)
        self.shape, self.dtype, self.size = self.array.shape, self.array.dtype, self.array.size
        self.address = self.device.address(self.array)
        self.grad_source = given if isinstance(given, Parameter) else grad_source
        # NumPy refuses to resize an array that has a weak reference, even with refcheck=False, so that the
        # addresses handed to native code stay valid.
        self._guard = weakref.ref(values)

    def check_unchanged(self) -> None:
        """Refuse an array that is not what the optimizer took: its memory, size or dtype is another one.

        For whoever plans, joins or fills something over it. Before each step native code compares the same by
        itself. Another shape of the same size changes nothing for a step.

        Raises
        ------
        ValueError
            If it was changed in place since.
        """
        array = self.device.look_again(self.owner, self.array, self.label)
        # The very dtype, as native code knows it by its address.
        same = array.dtype is self.dtype and array.size == self.size and self.device.is_contiguous(array)
        if not same or self.device.address(array) != self.address:
            raise ValueError(
                f"the memory or dtype of {self.label} was exchanged since the optimizer took it ({self.size} x "
                f"{self.dtype} then, {array.size} x {array.dtype} now); make a new optimizer for it"
            )

    @property
    def n_rows(self) -> int:
        """How many rows it has: slices along the first axis. A single number has none."""
        return self.shape[0] if self.shape else 0

    def check_rows(self, array: Array) -> None:
        """Refuse other rows than those that the parameter had when the optimizer took it.

        Parameters
        ----------
        array : array
            It, as it is by now.

        Raises
        ------
        ValueError
            If its shape was changed in place since, along the first axis.
        """
        if array.shape[:1] != self.shape[:1]:
            raise ValueError(
                f"{self.label} had the shape {self.shape} when the optimizer took it, and has {array.shape} now; "
                f"give it back its shape, as its rows are not known"
            )

    @property
    def whole(self) -> Member:
        """The parameter, where this is a `Piece` of one."""
        return self

    @property
    def buffer_key(self) -> BufferKey:
        """Which of the group's flat buffers its moments are in."""
        return self.dtype, self.device


class Piece(Member):
    """What this process keeps of a parameter: a run of its elements, and their state.

    Parameters
    ----------
    whole : Member
        The parameter.
    bounds : ndarray of int64
        Those of all processes: one's elements are from a number to the next (see `fastadam.groups.shares`).
    rank : int
        Which process this is.

    Attributes
    ----------
    first : int
        Number of the first element in the parameter.
    bounds : ndarray of int64
        As given.
    """

    __slots__ = ("_whole", "bounds", "first")

    def __init__(self, whole: Member, bounds: Array, rank: int) -> None:
        self._whole, self.bounds = whole, bounds
        self.first, stop = bounds[rank : rank + 2].tolist()
        self.given, self.name, self.label, self.grad_source = (
            whole.given,
            whole.name,
            whole.label,
            whole.grad_source,
        )
        self.owner = self.array = whole.array.reshape(-1)[self.first : stop]
        self.device, self.dtype = whole.device, whole.dtype
        self.shape, self.size = self.array.shape, self.array.size
        self.address = self.device.address(self.array)

    @property
    def whole(self) -> Member:
        """The parameter."""
        return self._whole

    def check_unchanged(self) -> None:
        """Refuse a parameter that was changed in place (see `Member.check_unchanged`)."""
        self._whole.check_unchanged()


def members_of(given: Given, start: int) -> list[Member]:
    """Return the members of a group.

    Parameters
    ----------
    given : Given
    start : int
        Position of the first one in the optimizer; it appears in labels.

    Raises
    ------
    TypeError, ValueError
        If something in it is no parameter.
    """
    labels = [
        f"parameter {position}" if given.names is None else f"parameter {given.names[position - start]!r}"
        for position in range(start, start + len(given.values))
    ]
    for value, label in zip(given.values, labels, strict=True):
        remedy = None if isinstance(value, Parameter) or is_array(value) else why_no_leaf(value)
        if isinstance(value, Packed):
            remedy = "give a packed buffer by itself, or as the 'params' of a group of its own"
        if remedy is not None:
            raise TypeError(f"{label} is {a_name_of(value)}, not a NumPy array; {remedy}")
    count = len(labels)
    names: Sequence[str | None] = given.names or [None] * count
    homes = [None] * count if given.packed is None else given.packed.grad_views
    return [
        Member(value, name, label, home)
        for value, name, label, home in zip(given.values, names, labels, homes, strict=True)
    ]


def whole_label(first: Member) -> str:
    """Return how messages call a packed buffer, by the first of its members."""
    return f"the packed {first.label} and its group"
