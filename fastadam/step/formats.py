"""The formats of numbers that kernels step, and the numbers of compiled variants."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array


class Format(NamedTuple):
    """How numbers lie in memory, and in which dtype the kernels compute with them."""

    name: str
    stored: np.dtype[Any]
    compute: np.dtype[Any]


# In the order of cext/adam.h. NumPy has no bfloat16: its bits go by the integer of their width.
FORMATS = (
    Format("float32", np.dtype(np.float32), np.dtype(np.float32)),
    Format("float64", np.dtype(np.float64), np.dtype(np.float64)),
    Format("bfloat16", np.dtype(np.uint16), np.dtype(np.float32)),
    Format("float16", np.dtype(np.float16), np.dtype(np.float32)),
)
CODES = {each.name: code for code, each in enumerate(FORMATS)}


def kinds_of(codes: Array, l2_on: Array | bool, amsgrad_on: Array | bool) -> Array:
    """Return the numbers of compiled variants, as cext/adam.h counts them; the codes are places in `FORMATS`."""
    return 4 * codes + 2 * np.asarray(l2_on, np.int64) + amsgrad_on


def variant_of(kind: int) -> tuple[Format, bool, bool]:
    """Return ``(format, l2_on, amsgrad_on)`` of a variant's number."""
    return FORMATS[kind // 4], bool(kind & 2), bool(kind & 1)
