"""Numbers in blocks that share a scale, eight at a time. Importing this module imports numba-cuda.

`fastadam.step.compact` says what they are, and cext/codecs.inc and cext/compact.h are the same in C. The numbers
of a block are those of several threads. What each has to know of all is a *word* of 32 bits: the size of the
largest finite one, and whether there are others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.cuda import types

from fastadam.backends.cuda.device_functions import (
    BYTE,
    FLOAT32,
    PAIR,
    SIGNED_BYTE,
    SIGNED_PAIR,
    SINGLE,
    bits_of,
    chosen,
    compiled_apart,
    float_of,
    make_load,
    make_store,
    on_device,
    reinterpret,
    truncated,
)
from fastadam.backends.cuda.eights import EIGHT, eight_of, make_load_eight, make_store_eight, mapped, mapped_pairs
from fastadam.backends.cuda.randoms import PAIRS
from fastadam.memory.formats import INT8, ROOT8, Format
from fastadam.memory.structs import SCALE_BLOCK
from fastadam.step import compact
from fastadam.step.compact import INFINITE_CODE, LEAST_SIZE, MOST, MOST_MARKED, NAN_CODE

BLOCKS = (INT8, ROOT8)
THREADS_PER_SCALE = SCALE_BLOCK // EIGHT
# Of a word: the size of a float32, and the bit that says that there are numbers which are not finite.
SIZE, MARK, INFINITE = 0x7FFFFFFF, 0x80000000, 0x7F800000
INFINITY, NAN, ZERO = np.float32(np.inf), np.float32(np.nan), np.float32(0)
SCALE_BYTES, BLOCK_SHIFT = 4, SCALE_BLOCK.bit_length() - 1
FLOATS, BYTES = eight_of(np.dtype(np.float32)), eight_of(np.dtype(np.uint8))

mul, _, _, div, _ = SINGLE
load_scale, store_scale = make_load(FLOAT32, 1), make_store(FLOAT32, 1)


@on_device
def _word_of_one(number):
    size = PAIR(bits_of(number) & PAIR(SIZE))
    return chosen(size < PAIR(INFINITE), size, PAIR(MARK))


def _joined(one, other):
    """Return the word of all numbers of two words."""
    a, b = PAIR(one & PAIR(SIZE)), PAIR(other & PAIR(SIZE))
    return PAIR(chosen(a > b, a, b) | ((one | other) & PAIR(MARK)))


joined = compiled_apart(_joined, types.uint32, types.uint32, types.uint32)


@on_device
def joined_of_eight(t):
    """Return the word of all numbers of eight words."""
    a, b = joined(joined(t[0], t[1]), joined(t[2], t[3])), joined(joined(t[4], t[5]), joined(t[6], t[7]))
    return joined(a, b)


_words_of = mapped(_word_of_one)


@on_device
def _word_of_eight(numbers):
    return joined_of_eight(_words_of(numbers))


@on_device
def _within(k, n, number):
    return chosen(k < n, number, ZERO)


def _first_of_eight(t, n):
    return (
        *(_within(0, n, t[0]), _within(1, n, t[1]), _within(2, n, t[2]), _within(3, n, t[3])),
        *(_within(4, n, t[4]), _within(5, n, t[5]), _within(6, n, t[6]), _within(7, n, t[7])),
    )


first_of = compiled_apart(_first_of_eight, FLOATS, FLOATS, types.int64)
word_of = compiled_apart(_word_of_eight, types.uint32, FLOATS)


@on_device
def _decode_int8(code, scale):
    return mul(FLOAT32(reinterpret(code, SIGNED_BYTE)), scale)


@on_device
def _decode_root8(code, scale):
    root = mul(FLOAT32(code), scale)
    return mul(root, root)


def _byte(code: int) -> int:
    return code & 0xFF


_INT8_NAN, _INT8_INFINITE, _INT8_NEGATIVE = map(_byte, (NAN_CODE[INT8], INFINITE_CODE[INT8], -INFINITE_CODE[INT8]))
_ROOT8_NAN, _ROOT8_INFINITE = NAN_CODE[ROOT8], INFINITE_CODE[ROOT8]


@on_device
def _special_int8(code, number):
    number = chosen(code == BYTE(_INT8_NAN), NAN, number)
    number = chosen(code == BYTE(_INT8_INFINITE), INFINITY, number)
    return chosen(code == BYTE(_INT8_NEGATIVE), -INFINITY, number)


@on_device
def _special_root8(code, number):
    number = chosen(code == BYTE(_ROOT8_NAN), NAN, number)
    return chosen(code == BYTE(_ROOT8_INFINITE), INFINITY, number)


@on_device
def _is_finite(number):
    return PAIR(bits_of(number) & PAIR(SIZE)) < PAIR(INFINITE)


@on_device
def _mark_int8(number, code):
    special = chosen(number > ZERO, BYTE(_INT8_INFINITE), BYTE(_INT8_NEGATIVE))
    special = chosen(number != number, BYTE(_INT8_NAN), special)
    return chosen(_is_finite(number), code, special)


@on_device
def _mark_root8(number, code):
    return chosen(_is_finite(number), code, chosen(number > ZERO, BYTE(_ROOT8_INFINITE), BYTE(_ROOT8_NAN)))


_IN_BLOCKS = {
    INT8: (_decode_int8, _special_int8, _mark_int8),
    ROOT8: (_decode_root8, _special_root8, _mark_root8),
}


def make_in_blocks(number_format: Format) -> tuple[Any, Any]:
    """Return how numbers in blocks are loaded and stored (see `fastadam.backends.cuda.codecs.Codec`)."""
    load_raw, store_raw = make_load_eight(np.dtype(np.uint8)), make_store_eight(np.dtype(np.uint8))
    decode, special, mark = _IN_BLOCKS[number_format]
    decoded = mapped_pairs(compiled_apart(decode, types.float32, types.uint8, types.float32))
    with_special = mapped_pairs(compiled_apart(special, types.float32, types.uint8, types.float32))
    with_marks = mapped_pairs(compiled_apart(mark, types.uint8, types.float32, types.uint8))
    encode = on_device(compact.make_encode(SIGNED_PAIR, truncated, chosen, number_format))
    most, most_marked = (np.float32(each[number_format]) for each in (MOST, MOST_MARKED))
    factor, factor_marked = (np.float32(compact.factor_of(each[number_format])) for each in (MOST, MOST_MARKED))

    def encode_byte(number, factor, random):
        return BYTE(encode(number, factor, random))

    encode_one = compiled_apart(encode_byte, types.uint8, types.float32, types.float32, types.uint32)

    def encode_all(t, factor, r):
        return (
            *(encode_one(t[0], factor, r[0]), encode_one(t[1], factor, r[1]), encode_one(t[2], factor, r[2])),
            *(encode_one(t[3], factor, r[3]), encode_one(t[4], factor, r[4]), encode_one(t[5], factor, r[5])),
            *(encode_one(t[6], factor, r[6]), encode_one(t[7], factor, r[7])),
        )

    encoded = compiled_apart(encode_all, BYTES, FLOATS, types.float32, PAIRS)

    @on_device
    def load(place):
        array, beside, first, n = place
        codes = load_raw(array + first, n)
        scale = load_scale(beside + (first >> BLOCK_SHIFT) * SCALE_BYTES)[0] if n > 0 else ZERO
        size = float_of(PAIR(bits_of(scale) & PAIR(SIZE)))
        numbers = decoded(codes, (size, size, size, size, size, size, size, size))
        if bits_of(scale) >= PAIR(MARK):
            numbers = with_special(codes, numbers)
        return numbers

    @on_device
    def store(place, numbers, randoms, word):
        array, beside, first, n = place
        largest, is_marked = PAIR(word & PAIR(SIZE)), word >= PAIR(MARK)
        size = float_of(chosen(largest >= PAIR(LEAST_SIZE), largest, PAIR(0)))
        factor_here = div(chosen(is_marked, factor_marked, factor), size) if size > ZERO else ZERO
        codes = encoded(numbers, factor_here, randoms)
        if is_marked:
            codes = with_marks(numbers, codes)
        store_raw(array + first, n, codes)
        if n > 0 and first & (SCALE_BLOCK - 1) == 0:
            scale = bits_of(div(size, chosen(is_marked, most_marked, most)))
            scale = PAIR(scale | (word & PAIR(MARK)))
            store_scale(beside + (first >> BLOCK_SHIFT) * SCALE_BYTES, (float_of(scale),))

    return load, store
