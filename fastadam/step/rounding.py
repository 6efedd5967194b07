"""Numbers of 16 bits, widened to float32 and rounded back to nearest, with ties to even; maximum and flush.

Like the formula (`fastadam.step.element`) they are written once, over what each backend hands in: its types, its
ways to see a number's bits and to choose between two. NumPy has float16 itself, and CUDA devices have instructions
for it. cext/formats.h is the same in C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def make_maximum(select: Function) -> Function:
    """Return ``maximum(old, new)``, the larger one; a NaN on either side gives NaN. It is fixed for signed zeros.

    Parameters
    ----------
    select : callable
        ``select(condition, yes, no)``.
    """

    def maximum(old, new):
        return select((old >= new) | (old != old), old, new)

    return maximum


def make_flush(select: Function, absolute: Function, zero: Any) -> Function:
    """Return ``flush(number, tiny)``: zero where the number is smaller in size than `tiny`, else (and NaN) itself.

    Parameters
    ----------
    select : callable
        ``select(condition, yes, no)``.
    absolute : callable
        Returns the size of a number.
    zero : scalar
        Of the compute dtype.
    """

    def flush(number, tiny):
        return select(absolute(number) < tiny, zero, number)

    return flush


def keep(number: Any, tiny: Any) -> Any:
    """Return the number: the `flush` of steps that set nothing to zero."""
    return number


def make_widen_bfloat16(uint32: Function, float_of: Function) -> Function:
    """Return the function from the bits of a bfloat16, the upper half of a float32, to that float32.

    Parameters
    ----------
    uint32 : callable
        Turns integers into 32 bits without a sign, modulo 2**32.
    float_of : callable
        Returns the float32 that has these 32 bits.
    """

    def widen_bfloat16(half):
        return float_of(uint32(uint32(half) << uint32(16)))

    return widen_bfloat16


def make_narrow_bfloat16(uint16: Function, uint32: Function, bits_of: Function, select: Function) -> Function:
    """Return the function from a float32 to the bits of the nearest bfloat16.

    Parameters
    ----------
    uint16, uint32 : callable
        Turn integers into 16 and 32 bits without a sign.
    bits_of : callable
        Returns the 32 bits of a float32.
    select : callable
        ``select(condition, yes, no)``.
    """

    def narrow_bfloat16(number):
        bits = bits_of(number)
        rounded = uint32(bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1)))
        return uint16(select(number != number, uint32(0x7FC0), uint32(rounded >> uint32(16))))

    return narrow_bfloat16


def make_widen_float16(
    uint32: Function, float32: Function, float_of: Function, bits_of: Function, select: Function
) -> Function:
    """Return the function from the bits of a float16 to the float32 of the same value.

    Moved to the place of a float32's, its exponent is too small by 112. A subnormal number is moved to one that is
    too large by the smallest normal float16, and exactly so: no float32 on the way is subnormal, with which many
    processors are slow.

    Parameters
    ----------
    float32 : callable
        Turns a Python float into a float32.
    uint32, float_of, bits_of, select : callable
        See `make_narrow_bfloat16`.
    """

    def widen_float16(half):
        magnitude = uint32(uint32(half) & uint32(0x7FFF))
        sign = uint32((uint32(half) & uint32(0x8000)) << uint32(16))
        shifted = uint32(magnitude << uint32(13))
        normal = uint32(shifted + uint32(112 << 23))
        subnormal = bits_of(float_of(uint32(shifted + uint32(113 << 23))) - float32(2.0**-14))
        finite = select(magnitude < uint32(0x0400), subnormal, normal)
        special = uint32(shifted | uint32(0x7F800000))
        return float_of(uint32(sign | select(magnitude >= uint32(0x7C00), special, finite)))

    return widen_float16


def make_narrow_float16(
    uint16: Function, uint32: Function, float32: Function, float_of: Function, bits_of: Function, select: Function
) -> Function:
    """Return the function from a float32 to the bits of the nearest float16.

    Below 2**-14 the result is subnormal, a multiple of 2**-24, as are the float32 numbers from 0.5 to 1.

    Parameters
    ----------
    uint16, uint32, float32, float_of, bits_of, select : callable
        See `make_narrow_bfloat16` and `make_widen_float16`.
    """

    def narrow_float16(number):
        bits = bits_of(number)
        magnitude = uint32(bits & uint32(0x7FFFFFFF))
        odd = (magnitude >> uint32(13)) & uint32(1)
        subnormal = uint32(bits_of(float_of(magnitude) + float32(0.5)) - uint32(0x3F000000))
        normal = uint32(uint32(magnitude - uint32(0x38000000) + uint32(0xFFF) + odd) >> uint32(13))
        half = select(magnitude < uint32(0x38800000), subnormal, normal)
        half = select(magnitude >= uint32(0x477FF000), uint32(0x7C00), half)  # what rounds to 65536 or more
        half = select(magnitude > uint32(0x7F800000), uint32(0x7E00), half)  # NaN
        return uint16(((bits >> uint32(16)) & uint32(0x8000)) | half)

    return narrow_float16
