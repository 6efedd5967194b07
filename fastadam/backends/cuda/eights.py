"""Eight numbers at a time, as one thread of the general kernels takes them. Importing it imports numba-cuda.

They lie one after the other, and are tuples here. Behind the end of an array there are zeros in a tuple, and
nothing is written. Whatever is not a float goes by its bits.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba.cuda import types

from fastadam.backends.cuda.device_functions import (
    BYTE,
    FLOAT32,
    FLOAT64,
    HALF,
    PAIR,
    WORD,
    compiled_apart,
    make_load,
    make_store,
    on_device,
)

EIGHT = 8
VECTOR_BYTES = 16
# The type of what says where eight numbers are (see `fastadam.backends.cuda.codecs.Codec`).
PLACE = types.UniTuple(types.int64, 4)


def mapped(function: Any) -> Any:
    """Return the function of eight numbers that does to each what a function of one does."""

    @on_device
    def of_eight(t):
        return (
            *(function(t[0]), function(t[1]), function(t[2]), function(t[3])),
            *(function(t[4]), function(t[5]), function(t[6]), function(t[7])),
        )

    return of_eight


def mapped_pairs(function: Any) -> Any:
    """Return the function of twice eight numbers that does to each pair what a function of two does."""

    @on_device
    def of_eight(t, u):
        return (
            *(function(t[0], u[0]), function(t[1], u[1]), function(t[2], u[2]), function(t[3], u[3])),
            *(function(t[4], u[4]), function(t[5], u[5]), function(t[6], u[6]), function(t[7], u[7])),
        )

    return of_eight


def numbered(function: Any) -> Any:
    """Return the function of two numbers that gives eight of what ``function(number, k, other)`` does."""

    @on_device
    def of_eight(t, n):
        return (
            *(function(t, 0, n), function(t, 1, n), function(t, 2, n), function(t, 3, n)),
            *(function(t, 4, n), function(t, 5, n), function(t, 6, n), function(t, 7, n)),
        )

    return of_eight


class Bits(NamedTuple):
    """Numbers of so many bits: how kernels call their type, how compilers do, and a zero."""

    kind: Any
    called: Any
    zero: Any


_BITS = {
    "f4": Bits(FLOAT32, types.float32, np.float32(0)),
    "f8": Bits(FLOAT64, types.float64, np.float64(0)),
    "u2": Bits(HALF, types.uint16, np.uint16(0)),
    "u1": Bits(BYTE, types.uint8, np.uint8(0)),
}


def _name_of(stored: np.dtype[Any]) -> str:
    return f"u{stored.itemsize}" if stored.itemsize < 4 else f"f{stored.itemsize}"


def eight_of(stored: np.dtype[Any]) -> Any:
    """Return the type of eight numbers of a dtype."""
    return types.UniTuple(_BITS[_name_of(stored)].called, EIGHT)


@on_device
def _halves_of(pair):
    return HALF(pair & PAIR(0xFFFF)), HALF(pair >> PAIR(16))


@on_device
def _bytes_of(pair):
    low, high = pair & PAIR(0xFFFF), pair >> PAIR(16)
    return BYTE(low & PAIR(0xFF)), BYTE(low >> PAIR(8)), BYTE(high & PAIR(0xFF)), BYTE(high >> PAIR(8))


@on_device
def _pair_of(low, high):
    return PAIR(PAIR(low) | PAIR(PAIR(high) << PAIR(16)))


@on_device
def _pair_of_bytes(a, b, c, d):
    return PAIR(PAIR(PAIR(a) | (PAIR(b) << PAIR(8))) | PAIR((PAIR(c) << PAIR(16)) | (PAIR(d) << PAIR(24))))


def _make_load_all(name: str) -> Any:
    """Return a function that loads eight numbers by as few instructions as there can be."""
    if name == "f8":
        of_two = make_load(FLOAT64, 2)

        @on_device
        def load_all(address):
            return of_two(address) + of_two(address + 16) + of_two(address + 32) + of_two(address + 48)
    elif name == "f4":
        of_four = make_load(FLOAT32, 4)

        @on_device
        def load_all(address):
            return of_four(address) + of_four(address + 16)
    elif name == "u2":  # vectors of short integers would be taken apart
        pairs = make_load(PAIR, 4)

        @on_device
        def load_all(address):
            a, b, c, d = pairs(address)
            return _halves_of(a) + _halves_of(b) + _halves_of(c) + _halves_of(d)
    else:
        two_pairs = make_load(PAIR, 2)

        @on_device
        def load_all(address):
            a, b = two_pairs(address)
            return _bytes_of(a) + _bytes_of(b)

    return load_all


def _make_store_all(name: str) -> Any:
    """Return a function that stores eight numbers by as few instructions as there can be."""
    if name == "f8":
        of_two = make_store(FLOAT64, 2)

        @on_device
        def store_all(address, t):
            of_two(address, t[:2])
            of_two(address + 16, t[2:4])
            of_two(address + 32, t[4:6])
            of_two(address + 48, t[6:])
    elif name == "f4":
        of_four = make_store(FLOAT32, 4)

        @on_device
        def store_all(address, t):
            of_four(address, t[:4])
            of_four(address + 16, t[4:])
    elif name == "u2":
        pairs = make_store(PAIR, 4)

        @on_device
        def store_all(address, t):
            pairs(
                address,
                (_pair_of(t[0], t[1]), _pair_of(t[2], t[3]), _pair_of(t[4], t[5]), _pair_of(t[6], t[7])),
            )
    else:
        two_pairs = make_store(PAIR, 2)

        @on_device
        def store_all(address, t):
            two_pairs(address, (_pair_of_bytes(t[0], t[1], t[2], t[3]), _pair_of_bytes(t[4], t[5], t[6], t[7])))

    return store_all


@functools.cache
def make_load_eight(stored: np.dtype[Any]) -> Any:
    """Return ``load(address, n)``: eight numbers of a dtype, of which those from the n-th on are zeros."""
    name, itemsize = _name_of(stored), stored.itemsize
    kind, called, zero = _BITS[name]
    one, odd = make_load(kind, 1), min(VECTOR_BYTES, EIGHT * itemsize) - 1

    @on_device
    def lane(address, k, n):
        return one(address + WORD(k * itemsize))[0] if k < n else zero

    result = types.UniTuple(called, EIGHT)
    some = compiled_apart(numbered(lane), result, types.int64, types.int64)
    load_all = compiled_apart(_make_load_all(name), result, types.int64)

    @on_device
    def load(address, n):
        return load_all(address) if n == EIGHT and address & odd == 0 else some(address, n)

    return load


@functools.cache
def make_store_eight(stored: np.dtype[Any]) -> Any:
    """Return ``store(address, n, numbers)``, which writes the first n of eight numbers of a dtype."""
    name, itemsize = _name_of(stored), stored.itemsize
    kind, called, _ = _BITS[name]
    one, odd = make_store(kind, 1), min(VECTOR_BYTES, EIGHT * itemsize) - 1

    @on_device
    def lane(address, k, n, number):
        if k < n:
            one(address + WORD(k * itemsize), (number,))

    def some(address, n, t):
        lane(address, 0, n, t[0])
        lane(address, 1, n, t[1])
        lane(address, 2, n, t[2])
        lane(address, 3, n, t[3])
        lane(address, 4, n, t[4])
        lane(address, 5, n, t[5])
        lane(address, 6, n, t[6])
        lane(address, 7, n, t[7])

    numbers = types.UniTuple(called, EIGHT)
    store_some = compiled_apart(some, types.none, types.int64, types.int64, numbers)
    store_all = compiled_apart(_make_store_all(name), types.none, types.int64, numbers)

    @on_device
    def store(address, n, t):
        if n == EIGHT and address & odd == 0:
            store_all(address, t)
        else:
            store_some(address, n, t)

    return store
