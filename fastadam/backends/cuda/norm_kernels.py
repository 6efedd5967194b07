"""The kernels of the norm: what fastadam/step/norm.py says, on a device. Importing this module imports numba-cuda.

*squares* adds up blocks, a thread for each lane, and adds the sums to exact totals; *root* makes the norm and the
scale of all totals. What one thread adds to a total, it adds as whole numbers, so that the order does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import types

from fastadam.backends.cuda.device_functions import (
    DOUBLE,
    FLOAT32,
    FLOAT64,
    WORD,
    Access,
    add_word,
    make_find,
    make_load,
    make_store,
    on_device,
    reinterpret,
)
from fastadam.backends.cuda.kernels import BLOCK as THREADS
from fastadam.memory.formats import FORMATS
from fastadam.memory.structs import BLOCK, LANES, TOTAL, TOTAL_WORDS
from fastadam.step import norm as norms
from fastadam.step import totals as exact
from fastadam.step.norm import EXPONENT_DOWN, EXPONENT_UP, GROUP, LARGE, SCALE_DOWN, SCALE_UP, SMALL
from fastadam.step.totals import WORD_BITS, WORD_MASK


def _offset(struct: np.dtype[Any], name: str) -> int:
    """Return where a field is, in bytes."""
    return int((struct.fields or {})[name][1])


# Runs of numbers whose blocks are counted from their beginning: a parameter's gradient each. A run's blocks are
# those from its first_block to the next one's.
RUN = np.dtype([(name, np.int64) for name in ("grad", "size", "first_block")])
SIZE_AT, FIRST_BLOCK_AT = (_offset(RUN, name) for name in ("size", "first_block"))
# How many blocks a block of threads adds up.
AT_ONCE = THREADS // LANES
# What becomes of the totals. Gradients are multiplied by the scale, in the dtype that they are computed with in.
RESULT = np.dtype([("norm", np.float64), ("scale_float64", np.float64), ("scale_float32", np.float32)], align=True)
SCALE64_AT, SCALE32_AT = (_offset(RESULT, name) for name in ("scale_float64", "scale_float32"))

TOTAL_BYTES = TOTAL.dtype.itemsize
IS_NAN_AT, IS_INFINITE_AT, WORDS_AT = (_offset(TOTAL.dtype, name) for name in ("is_nan", "is_infinite", "words"))
TOTAL_INTEGERS, BEFORE_WORDS = TOTAL_BYTES // 8, WORDS_AT // 8
NAN_BEHIND, INFINITE_BEHIND = TOTAL_WORDS + IS_NAN_AT // 8, TOTAL_WORDS + IS_INFINITE_AT // 8
INFINITY, NAN = np.inf, np.nan

mul, add, sub, div, root_of = DOUBLE
load_word, store_word = make_load(WORD, 1), make_store(WORD, 1)
find = make_find(RUN.itemsize, FIRST_BLOCK_AT)
store_single, store_double = make_store(FLOAT32, 1), make_store(FLOAT64, 1)
pieces_of, first_bits = on_device(exact.pieces_of), on_device(exact.first_bits)
scale_of = on_device(norms.make_scale_of(add, div))


@on_device
def two_sum(a, b):
    """Return a sum, and what rounding took off it."""
    total = add(a, b)
    part = sub(total, a)
    return total, add(sub(a, sub(total, part)), sub(b, part))


@on_device
def joined(sums, rests, thread, lane, total, rest):
    """Return one sum of all lanes of a block, and its rest, to each of its threads; all threads have to come."""
    sums[thread], rests[thread] = total, rest
    half = LANES // 2
    while half > 0:
        cuda.syncthreads()
        if lane < half:
            both, lost = two_sum(sums[thread], sums[thread + half])
            sums[thread] = both
            rests[thread] = add(add(rests[thread], rests[thread + half]), lost)
        half //= 2
    cuda.syncthreads()
    total, rest = sums[thread - lane], rests[thread - lane]
    cuda.syncthreads()
    return total, rest


@on_device
def add_to_total(place, number, exponent):
    """Add ``number * 2**exponent``, finite and in the range of a total."""
    if number != FLOAT64(0.0):
        k, low, middle, high = pieces_of(reinterpret(number, WORD), exponent)
        at = place + WORDS_AT + WORD(8) * k
        add_word(at, low)
        add_word(at + WORD(8), middle)
        add_word(at + WORD(16), high)


@on_device
def power_of_two(exponent):
    """Return a power of two that is a normal number."""
    return reinterpret((exponent + WORD(1023)) << WORD(52), FLOAT64)


def _make_sum_of_lane(code: int) -> Any:
    """Return a function that sums up the squares of one lane of a block of numbers in a format."""
    number_format = FORMATS[code]
    in_double = number_format.compute == np.float64
    load_one, itemsize = Access(number_format).load_one, number_format.stored.itemsize
    stride = GROUP[number_format.compute] * LANES

    @on_device
    def number_at(address, i, n):
        number = FLOAT64(0.0)
        if i < n:
            number = FLOAT64(load_one(address + i * WORD(itemsize))[0])
        return number

    if in_double:

        @on_device
        def squares_of(address, i, n, factor):
            a, b = mul(number_at(address, i, n), factor), mul(number_at(address, i + LANES, n), factor)
            return add(mul(a, a), mul(b, b))

    else:

        @on_device
        def squares_of(address, i, n, factor):
            a, b = number_at(address, i, n), number_at(address, i + LANES, n)
            c, d = number_at(address, i + 2 * LANES, n), number_at(address, i + 3 * LANES, n)
            return add(add(mul(a, a), mul(b, b)), add(mul(c, c), mul(d, d)))

    @on_device
    def sum_of_lane(address, n, lane, factor):
        total, rest = FLOAT64(0.0), FLOAT64(0.0)
        i = lane
        while i < n:
            total, lost = two_sum(total, squares_of(address, i, n, factor))
            rest = add(rest, lost)
            i += stride
        return total, rest

    return sum_of_lane


@functools.cache
def make_squares(code: int) -> Callable[..., None]:
    """Return the Python function of the kernel *squares*, for numba-cuda to compile.

    Parameters
    ----------
    code : int
        Of a format of numbers.

    Returns
    -------
    callable
        ``squares(runs, n_runs, n_blocks, totals, n_totals)``: addresses of rows of `RUN` and of `TOTAL`. It takes
        `AT_ONCE` of the blocks for each block of threads. Sums go into one total or another, as many threads that
        add to the same words would have to wait for each other.
    """
    in_double = FORMATS[code].compute == np.float64
    itemsize = FORMATS[code].stored.itemsize
    sum_of_lane = _make_sum_of_lane(code)

    def squares(runs, n_runs, n_blocks, totals, n_totals):
        sums = cuda.shared.array(THREADS, types.float64)
        rests = cuda.shared.array(THREADS, types.float64)
        thread, group = WORD(cuda.threadIdx.x), WORD(cuda.blockIdx.x)
        lane = thread % LANES
        block = group * AT_ONCE + thread // LANES
        address, n = WORD(0), WORD(0)
        if block < n_blocks:
            run = find(runs, n_runs, block)
            first = (block - load_word(run + FIRST_BLOCK_AT)[0]) * BLOCK
            address = load_word(run)[0] + first * itemsize
            n = min(load_word(run + SIZE_AT)[0] - first, WORD(BLOCK))
        total, rest = sum_of_lane(address, n, lane, FLOAT64(1.0))
        total, rest = joined(sums, rests, thread, lane, total, rest)
        exponent = WORD(0)
        if in_double:
            factor = FLOAT64(1.0)
            if total < SMALL:
                exponent, factor = WORD(EXPONENT_UP), FLOAT64(SCALE_UP)
            elif not total < LARGE:
                exponent, factor = WORD(EXPONENT_DOWN), FLOAT64(SCALE_DOWN)
            again = n if exponent != WORD(0) else WORD(0)
            scaled, lost = sum_of_lane(address, again, lane, factor)
            scaled, lost = joined(sums, rests, thread, lane, scaled, lost)
            if exponent != WORD(0):
                total, rest = scaled, lost
        if lane == 0 and n > 0:
            place = totals + group % n_totals * TOTAL_BYTES
            if total < INFINITY:
                add_to_total(place, total, exponent)
                add_to_total(place, rest, exponent)
            elif total == INFINITY:
                store_word(place + IS_INFINITE_AT, (WORD(1),))
            else:
                store_word(place + IS_NAN_AT, (WORD(1),))

    return squares


def make_root() -> Callable[..., None]:
    """Return the Python function of the kernel *root*, for numba-cuda to compile.

    Returns
    -------
    callable
        ``root(totals, n_totals, result, divisor, max_norm)``: addresses of rows of `TOTAL` and of a `RESULT`, and
        the numbers of `fastadam.memory.structs.NORM`. It takes one block of threads.
    """

    def root(totals, n_totals, result, divisor, max_norm):
        # The words come first, then what stands before them in a total.
        words = cuda.shared.array(TOTAL_INTEGERS, types.int64)
        for i in range(WORD(cuda.threadIdx.x), WORD(TOTAL_INTEGERS), WORD(THREADS)):
            both = WORD(0)
            for each in range(n_totals):
                both += load_word(totals + each * TOTAL_BYTES + i * 8)[0]
            words[i - BEFORE_WORDS if i >= BEFORE_WORDS else i + TOTAL_WORDS] = both
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            carried, top = WORD(0), WORD(-1)
            for k in range(TOTAL_WORDS):
                word = words[k] + carried
                words[k] = word & WORD_MASK
                carried = word >> WORD_BITS
                if words[k] != WORD(0):
                    top = WORD(k)
            norm = FLOAT64(0.0)
            if words[NAN_BEHIND] != WORD(0):
                norm = FLOAT64(NAN)
            elif words[INFINITE_BEHIND] != WORD(0):
                norm = FLOAT64(INFINITY)
            elif top >= WORD(0):
                first, exponent = first_bits(words, WORD(0), top)
                rounded = FLOAT64(first)
                if exponent & WORD(1):
                    rounded = mul(rounded, FLOAT64(2.0))
                    exponent -= WORD(1)
                half = exponent >> WORD(1)
                quarter = half >> WORD(1)
                norm = mul(mul(root_of(rounded), power_of_two(quarter)), power_of_two(half - quarter))
            norm = div(norm, divisor)
            scale = div(scale_of(norm, max_norm), divisor)
            store_double(result, (norm,))
            store_double(result + SCALE64_AT, (scale,))
            store_single(result + SCALE32_AT, (FLOAT32(scale),))

    return root


def signature(reals: int, words: int) -> Any:
    """Return the types of the arguments of a kernel: so many words, then so many float64 numbers."""
    return types.void(*(types.int64,) * words, *(types.float64,) * reals)
