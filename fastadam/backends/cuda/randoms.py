"""The random bits that kernels round numbers with, eight at a time. Importing this module imports numba-cuda."""

from __future__ import annotations

from numba.cuda import types

from fastadam.backends.cuda.device_functions import LONG, PAIR, WORD, compiled_apart, on_device
from fastadam.backends.cuda.eights import EIGHT, numbered
from fastadam.step import compact
from fastadam.step.compact import MIDDLE

PAIRS = types.UniTuple(types.uint32, EIGHT)
random_sequence = on_device(compact.make_random(LONG, on_device).sequence)


@on_device
def _random_of(first, k, stride):
    return PAIR(PAIR(first + PAIR(PAIR(k) * stride)) >> PAIR(16))


_randoms_from = compiled_apart(numbered(_random_of), PAIRS, types.uint32, types.uint32)


@on_device
def randoms_at(sequence, first):
    """Return the random bits of the eight elements from one on, in a sequence (see `fastadam.step.compact`)."""
    start, stride = PAIR(sequence >> LONG(32)), PAIR(sequence & LONG(0xFFFFFFFF))
    return _randoms_from(PAIR(start + PAIR(PAIR(first) * stride)), stride)


@on_device
def _middle_of(middle, k, _):
    return middle


_middles_of = numbered(_middle_of)


@on_device
def middles():
    """Return what numbers are rounded to nearest with."""
    return _middles_of(PAIR(MIDDLE >> 16), WORD(0))
