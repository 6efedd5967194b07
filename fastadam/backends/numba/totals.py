"""Totals under Numba, which do what cext/totals.h does. Importing it imports Numba."""

from __future__ import annotations

import math

from numba import types
from numba.extending import register_jitable

from fastadam.backends.numba.memory import reinterpret
from fastadam.memory.structs import TOTAL_WORDS
from fastadam.step import totals
from fastadam.step.totals import WORD_BITS, WORD_MASK

pieces_of, first_bits = register_jitable(totals.pieces_of), register_jitable(totals.first_bits)


@register_jitable
def clear_total(total):
    """Let a total be zero."""
    total.is_nan = total.is_infinite = total.end = 0
    total.first = TOTAL_WORDS
    for k in range(TOTAL_WORDS):
        total.words[k] = 0


@register_jitable
def add_to_total(total, number, exponent):
    """Add ``number * 2**exponent``, finite and in the range of a total."""
    if number == 0.0:
        return
    k, low, middle, high = pieces_of(reinterpret(types.float64(number), types.int64), exponent)
    words = total.words
    words[k] += low
    words[k + 1] += middle
    words[k + 2] += high
    total.first = min(total.first, k)
    total.end = max(total.end, k + 3)


@register_jitable
def add_totals(total, other):
    """Add another total to one."""
    total.is_nan |= other.is_nan
    total.is_infinite |= other.is_infinite
    for k in range(other.first, other.end):
        total.words[k] += other.words[k]
    total.first = min(total.first, other.first)
    total.end = max(total.end, other.end)


@register_jitable
def carry_total(total):
    """Let each word have 32 bits, and carry the rest."""
    carried, k = 0, total.first
    while k < total.end or carried != 0:
        word = total.words[k] + carried
        total.words[k] = word & WORD_MASK
        carried = word >> WORD_BITS
        k += 1
    total.end = max(total.end, k)


@register_jitable
def root_of_total(total):
    """Return the square root of a total that is not negative, from the total rounded to float64."""
    if total.is_nan:
        return math.nan
    if total.is_infinite:
        return math.inf
    carry_total(total)
    words = total.words
    k = total.end - 1
    while k >= total.first and words[k] == 0:
        k -= 1
    if k < total.first:
        return 0.0
    first, exponent = first_bits(words, total.first, k)
    rounded = types.float64(first)
    if exponent & 1:
        rounded *= 2.0
        exponent -= 1
    half = exponent >> 1
    quarter = half >> 1
    return math.sqrt(rounded) * math.ldexp(1.0, quarter) * math.ldexp(1.0, half - quarter)
