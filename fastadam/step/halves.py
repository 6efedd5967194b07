"""Numbers of 16 bits, widened to float32 for arithmetic and rounded back, to nearest with ties to even.

cext/halves.h does the same in C, and fastadam/backends/numba/kernels.py under Numba.
"""

from __future__ import annotations

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.step.formats import Format


def widen(stored: Array, number_format: Format) -> Array:
    """Return the numbers in the dtype that kernels compute in; `stored` itself where it is that already."""
    if number_format.name == "bfloat16":  # the upper half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(number_format.compute, copy=False)


def narrow(computed: Array, number_format: Format) -> Array:
    """Return the numbers as they lie in memory; `computed` itself where it is that already."""
    if number_format.name == "bfloat16":
        bits = np.ascontiguousarray(computed).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
        return np.where(np.isnan(computed), np.uint32(0x7FC0), rounded).astype(np.uint16)
    return computed.astype(number_format.stored, copy=False)
