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
from fastadam.backends.cuda.eights import PLACE, eight_of, make_load_eight, make_store_eight, mapped, mapped_pairs
from fastadam.backends.cuda.randoms import PAIRS
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

    Where eight numbers are is four words: the address of the array and that of what lies beside it, the first of
    the numbers, and how many of them there are.

    Attributes
    ----------
    load : callable
        ``load(place)``: eight numbers, as they are computed with.
    settle : callable
        ``settle(numbers, n)``: as what eight numbers are stored that were computed, the first n of them.
    word : callable
        ``word(numbers)``: the word of eight that are settled (see `fastadam.backends.cuda.blocks`), where they are
        in blocks.
    store : callable
        ``store(place, numbers, randoms, word)``: write such, with their random bits and the word of the block that
        they are in.
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
    widens = number_format.compute != compute
    computed = eight_of(compute)
    settled = eight_of(number_format.compute)
    return Codec(
        compiled_apart(_make_widened(load) if widens else load, computed, PLACE),
        compiled_apart(_make_settle(number_format, compute, widens), settled, computed, types.int64),
        word_of if number_format in BLOCKS else _no_word,
        compiled_apart(store, types.none, PLACE, settled, PAIRS, types.uint32),
    )


def _make_widened(load: Any) -> Any:
    """Return what loads numbers as float64."""

    @on_device
    def widen(number):
        return FLOAT64(number)

    all_widened = mapped(widen)

    @on_device
    def load_widened(place):
        return all_widened(load(place))

    return load_widened


def _make_settle(number_format: Format, compute: np.dtype[Any], narrows: bool) -> Any:
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
    rooted = keep
    if number_format is ROOT8:
        rooted = mapped((SINGLE if compute == np.float32 else DOUBLE)[-1])

    @on_device
    def settle_in_blocks(numbers, n):
        return first_of(all_narrowed(rooted(numbers)), n)

    return settle_in_blocks


# Numbers that have nothing beside them.


@on_device
def _keep_first(numbers, randoms):
    return numbers


@on_device
def _nearest_bfloat16(number, random):
    return narrow_bfloat16(number)


@on_device
def _nearest_float16(number, random):
    return narrow_float16(number)


# How such are widened and narrowed, if they are no floats.
_ALONE = {
    BFLOAT16: (widen_bfloat16, _nearest_bfloat16),
    FLOAT16: (widen_float16, _nearest_float16),
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
    itemsize = number_format.stored.itemsize
    widened, narrowed = keep, _keep_first
    if number_format in _ALONE:
        widen, narrow = _ALONE[number_format]
        widened = mapped(compiled_apart(widen, types.float32, types.uint16))
        narrowed = mapped_pairs(compiled_apart(narrow, types.uint16, types.float32, types.uint32))

    @on_device
    def load(place):
        array, _, first, n = place
        return widened(load_raw(array + first * itemsize, n))

    @on_device
    def store(place, numbers, randoms, word):
        array, _, first, n = place
        store_raw(array + first * itemsize, n, narrowed(numbers, randoms))

    return load, store


# Weights with masters.


_join_bfloat16 = on_device(compact.make_join_master(PAIR, SIGNED_PAIR, float_of, chosen))


@on_device
def _joined_bfloat16(weight, bits):
    return _join_bfloat16(weight, reinterpret(bits, SIGNED_HALF))


_part_bfloat16 = on_device(compact.make_part_master(HALF, HALF, PAIR, bits_of, chosen))


@on_device
def _weight_of(number):
    return _part_bfloat16(number)[0]


@on_device
def _bits_beside(number):
    return _part_bfloat16(number)[1]


class _Parted(NamedTuple):
    """A master in two: the type of what lies beside, how the two make a number, and how it makes each of them."""

    beside: np.dtype[Any]
    called: Any
    join: Any
    weight_of: Any
    beside_of: Any


_PARTED = {
    # Rests go by their bits.
    BFLOAT16_MASTER: _Parted(
        np.dtype(np.uint16),
        types.uint16,
        _joined_bfloat16,
        _weight_of,
        _bits_beside,
    ),
    FLOAT16_MASTER: _Parted(
        np.dtype(np.float32),
        types.float32,
        on_device(compact.make_join_float16_master(narrow_float16, widen_float16, chosen)),
        narrow_float16,
        keep,
    ),
}


def _make_master(number_format: Format) -> tuple[Any, Any]:
    beside_dtype, called, join, weight_of, beside_of = _PARTED[number_format]
    load_raw, store_raw = make_load_eight(number_format.stored), make_store_eight(number_format.stored)
    load_beside, store_beside = make_load_eight(beside_dtype), make_store_eight(beside_dtype)
    itemsize, beside_itemsize = number_format.stored.itemsize, beside_dtype.itemsize
    joined_all = mapped_pairs(compiled_apart(join, types.float32, types.uint16, called))
    weights_of = mapped(compiled_apart(weight_of, types.uint16, types.float32))
    besides_of = mapped(compiled_apart(beside_of, called, types.float32))

    @on_device
    def load(place):
        array, beside, first, n = place
        weights = load_raw(array + first * itemsize, n)
        return joined_all(weights, load_beside(beside + first * beside_itemsize, n))

    @on_device
    def store(place, numbers, randoms, word):
        array, beside, first, n = place
        store_raw(array + first * itemsize, n, weights_of(numbers))
        store_beside(beside + first * beside_itemsize, n, besides_of(numbers))

    return load, store
