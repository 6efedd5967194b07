"""What a device offers to code that takes arrays wherever they are."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from fastadam.memory.arrays import Array, Dtypes

# Checks a gradient: of a step, which has a parameter and a label for messages; returns what kernels read.
CheckGradient = Callable[[Any, Array, str], Array]
# A native call, that goes together with others (see `fastadam.step.interrupts`).
Call = Callable[[], Any]


class Slots(NamedTuple):
    """The arrays on one device that a plan is about, with what it knows of them; first those that get a gradient.

    Attributes
    ----------
    owners, arrays : sequence
        Each array as the user gave it, and as it was checked.
    labels : sequence of str
        How error messages call them.
    addresses, sizes : ndarray of int64
        Where each one is, and how many reals it has.
    dtypes : sequence of dtype
    grad_dtypes : sequence of dtype
        Those that the plan was made for, of those that get a gradient.
    """

    owners: Sequence[Any]
    arrays: Sequence[Array]
    labels: Sequence[str]
    addresses: Array
    sizes: Array
    dtypes: Sequence[np.dtype[Any]]
    grad_dtypes: Sequence[np.dtype[Any]]

    def at(self, places: Array) -> Slots:
        """Return those at some of the places."""
        owners, arrays, labels, dtypes, grad_dtypes = (
            [column[place] for place in places.tolist() if place < len(column)]
            for column in (self.owners, self.arrays, self.labels, self.dtypes, self.grad_dtypes)
        )
        return Slots(
            *(owners, arrays, labels, self.addresses[places], self.sizes[places], dtypes, grad_dtypes),
        )


class Watch(Protocol):
    """Looks at the arrays of a plan on one device, in each step that native code has not checked by itself."""

    @property
    def settled(self) -> bool:
        """Whether none of the parameters and gradients last looked at can be anywhere else by now."""

    def look(self, grads: Sequence[Any]) -> tuple[list[int], Sequence[Any]]:
        """Check all parameters and gradients. No number is written.

        Parameters
        ----------
        grads : sequence
            As the user gave them: one for each of the first slots. The others are idle, and have none.

        Returns
        -------
        addresses : list of int
            Where the gradients are, in the form that kernels read.
        kept : sequence
            What has to be kept, beside `grads`, while there are steps with these addresses.

        Raises
        ------
        TypeError, ValueError
            If a gradient is not what it must be, or a parameter is not any more what and where it was.
        """

    def prepare(self) -> None:
        """Tell the backend what the step that follows has to wait for."""


class Device(abc.ABC):
    """One device. Its class stands for the kind of memory: class methods serve arrays on any device of the kind.

    There is one object of each device, so that devices are compared by identity.

    Attributes
    ----------
    NAME : str
        What `fastadam.pack` calls it.
    ONE, MANY : str
        What messages call an array there, as in "it is ONE", and several of them.
    DTYPES : mapping
        The dtypes of arrays, as in `fastadam.memory.arrays.DTYPES`.
    MIXES : bool
        Whether gradients may have other dtypes than their parameters.
    NATIVE : bool
        Whether native code can look at arrays by itself before a step, where a backend has such code.
    number : int
        Which of the devices of its kind it is.
    """

    NAME: ClassVar[str]
    ONE: ClassVar[str]
    MANY: ClassVar[str]
    DTYPES: ClassVar[Dtypes]
    MIXES: ClassVar[bool]
    NATIVE: ClassVar[bool]

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"{self.NAME}:{self.number}"

    # What there is.

    @classmethod
    @abc.abstractmethod
    def numbered(cls, number: int) -> Device:
        """Return the device of this number, whether or not there is one."""

    @classmethod
    @abc.abstractmethod
    def names(cls) -> tuple[list[str], str | None]:
        """Return what the devices are called, and why there are none, or None where there are some."""

    # Values that users give.

    @classmethod
    @abc.abstractmethod
    def holds(cls, value: Any) -> bool:
        """Whether `value` is an array in this kind of memory, by its type alone."""

    @classmethod
    @abc.abstractmethod
    def check_array(cls, value: Any, label: str, dtypes: Dtypes) -> Array:
        """Return `value` as an array of one of the dtypes (see `fastadam.memory.arrays.check_array`)."""

    @classmethod
    @abc.abstractmethod
    def check_parameter(cls, value: Any, label: str) -> Array:
        """Return `value` as an array that kernels may update in place, or raise TypeError or ValueError."""

    @classmethod
    @abc.abstractmethod
    def check_gradient(cls, value: Any, param: Array, label: str) -> Array:
        """Return `value` as an array of a dtype that `param`, which is here, takes; or raise as above."""

    @classmethod
    @abc.abstractmethod
    def dtype_of_gradient(cls, value: Any, own: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of what `check_gradient` will return; for what it will refuse, its parameter's."""

    @classmethod
    @abc.abstractmethod
    def check_fillable(cls, value: Any, label: str) -> None:
        """Refuse, by a TypeError or ValueError, an array to which ``value[...] = 0`` would not write."""

    @classmethod
    @abc.abstractmethod
    def check_zeroed(cls, value: Any, grad: Array, label: str) -> None:
        """Refuse, by a ValueError, a gradient that a step cannot let be zero.

        Parameters
        ----------
        value : object
            The gradient as the user gave it.
        grad : array
            What kernels read of it: itself, or a copy.
        label : str
            How error messages call it.
        """

    @classmethod
    @abc.abstractmethod
    def shape_of(cls, value: Any) -> tuple[int, ...]:
        """Return the shape of an array."""

    @classmethod
    @abc.abstractmethod
    def own_view(cls, value: Any) -> Any:
        """Return an array as one that can be sliced and reshaped, over the same memory."""

    @classmethod
    @abc.abstractmethod
    def on_host(cls, value: Any, *, copy: bool = False) -> Array:
        """Return an array's numbers as a NumPy array; with `copy` False, itself where it is one."""

    # Arrays that were checked.

    @classmethod
    @abc.abstractmethod
    def of(cls, array: Any) -> Device:
        """Return the device that an array of this kind of memory is on."""

    @classmethod
    @abc.abstractmethod
    def look_again(cls, owner: Any, array: Array, label: str) -> Array:
        """Return an array as it is now, `owner` as the user gave it, with the shape and dtype it has by now.

        Raises
        ------
        ValueError
            If its memory was exchanged, as far as `array` does not show that by itself.
        """

    @classmethod
    @abc.abstractmethod
    def address(cls, array: Array) -> int:
        """Return the address of the first element."""

    @classmethod
    @abc.abstractmethod
    def extent(cls, array: Array) -> tuple[int, int]:
        """Return the addresses between which an array lies."""

    @classmethod
    @abc.abstractmethod
    def is_contiguous(cls, array: Array) -> bool:
        """Whether an array is C-contiguous."""

    @classmethod
    @abc.abstractmethod
    def contiguous(cls, array: Array) -> Array:
        """Return an array that is C-contiguous and aligned: itself where it is so, else a copy."""

    @classmethod
    @abc.abstractmethod
    def as_reals(cls, array: Array) -> Array:
        """Return a 1-D view of a contiguous array, in which complex numbers are pairs of reals."""

    @classmethod
    @abc.abstractmethod
    def copy_calls(cls, target: Array, numbers: Array) -> list[Call]:
        """Return native calls that copy numbers, of the shape and dtype of `target`, into it.

        They are on the host, or on the device of `target`.
        """

    @classmethod
    @abc.abstractmethod
    def clear_calls(cls, target: Array) -> list[Call]:
        """Return native calls that fill an array with zeros."""

    @abc.abstractmethod
    def exchange_calls(self, pairs: Sequence[tuple[Array, Array]]) -> list[Call]:
        """Return native calls that exchange the numbers of contiguous arrays on this device, pair by pair.

        They do so each time they are called, and keep the memory alive.

        Raises
        ------
        MemoryError
            If there is not enough memory for what they need.
        """

    @abc.abstractmethod
    def check_returned(self, returned: Sequence[Any]) -> None:
        """Raise the error that is among what such calls have returned."""

    # One device.

    @abc.abstractmethod
    def owns(self, address: int) -> bool:
        """Whether an address is in this device's memory, or RuntimeError where it is in no device's."""

    @abc.abstractmethod
    def zeros(self, size: int, dtype: np.dtype[Any], role: str) -> Array:
        """Return zeros in a buffer of their own (see `fastadam.memory.buffers.aligned_zeros`).

        Raises
        ------
        MemoryError
            If there is not that much memory.
        """

    @abc.abstractmethod
    def watch(self, slots: Slots, check: CheckGradient, backend: Any) -> Watch:
        """Return what looks at the arrays of a plan on this device.

        Parameters
        ----------
        slots : Slots
        check : callable
            That of the memory which the step writes.
        backend : Backend
            Steps them.
        """
