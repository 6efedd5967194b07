"""How the general kernels read and write numbers of each format, eight at a time. Importing it imports numba-cuda.

`fastadam.step.compact` says what the formats are, and cext/codecs.inc is the same in C.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.cuda import types

from fastadam.backends.cuda.blocks import BLOCKS, first_of, make_in_blocks, word_of
from fastadam.backends.cuda.device_functions import (
    DOUBLE,
    FLOAT32,
    FLOAT64,
    HALF,
    PAIR,
    SIGNED_HALF,
    SIGNED_PAIR,
    SINGLE,
    bits_of,
    chosen,
    compiled_apart,
    float_of,
    keep,
    narrow_bfloat16,
    narrow_float16,
    on_device,
    reinterpret,
    truncated,
    widen_bfloat16,
    widen_float16,
)
from fastadam.backends.cuda.eights import make_load_eight, make_store_eight, mapped, mapped_pairs
from fastadam.memory.formats import (
    BFLOAT16,
    BFLOAT16_MASTER,
    BFLOAT16_STOCHASTIC,
    FLOAT16,
    FLOAT16_MASTER,
    FLOAT16_STOCHASTIC,
    ROOT8,
    Format,
)
from fastadam.step import compact


class Codec(NamedTuple):
    """How kernels read and write the numbers of one array.

    Attributes
    ----------
    load : callable
        ``load(array, beside, first, n)``: eight numbers, as they are computed with, from the first one of an array
        on, at whose address and at that of what lies beside it they find it; n of them are there.
    settle : callable
        ``settle(numbers, n)``: as what eight numbers that were computed are stored.
    word : callable
        ``word(numbers)``: the word of eight that are settled, where they are in blocks.
    store : callable
        ``store(array, beside, first, n, numbers, randoms, word)``: write such, with their random bits and the word
        of the block that they are in.
    """

    load: Any
    settle: Any
    word: Any
    store: Any


@on_device
def _no_word(numbers):
    return PAIR(0)


def make_codec(number_format: Format, compute: np.dtype[Any]) -> Codec:
    """Return how kernels that compute in a dtype read and write numbers of a format."""
    make = _make_alone
    if number_format in BLOCKS:
        make = make_in_blocks
    elif number_format in _PARTED:
        make = _make_master
    load, store = make(number_format)
    in_double = compute == np.float64
    widens = in_double and number_format.compute != compute
    return Codec(
        _make_widened(load) if widens else load,
        _make_settle(number_format, in_double, widens),
        word_of if number_format in BLOCKS else _no_word,
        store,
    )


def _make_widened(load: Any) -> Any:
    """Return what loads numbers as float64."""

    @on_device
    def widen(number):
        return FLOAT64(number)

    all_widened = mapped(widen)

    @on_device
    def load_widened(array, beside, first, n):
        return all_widened(load(array, beside, first, n))

    return load_widened


def _make_settle(number_format: Format, in_double: bool, narrows: bool) -> Any:
    """Return what makes numbers that were computed those that are stored."""

    @on_device
    def narrow(number):
        return FLOAT32(number)

    all_narrowed = mapped(narrow) if narrows else keep
    if number_format not in BLOCKS:

        @on_device
        def settle(numbers, n):
            return all_narrowed(numbers)

        return settle
    rooted = mapped((DOUBLE if in_double else SINGLE)[-1]) if number_format is ROOT8 else keep

    @on_device
    def settle_in_blocks(numbers, n):
        return first_of(all_narrowed(rooted(numbers)), n)

    return settle_in_blocks


# Numbers that have nothing beside them.


# How such are widened and narrowed, if they are no floats.
_ALONE = {
    BFLOAT16: (widen_bfloat16, narrow_bfloat16),
    FLOAT16: (widen_float16, narrow_float16),
    BFLOAT16_STOCHASTIC: (
        widen_bfloat16,
        on_device(compact.make_narrow_bfloat16_stochastic(HALF, PAIR, bits_of, chosen)),
    ),
    FLOAT16_STOCHASTIC: (
        widen_float16,
        on_device(
            compact.make_narrow_float16_stochastic(HALF, PAIR, FLOAT32, float_of, bits_of, truncated, chosen)
        ),
    ),
}


def _make_alone(number_format: Format) -> tuple[Any, Any]:
    load_raw, store_raw = make_load_eight(number_format.stored), make_store_eight(number_format.stored)
    itemsize, at_random = number_format.stored.itemsize, number_format in compact.AT_RANDOM
    widened = narrowed = keep
    if number_format in _ALONE:
        widen, narrow = _ALONE[number_format]
        widened = mapped(compiled_apart(widen, types.float32, types.uint16))
        if at_random:
            narrowed = mapped_pairs(compiled_apart(narrow, types.uint16, types.float32, types.uint32))
        else:
            narrowed = mapped(compiled_apart(narrow, types.uint16, types.float32))

    @on_device
    def load(array, beside, first, n):
        return widened(load_raw(array + first * itemsize, n))

    if at_random:

        @on_device
        def store(array, beside, first, n, numbers, randoms, word):
            store_raw(array + first * itemsize, n, narrowed(numbers, randoms))
    else:

        @on_device
        def store(array, beside, first, n, numbers, randoms, word):
            store_raw(array + first * itemsize, n, narrowed(numbers))

    return load, store


# Weights with masters.


@on_device
def _rest_of(bits):
    return SIGNED_PAIR(reinterpret(bits, SIGNED_HALF))


@on_device
def _weight_and_itself(number):
    return narrow_float16(number), number


@on_device
def _weight_of(both):
    return both[0]


@on_device
def _beside_of(both):
    return both[1]


class _Parted(NamedTuple):
    """A master in two: what is beside the weight, how the two make one number, and how a number makes the two."""

    beside: np.dtype[Any]
    called: Any
    join: Any
    part: Any


_PARTED = {
    # Rests go by their bits.
    BFLOAT16_MASTER: _Parted(
        np.dtype(np.uint16),
        types.uint16,
        on_device(compact.make_join_master(PAIR, _rest_of, float_of, chosen)),
        on_device(compact.make_part_master(HALF, HALF, PAIR, bits_of, chosen)),
    ),
    FLOAT16_MASTER: _Parted(
        np.dtype(np.float32),
        types.float32,
        on_device(compact.make_join_float16_master(narrow_float16, widen_float16, chosen)),
        _weight_and_itself,
    ),
}


def _make_master(number_format: Format) -> tuple[Any, Any]:
    beside_dtype, called, join, part = _PARTED[number_format]
    load_raw, store_raw = make_load_eight(number_format.stored), make_store_eight(number_format.stored)
    load_beside, store_beside = make_load_eight(beside_dtype), make_store_eight(beside_dtype)
    itemsize, beside_itemsize = number_format.stored.itemsize, beside_dtype.itemsize
    joined_all = mapped_pairs(compiled_apart(join, types.float32, types.uint16, called))
    parted_all = mapped(compiled_apart(part, types.Tuple((types.uint16, called)), types.float32))
    weights_of, besides_of = mapped(_weight_of), mapped(_beside_of)

    @on_device
    def load(array, beside, first, n):
        weights = load_raw(array + first * itemsize, n)
        return joined_all(weights, load_beside(beside + first * beside_itemsize, n))

    @on_device
    def store(array, beside, first, n, numbers, randoms, word):
        parted = parted_all(numbers)
        store_raw(array + first * itemsize, n, weights_of(parted))
        store_beside(beside + first * beside_itemsize, n, besides_of(parted))

    return load, store
