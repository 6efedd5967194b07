"""The random bits that kernels round numbers with, eight at a time. Importing this module imports numba-cuda."""

from __future__ import annotations

from numba.cuda import types

from fastadam.backends.cuda.device_functions import LONG, PAIR, WORD, compiled_apart, on_device
from fastadam.backends.cuda.eights import EIGHT, numbered
from fastadam.step import compact
from fastadam.step.compact import GOLDEN_32, MIDDLE

PAIRS = types.UniTuple(types.uint32, EIGHT)
random_start = on_device(compact.make_random(LONG, on_device).start)


@on_device
def _random_of(first, k, _):
    return PAIR(PAIR(first + PAIR(k * GOLDEN_32 & 0xFFFFFFFF)) >> PAIR(16))


_randoms_from = compiled_apart(numbered(_random_of), PAIRS, types.uint32, types.int64)


@on_device
def randoms_at(start, first):
    """Return the random bits of the eight elements from one on, where those of a parameter begin with a start."""
    return _randoms_from(PAIR(start + PAIR(PAIR(first) * PAIR(GOLDEN_32))), WORD(0))


@on_device
def _middle_of(middle, k, _):
    return middle


_middles_of = numbered(_middle_of)


@on_device
def middles():
    """Return what numbers are rounded to nearest with."""
    return _middles_of(PAIR(MIDDLE >> 16), WORD(0))
