"""Exact sums of squares, for numbers that are shared out among processes.

The norm of `fastadam.step.norm` rounds within blocks, so that its bits depend on where blocks begin. Here nothing
is rounded but the total, once: that of all processes together is the same, whatever part of the numbers each of
them has. cext/exact.c does the same on integers, faster.
"""

from __future__ import annotations

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.structs import TOTAL
from fastadam.step.norm import add_to_total, clear_totals

_HALF = 2.0**26  # what keeps the upper half of a float64's mantissa
_PIECE = 1 << 16  # numbers at a time, for which several temporary arrays are made


def new_total() -> Array:
    """Return a TOTAL of shape (1,) that is zero."""
    total = np.empty(1, TOTAL.dtype)
    clear_totals(total)
    return total


def add_squares(total: Array, numbers: Array) -> None:
    """Add the squares of numbers to a total.

    Parameters
    ----------
    total : ndarray of TOTAL, shape (1,)
        Written to.
    numbers : ndarray of float32 or float64
        Infinities and NaN are noted in the total, and not added.
    """
    flat = numbers.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE].astype(np.float64)
        finite = np.isfinite(piece)
        if not finite.all():
            total["is_nan"] |= bool(np.isnan(piece).any())
            total["is_infinite"] |= bool(np.isinf(piece).any())
            piece = piece[finite]
        fractions, exponents = np.frexp(piece)  # in [0.5, 1), so that no square is out of range
        high = np.rint(fractions * _HALF) / _HALF
        low = fractions - high  # of 26 bits, too, and a sign
        for squares in (high * high, 2 * high * low, low * low):
            add_to_total(total[0], squares, 2 * exponents.astype(np.int64))
