"""Numbers of each format as values of a recorded formula: loaded from the arrays of a chunk, and stored there.

A chunk of a variant with state of 8 bits is blocks of numbers, in two dimensions, and numbers for each block lie
in an array with one column.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastadam.backends.numpy.recording import FLOAT32, UINT16, UINT32, Constant, Dtype, Recorder, Value
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
from fastadam.memory.structs import MASTER, ROLES, SCALES
from fastadam.step import compact, rounding
from fastadam.step.compact import INFINITE_BITS, MIDDLE

INT16, INT32 = np.dtype(np.int16), np.dtype(np.int32)
IN_BLOCKS = (INT8, ROOT8)
# The numbers of the elements of a chunk.
INDEX = "index"
_SIZE_BITS = Constant(UINT32.type(0x7FFFFFFF))
_INFINITE = Constant(UINT32.type(INFINITE_BITS))


def beside(role: str, number_format: Format) -> tuple[str, Dtype] | None:
    """Return what lies beside a role's array in a format, and of which dtype it is."""
    if number_format in IN_BLOCKS:
        return SCALES[role], FLOAT32
    return {BFLOAT16_MASTER: (MASTER, INT16), FLOAT16_MASTER: (MASTER, FLOAT32)}.get(number_format)


def _as(dtype: Dtype) -> Callable[..., Value | Constant]:
    """Return the function that turns a whole number into one of a dtype, modulo a power of two, or a float."""

    def converted(number: Value | Constant | int) -> Value | Constant:
        if isinstance(number, Constant):
            return Constant(number.value.astype(dtype))
        if not isinstance(number, Value):
            return Constant(np.array(number, dtype))
        same_bits = {number.dtype.kind, dtype.kind} <= {"i", "u"} and number.dtype.itemsize == dtype.itemsize
        return number.seen_as(dtype) if same_bits else number.converted(dtype)

    return converted


_uint16, _int16, _uint32, _int32, _float32 = map(_as, (UINT16, INT16, UINT32, INT32, FLOAT32))


def _float_of(bits: Value) -> Value:
    return bits.seen_as(FLOAT32)


def _bits_of(number: Value) -> Value:
    return number.seen_as(UINT32)


def load(recorder: Recorder, role: str, number_format: Format, compute: Dtype) -> Value:
    """Return the numbers of a role in the dtype that is computed in."""
    stored = recorder.take_in("array", role, number_format.stored)
    along = beside(role, number_format)
    if along is not None:
        other = recorder.take_in("array", *along, by_block=number_format in IN_BLOCKS)
    if number_format in IN_BLOCKS:
        decode = compact.make_decode(_int32, _float32, recorder.select, number_format)
        bits = _bits_of(other)
        found: Value = decode(stored.converted(INT32), _float_of(bits & _SIZE_BITS), bits > _SIZE_BITS)
    elif number_format == BFLOAT16_MASTER:
        found = compact.make_join_master(_uint32, _int32, _float_of, recorder.select)(stored, other)
    elif number_format == FLOAT16_MASTER:
        join = compact.make_join_float16_master(_narrow_float16, _widen_float16, recorder.select)
        found = join(stored.seen_as(UINT16), other)
    elif number_format in (BFLOAT16, BFLOAT16_STOCHASTIC):
        found = rounding.make_widen_bfloat16(_uint32, _float_of)(stored)
    else:
        found = stored
    return found.converted(compute)


def _narrow_float16(number: Value) -> Value:
    return number.converted(FLOAT16.stored).seen_as(UINT16)


def _widen_float16(bits: Value) -> Value:
    return bits.seen_as(FLOAT16.stored).converted(FLOAT32)


class Storing:
    """Turns numbers that were computed into those that lie in memory.

    Parameters
    ----------
    recorder : Recorder
    root : callable
        The square root of a value.
    """

    def __init__(self, recorder: Recorder, root: Callable[[Value], Value]) -> None:
        self._recorder, self._root = recorder, root
        self._index = functools.cache(lambda: recorder.take_in("fixed", INDEX, UINT32))

    def store(self, role: str, number: Value, number_format: Format) -> dict[str, Value]:
        """Return what is written to which array."""
        if number_format in IN_BLOCKS:
            rooted = self._root(number) if number_format is ROOT8 else number
            codes, scales = self._blocks(rooted.converted(FLOAT32), number_format, self._random(role))
            return {role: codes, SCALES[role]: scales}
        number = number.converted(number_format.compute)
        select = self._recorder.select
        if number_format == BFLOAT16:
            return {role: rounding.make_narrow_bfloat16(_uint16, _uint32, _bits_of, select)(number)}
        if number_format == BFLOAT16_STOCHASTIC:
            narrow = compact.make_narrow_bfloat16_stochastic(_uint16, _uint32, _bits_of, select)
            return {role: narrow(number, self._random(role))}
        if number_format == FLOAT16_STOCHASTIC:
            makers = (_uint16, _uint32, _float32, _float_of, _bits_of, _truncated, select)
            return {role: compact.make_narrow_float16_stochastic(*makers)(number, self._random(role))}
        if number_format == BFLOAT16_MASTER:
            weight, rest = compact.make_part_master(_uint16, _int16, _uint32, _bits_of, select)(number)
            return {role: weight, MASTER: rest}
        if number_format == FLOAT16_MASTER:
            return {role: number.converted(number_format.stored), MASTER: number}
        return {role: number.converted(number_format.stored)}

    def _random(self, role: str) -> Value | Constant:
        """Return the 16 bits that a role is rounded with; a running maximum is so to nearest."""
        if role == ROLES[-1]:
            return Constant(UINT32.type(MIDDLE >> 16))
        index = self._index()
        start, stride = (self._recorder.take_in("scalar", name(role), UINT32) for name in (start_of, stride_of))
        return (index * stride + start) >> Constant(UINT32.type(16))

    def _blocks(self, number: Value, number_format: Format, random: Value | Constant) -> tuple[Value, Value]:
        """Return codes and scales."""
        recorder = self._recorder
        bits = _bits_of(number)
        sizes = bits & _SIZE_BITS
        finite = sizes < _INFINITE
        mask = recorder.mask(finite, UINT32)
        marked = recorder.largest_of_blocks(sizes) >= _INFINITE
        scale_of = compact.make_scale(_uint32, _float32, _float_of, recorder.select, number_format)
        scale, factor = scale_of(recorder.largest_of_blocks(sizes & mask), marked)
        code = compact.make_encode(_int32, _int32, recorder.select, number_format)(
            _float_of(bits & mask), factor, random
        )
        special = compact.make_special(_int32, _float32, recorder.select, number_format)(number)
        return recorder.select(finite, code, special).converted(number_format.stored), scale


def _truncated(number: Value) -> Value:
    return number.converted(INT32).seen_as(UINT32)


def start_of(role: str) -> str:
    """Return the name of the scalar that has where the random bits of a role begin in a chunk."""
    return f"start of {role}"


def stride_of(role: str) -> str:
    """Return the name of the scalar that has by how much they go on from one element to the next."""
    return f"stride of {role}"
