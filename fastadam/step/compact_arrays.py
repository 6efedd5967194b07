"""What compact arrays hold, in NumPy: state of 16 and 8 bits, and masters, decoded and encoded as a whole.

Steps do this on their own. It is for those who look at the state, or put another one in its place; numbers are
rounded to nearest then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.formats import (
    BFLOAT16,
    BFLOAT16_MASTER,
    BFLOAT16_STOCHASTIC,
    FLOAT16,
    FLOAT16_MASTER,
    FLOAT16_STOCHASTIC,
    INT8,
    ROOT8,
    Format,
)
from fastadam.memory.structs import SCALE_BLOCK
from fastadam.step import compact, rounding
from fastadam.step.compact import INFINITE_BITS, MIDDLE

_FLOAT32 = np.dtype(np.float32)


def _as(dtype: Any) -> Any:
    """Return what turns numbers into those of a dtype, without a warning where digits go."""
    return lambda number: np.asarray(number).astype(dtype)


def _bits_of(number: Array) -> Array:
    return np.asarray(number, _FLOAT32).view(np.uint32)


def _float_of(bits: Array) -> Array:
    return np.asarray(bits, np.uint32).view(_FLOAT32)


_uint16, _uint32, _int16, _int32 = map(_as, (np.uint16, np.uint32, np.int16, np.int32))
_float32 = _as(_FLOAT32)
_widen_bfloat16 = rounding.make_widen_bfloat16(_uint32, _float_of)
_narrow_bfloat16 = rounding.make_narrow_bfloat16(_uint16, _uint32, _bits_of, np.where)
_part_master = compact.make_part_master(_uint16, _int16, _uint32, _bits_of, np.where)
_join_master = compact.make_join_master(_uint32, _int32, _float_of, np.where)
_encode = {each: compact.make_encode(_int32, _int32, np.where, each) for each in (INT8, ROOT8)}
_special = {each: compact.make_special(_int32, _float32, np.where, each) for each in (INT8, ROOT8)}
_scale = {each: compact.make_scale(_uint32, _float32, _float_of, np.where, each) for each in (INT8, ROOT8)}
_decode = {each: compact.make_decode(_int32, _float32, np.where, each) for each in (INT8, ROOT8)}


def decode(stored: Array, beside: Array | None, number_format: Format) -> Array:
    """Return the numbers of a compact array as float32, in its shape.

    Parameters
    ----------
    stored : ndarray
        Codes or bits; or weights that have masters.
    beside : ndarray or None
        The scales of blocks, counted from the first number on; or what masters have beside weights.
    number_format : Format
    """
    if number_format in (BFLOAT16, BFLOAT16_STOCHASTIC):
        found = _widen_bfloat16(stored)
    elif number_format == BFLOAT16_MASTER:
        found = _join_master(stored, beside)
    elif number_format == FLOAT16_MASTER:
        assert beside is not None
        with np.errstate(over="ignore"):
            is_own = beside.astype(np.float16).view(np.uint16) == stored.view(np.uint16)
        found = np.where(is_own, beside, stored.view(np.float16).astype(_FLOAT32))
    elif number_format in (INT8, ROOT8):
        found = _decode_blocks(stored, beside, number_format)
    else:
        found = stored
    return np.asarray(found, _FLOAT32).reshape(stored.shape)


def _decode_blocks(codes: Array, scales: Any, number_format: Format) -> Array:
    flat: Array = codes.reshape(-1)
    return decode_each(flat, np.repeat(scales, SCALE_BLOCK)[: flat.size], number_format)


def decode_each(codes: Array, scales: Array, number_format: Format) -> Array:
    """Return the numbers of codes of 8 bits, given the scale of each one's block, as float32 in their shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers: Array = _decode[number_format](_int32(codes), np.abs(scales), np.signbit(scales))
    return numbers


def encode(numbers: Array, number_format: Format) -> tuple[Array, Array | None]:
    """Return a compact array of numbers, rounded to nearest, and the scales of its blocks or the rests of masters.

    Parameters
    ----------
    numbers : ndarray
        Real ones.
    number_format : Format

    Returns
    -------
    ndarray
        In their shape, of the dtype that the format is stored in.
    ndarray or None
    """
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.asarray(numbers)
        if number_format in (INT8, ROOT8):
            return _encode_blocks(numbers, number_format)
        floats = numbers.astype(_FLOAT32)
        if number_format in (BFLOAT16, BFLOAT16_STOCHASTIC):
            return _narrow_bfloat16(floats).reshape(numbers.shape), None
        if number_format == BFLOAT16_MASTER:
            weights, rests = _part_master(floats)
            return weights.reshape(numbers.shape), rests.reshape(numbers.shape)
        if number_format == FLOAT16_MASTER:
            return floats.astype(np.float16), floats
        if number_format in (FLOAT16, FLOAT16_STOCHASTIC):
            return floats.astype(np.float16), None
        return numbers.astype(number_format.stored), None


def _encode_blocks(numbers: Array, number_format: Format) -> tuple[Array, Array]:
    n = numbers.size
    rooted = np.sqrt(numbers) if number_format == ROOT8 else numbers
    blocks = np.zeros((compact.count_blocks(n), SCALE_BLOCK), _FLOAT32)
    blocks.reshape(-1)[:n] = rooted.reshape(-1)
    sizes = _bits_of(np.abs(blocks))
    is_finite = sizes < INFINITE_BITS
    marked = ~is_finite.all(axis=1, keepdims=True)
    largest = np.where(is_finite, sizes, _uint32(0)).max(axis=1, initial=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales, factors = _scale[number_format](largest, marked)
    finite = np.where(is_finite, blocks, _FLOAT32.type(0))
    usual = _encode[number_format](finite, factors, np.int32(MIDDLE >> 16))
    codes: Any = np.where(is_finite, usual, _special[number_format](blocks))
    stored = codes.astype(number_format.stored).reshape(-1)[:n].reshape(numbers.shape)
    return stored, scales.reshape(-1)
