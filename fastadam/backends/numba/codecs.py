"""Chunks of numbers in formats of 16 bits, as float32, for Numba's kernels. Importing it imports Numba."""

from __future__ import annotations

from numba import types
from numba.extending import register_jitable

from fastadam.backends.numba.memory import make_room, numbers, reinterpret
from fastadam.memory import formats
from fastadam.memory.structs import CHUNK, ROLES
from fastadam.step import rounding

FLOAT32, BFLOAT16, FLOAT16 = formats.FLOAT32.code, formats.BFLOAT16.code, formats.FLOAT16.code
CHUNK_BYTES = CHUNK * formats.FLOAT32.stored.itemsize
# For a chunk of each array.
rooms = make_room(len(ROLES) * CHUNK_BYTES)


@register_jitable
def select(condition, yes, no):
    """Return one of two numbers."""
    return yes if condition else no


@register_jitable
def float_of(bits):
    """Return the float32 that has these 32 bits."""
    return reinterpret(types.uint32(bits), types.float32)


@register_jitable
def bits_of(number):
    """Return the 32 bits of a float32."""
    return reinterpret(types.float32(number), types.uint32)


uint16, uint32, float32 = types.uint16, types.uint32, types.float32
widen_bfloat16 = register_jitable(rounding.make_widen_bfloat16(uint32, float_of))
narrow_bfloat16 = register_jitable(rounding.make_narrow_bfloat16(uint16, uint32, bits_of, select))
widen_float16 = register_jitable(rounding.make_widen_float16(uint32, float32, float_of, bits_of, select))
narrow_float16 = register_jitable(rounding.make_narrow_float16(uint16, uint32, float32, float_of, bits_of, select))


@register_jitable
def load(code, array, first, n, room):
    """Return the `n` numbers from element `first` of an array on, as float32: where they lie, or in a room."""
    if code == FLOAT32:
        return numbers(array + 4 * first, n, types.float32)
    stored, found = numbers(array + 2 * first, n, types.uint16), numbers(room, n, types.float32)
    if code == BFLOAT16:
        for i in range(n):
            found[i] = widen_bfloat16(stored[i])
    else:
        for i in range(n):
            found[i] = widen_float16(stored[i])
    return found


@register_jitable
def store(code, array, first, found):
    """Round numbers that `load` has returned to their format, and put them back."""
    stored = numbers(array + 2 * first, found.size, types.uint16)
    if code == BFLOAT16:
        for i in range(found.size):
            stored[i] = narrow_bfloat16(found[i])
    elif code == FLOAT16:
        for i in range(found.size):
            stored[i] = narrow_float16(found[i])
