"""The memory of packed arrays, and views of it that copies and pickles keep together.

NumPy copies and pickles a view as an array of its own. A model that holds views of a packed buffer, copied
together with its optimizer, would then go on with weights that no step moves. So the views are `PackedArray`,
which copies and pickles as a place in its `PackedBuffer`; that is copied once, whoever leads to it.
"""

from __future__ import annotations

import copy
import operator
import weakref
from typing import Any, SupportsIndex

import numpy as np

from fastadam.memory.arrays import Array, address, base_view
from fastadam.memory.device import Device
from fastadam.memory.devices import device_of
from fastadam.memory.host import HOST


class PackedArray(np.ndarray[Any, Any]):
    """A view of a packed buffer, or of a part of such a view (a slice, a transpose).

    It is an ndarray, and what is computed from it is a plain one (NumPy 1 gives results this type, too, which then
    says nothing). Only copies and pickles differ: what ``copy.deepcopy`` and ``pickle`` make of it is a view of a
    copy of the whole buffer, the same one that they make of the others, and of the optimizer, in the same call.
    ``.copy()`` and ``copy.copy`` return its numbers alone, as a plain array.
    """

    # `_buffer` and `_index` are set in the buffer's own views; the `base` of a part of one leads there.
    # `__array_wrap__` stays empty: NumPy 2 looks for it in vain, so that the results of ufuncs are plain arrays. A
    # method that returns them would cost a call in Python each.
    __slots__ = ("__array_wrap__", "_buffer", "_index")
    __array_priority__ = -1.0  # below plain arrays: what joins both is a plain one

    _buffer: PackedBuffer
    _index: int | None

    def copy(self, order: Any = "C") -> Array:  # type: ignore[override]
        """Return a copy of the numbers, as a plain array."""
        return base_view(self).copy(order)

    def __copy__(self) -> Array:  # type: ignore[override]
        return self.copy("K")

    def __deepcopy__(self, memo: dict[int, Any] | None) -> Any:
        place = self._place()
        if place is None:
            return self.copy("K")
        view, (buffer,) = place
        return view(copy.deepcopy(buffer, memo))

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self._place() or base_view(self).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(base_view(self))

    def _place(self) -> tuple[operator.methodcaller, tuple[PackedBuffer]] | None:
        """Return what makes this view, and the buffer that it makes it of; None for memory of no buffer."""
        own: Any = self
        while isinstance(own, PackedArray) and not hasattr(own, "_buffer"):
            own = own.base
        if not isinstance(own, PackedArray):
            return None
        buffer: PackedBuffer = own._buffer
        array, flat = base_view(self), buffer.flat
        offset = address(array) - address(flat)
        if own is self and buffer.is_view(self._index, offset, array):
            return operator.methodcaller("view", self._index), (buffer,)
        (low, high), (start, end) = HOST.extent(array), HOST.extent(flat)
        if not start <= low <= high <= end:  # its memory was exchanged
            return None
        return operator.methodcaller("part", offset, array.shape, array.strides, array.dtype), (buffer,)


class PackedBuffer:
    """The parameters or the gradients of packed arrays, one after another in one piece of memory.

    Parameters
    ----------
    shapes : list of tuple of int
        Those of the arrays.
    dtype : dtype
    device : Device
    role : str
        What a step takes the memory for (see `fastadam.memory.buffers.aligned_zeros`).

    Attributes
    ----------
    flat : array, shape (n,)
        All numbers; zeros at first.
    """

    # Views hold the buffer. It only knows those that are alive, so that no circle keeps the memory.
    __slots__ = ("_ends", "_role", "_views", "flat", "shapes")

    shapes: list[tuple[int, ...]]
    flat: Array

    def __init__(self, shapes: list[tuple[int, ...]], dtype: np.dtype[Any], device: Device, role: str) -> None:
        self.shapes, self._role = shapes, role
        self._ends = np.cumsum([int(np.prod(shape)) for shape in shapes], dtype=np.int64).tolist()
        self.flat = device.zeros(self._ends[-1], dtype, role)
        self._views: dict[int | None, weakref.ref[Any]] = {}

    def split(self, flat: Array) -> list[Array]:
        """Return views of an array of n elements, in the shapes of the packed arrays."""
        starts = [0, *self._ends[:-1]]
        return [
            flat[start:end].reshape(shape)
            for shape, start, end in zip(self.shapes, starts, self._ends, strict=True)
        ]

    def view(self, index: int | None) -> Any:
        """Return the view of one of the arrays, or with None of all in a row: the same object while it lives."""
        found = self._views[index]() if index in self._views else None
        if found is None:
            found = self.flat
            if index is not None:
                start = self._ends[index - 1] if index else 0
                found = found[start : self._ends[index]].reshape(self.shapes[index])
            found = self._owned(found, index)
            self._views[index] = weakref.ref(found)
        return found

    def views(self) -> list[Any]:
        """Return the views of all arrays."""
        return [self.view(index) for index in range(len(self.shapes))]

    def part(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return a view of the numbers that lie `offset` bytes from the start, of any strides."""
        return np.ndarray.__new__(PackedArray, shape, dtype, self.view(None), offset, strides)

    def is_view(self, index: int | None, offset: int, array: Array) -> bool:
        """Whether `array`, which begins at this offset, is as `view` returns it, and not changed in place."""
        start = self._ends[index - 1] if index else 0
        shape = (self._ends[-1],) if index is None else self.shapes[index]
        return (
            array.flags.c_contiguous
            and (array.shape, array.dtype) == (shape, self.flat.dtype)
            and offset == start * array.itemsize
        )

    def _owned(self, array: Any, index: int | None) -> Any:
        """Return a view that knows where it belongs."""
        if isinstance(array, np.ndarray):
            array = array.view(PackedArray)
            array._buffer, array._index = self, index
        else:
            array = array.reshape(array.shape)
            array.place = self, index
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "role": self._role, "numbers": self.flat}

    # The numbers are copied into memory of the buffer's own: what an unpickler hands out may be read-only.
    def __setstate__(self, state: dict[str, Any]) -> None:
        numbers = state["numbers"]
        PackedBuffer.__init__(self, state["shapes"], numbers.dtype, device_of(numbers), state["role"])
        self.flat[...] = numbers

    def __deepcopy__(self, memo: Any) -> PackedBuffer:
        twin = PackedBuffer.__new__(PackedBuffer)
        twin.__setstate__(self.__getstate__())
        return twin
