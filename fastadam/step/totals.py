"""The arithmetic of exact totals (see `fastadam.step.norm`), on integers of 64 bits.

It is written once for the kernels of Numba, on processors and on CUDA devices. cext/totals.h is the same in C.
"""

from __future__ import annotations

from typing import Any

from fastadam.memory.structs import TOTAL_LOWEST

WORD_BITS = 32
WORD_MASK = (1 << WORD_BITS) - 1
MANTISSA_BITS, MANTISSA_MASK = 52, (1 << 52) - 1
# How many bits of a total are rounded to float64; behind them, one says whether there are more.
FIRST_BITS = 62


def pieces_of(bits: Any, exponent: Any) -> Any:
    """Return what a number adds to a total.

    Parameters
    ----------
    bits : int64
        Of a finite float64 that is not zero.
    exponent : int64
        The number is times two to this power.

    Returns
    -------
    tuple of four int64
        The number of a word, and what is added to it and to the two behind it.
    """
    power, mantissa = bits >> MANTISSA_BITS & 0x7FF, bits & MANTISSA_MASK
    if power != 0:
        mantissa |= 1 << MANTISSA_BITS
    else:
        power = power + 1
    if bits < 0:
        mantissa = -mantissa
    # The lowest bit of the mantissa is this bit of the total.
    bit = power - 1075 + exponent - TOTAL_LOWEST
    shift = bit & 31
    low, high = (mantissa & WORD_MASK) << shift, (mantissa >> WORD_BITS) << shift
    return (
        bit >> 5,
        low & WORD_MASK,
        (low >> WORD_BITS & WORD_MASK) + (high & WORD_MASK),
        high >> WORD_BITS,
    )


def first_bits(words: Any, lowest: Any, k: Any) -> Any:
    """Return the first bits of a total, as a number whose float64 is that of the whole of it.

    Parameters
    ----------
    words : sequence of int64
        Of 32 bits each.
    lowest, k : int64
        The first and the last word to look at; that one is not zero.

    Returns
    -------
    tuple of two int64
        The number, and the power of two that it is times.
    """
    high = words[k]
    middle = words[k - 1] if k > lowest else high & 0
    low = words[k - 2] if k > lowest + 1 else high & 0
    below = high & 0
    for i in range(lowest, k - 2):
        below |= words[i]
    n = high & 0  # bits of the highest word
    while high >> n != 0:
        n += 1
    first = high << (FIRST_BITS - n)
    if n <= 30:
        first |= middle << (30 - n) | low >> (n + 2)
        below |= low & ((1 << (n + 2)) - 1)
    else:
        first |= middle >> (n - 30)
        below |= (middle & ((1 << (n - 30)) - 1)) | low
    if below != 0:
        first |= 1
    return first, WORD_BITS * k + TOTAL_LOWEST - (FIRST_BITS - n)
