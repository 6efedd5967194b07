"""Where the parts of a NumPy array object lie in memory, for native code that checks many arrays at once.

Asking an array for its address, dtype and shape from Python costs about a microsecond; the native backends
read the same fields from the object itself in a few nanoseconds. NumPy's own C macros (``PyArray_DATA`` and
its siblings) are inlined into every extension module that was ever compiled against it, so the fields cannot
move within NumPy's ABI. They are compared with what Python says all the same, when this is first used; where
anything differs (another interpreter, another layout) the answer is None and every check runs in Python.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import numpy as np

from fastadam.memory.packed_arrays import PackedArray

# Where a tuple has the addresses of its items, one after the other, in bytes from its start.
TUPLE_ITEMS = tuple.__basicsize__


@functools.cache
def array_offsets() -> tuple[int, ...] | None:
    """Return the values of the struct ARRAY_OFFSETS for this process.

    None where they, or `TUPLE_ITEMS`, cannot be relied on.
    """
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    head = object.__basicsize__
    found = (id(np.ndarray), id(PackedArray), head - 8, head, head + 8, head + 16, head + 40, head + 48)
    samples: list[np.ndarray] = [
        np.zeros(()),
        np.zeros(0, np.float32),
        np.zeros((2, 3), np.complex64),
        np.zeros((3, 2, 4))[:, ::2],
        np.broadcast_to(np.float32(1), (5,)),
        np.zeros((2, 3)).view(PackedArray),
    ]
    known = _holds(tuple(samples)) and all(_describes(found, sample) for sample in samples)
    return found if known else None


def _holds(items: tuple[object, ...]) -> bool:
    first = id(items) + TUPLE_ITEMS
    return all(ctypes.c_ssize_t.from_address(first + 8 * i).value == id(item) for i, item in enumerate(items))


def _describes(found: tuple[int, ...], array: np.ndarray) -> bool:
    array_type, packed_type, type_, data, ndim, dims, dtype_object, flags = found

    def word(address: int) -> int:
        return ctypes.c_ssize_t.from_address(address).value

    def integer(address: int) -> int:
        return ctypes.c_int.from_address(address).value

    here = id(array)
    shape = word(here + dims)
    return (
        word(here + type_) == (packed_type if isinstance(array, PackedArray) else array_type)
        and word(here + data) == array.__array_interface__["data"][0]
        and integer(here + ndim) == array.ndim
        and (array.ndim == 0 or [word(shape + 8 * i) for i in range(array.ndim)] == list(array.shape))
        and word(here + dtype_object) == id(array.dtype)
        and integer(here + flags) == array.flags.num
    )
