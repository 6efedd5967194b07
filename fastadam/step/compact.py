"""Formats that only a step writes: state in 16 and 8 bits, weights rounded at random, and masters beside weights.

Like `fastadam.step.rounding`, all of it is written once, over what each backend hands in: its types, its ways to
see a number's bits and to choose between two. cext/compact.h and cext/random.h are the same in C.

**Random bits.** Element i of a parameter is rounded with the upper 16 bits of ``start + i * stride``, a number of
32 bits. Start and stride, which is odd, are a hash of the seed, the number of the parameter's step, its position
in the optimizer and the role of the array, so that bits depend on neither threads nor layout, and go on the same
after a checkpoint. From step to step, the bits of an element are independent; within a step, those of any two
elements are so in pairs, over all strides, and the next one costs an addition. (With the same stride in all steps,
elements that are some way apart would be rounded alike for good. With the same bits for ``exp_avg`` and the root
of ``exp_avg_sq``, their errors would go together, and parameters would drift.)

**Rounding at random** takes a number up with the probability of how far it is on its way there: what is expected
is the number itself. With rounding to nearest, ``exp_avg_sq`` in bfloat16, which changes by a thousandth in a
step, would stop moving.

**State of 8 bits** lies in blocks of `SCALE_BLOCK` numbers, from the first element of each parameter on. Beside
each lies a scale, the largest size in the block divided by the largest code: 127 for ``exp_avg``, whose codes are
signed, and 255 for ``exp_avg_sq``, of which the *roots* are kept. None of them gets the code 0, as ``exp_avg / (0
+ eps)`` would explode; where all are zero, so is the scale. (Dettmers et al., "8-bit Optimizers via Block-wise
Quantization", ICLR 2022, arXiv:2110.02861, has blocks; the codes here are linear, and cheaper.) Where numbers of a
block are not finite, the sign of its scale is negative, its finite numbers have the codes below 127 and 254, and
those at the ends stand for infinity and NaN. The running maximum of amsgrad is rounded to nearest, with which it
stays what it is.

**Masters.** A float32 is the upper half of its bits, a bfloat16 rounded to nearest, and the signed 16 bits that
the two differ by. Beside a float16 lies all of the float32, which counts as long as it still rounds to the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fastadam.memory.formats import (
    BFLOAT16_STOCHASTIC,
    FLOAT16_STOCHASTIC,
    INT8,
    ROOT8,
    Format,
)
from fastadam.memory.structs import ROLES, SCALE_BLOCK

Function = Callable[..., Any]

# The odd whole number nearest to 2**64, divided by the golden ratio.
GOLDEN_64 = 0x9E3779B97F4A7C15
# In place of a number of 32 bits whose upper 16 are random: rounding to nearest.
MIDDLE = 0x80000000

# The largest codes; in blocks with numbers that are not finite, there are less.
MOST = {INT8: 127, ROOT8: 255}
MOST_MARKED = {INT8: 126, ROOT8: 253}
# The bits of 2**-100. A block with no number of this size becomes zero: its factor would be too large.
LEAST_SIZE = 0x0D800000
# The bits of infinity: those of larger sizes are NaNs.
INFINITE_BITS = 0x7F800000
# What codes stand for in blocks with numbers that are not finite.
NAN_CODE = {INT8: -128, ROOT8: 255}
INFINITE_CODE = {INT8: 127, ROOT8: 254}
# The formats that need random bits.
AT_RANDOM = (INT8, ROOT8, BFLOAT16_STOCHASTIC, FLOAT16_STOCHASTIC)


class Random(NamedTuple):
    """Where random bits come from.

    Attributes
    ----------
    key : callable
        ``key(seed, step)``: what those of a row come from in the 1-based step, 64 bits.
    sequence : callable
        ``sequence(key, position, role, first)``: where the sequence of an array of a parameter is at its element
        `first`, in the upper 32 bits, and its stride, in the lower ones; `role` is a number in
        `fastadam.memory.structs.ROLES`.
    """

    key: Function
    sequence: Function


def _as_it_is(function: Function) -> Function:
    return function


def make_random(uint64: Function, compiled: Function = _as_it_is) -> Random:
    """Return the functions that hash.

    Parameters
    ----------
    uint64 : callable
        Turns a whole number into an unsigned one of 64 bits, without those above.
    compiled : callable, optional
        Makes a function one that compiled functions can call.

    Notes
    -----
    The mixing is the finalizer of SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014.
    """

    @compiled
    def mix(x):
        x = uint64(uint64(x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9))
        x = uint64(uint64(x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB))
        return uint64(x ^ (x >> uint64(31)))

    def key(seed, step):
        return mix(uint64(mix(uint64(uint64(seed) + uint64(GOLDEN_64))) ^ uint64(step)))

    def sequence(key, position, role, first):
        number = uint64(uint64(uint64(position) * uint64(len(ROLES))) + uint64(role) + uint64(1))
        from_zero = uint64(mix(uint64(uint64(key) + uint64(number * uint64(GOLDEN_64)))) | uint64(1))
        steps = uint64(uint64(first) * uint64(from_zero & uint64(0xFFFFFFFF)))
        return uint64(from_zero + uint64(steps << uint64(32)))

    return Random(key, sequence)


random_key, random_sequence = make_random(lambda number: int(number) & 0xFFFFFFFFFFFFFFFF)


def make_narrow_bfloat16_stochastic(
    uint16: Function, uint32: Function, bits_of: Function, select: Function
) -> Function:
    """Return ``narrow(number, random)``: the bits of one of the two bfloat16 numbers beside a float32.

    Parameters
    ----------
    uint16, uint32, bits_of, select : callable
        See `fastadam.step.rounding.make_narrow_bfloat16`. `random` is a whole number of 16 bits.
    """

    def narrow_bfloat16_stochastic(number, random):
        rounded = uint32(uint32(bits_of(number) + uint32(random)) >> uint32(16))
        return uint16(select(number != number, uint32(0x7FC0), rounded))

    return narrow_bfloat16_stochastic


def make_narrow_float16_stochastic(
    uint16: Function,
    uint32: Function,
    float32: Function,
    float_of: Function,
    bits_of: Function,
    truncated: Function,
    select: Function,
) -> Function:
    """Return ``narrow(number, random)``: the bits of one of the two float16 numbers beside a float32.

    Below 2**-14 the result is a multiple of 2**-24, else 13 digits go. What would be 65536 or more is infinite.

    Parameters
    ----------
    uint16, uint32, float32, float_of, bits_of, select : callable
        See `fastadam.step.rounding.make_narrow_float16`. `random` is a whole number of 16 bits.
    truncated : callable
        Returns the whole part of a float32 that is not negative, as 32 bits.
    """

    def narrow_float16_stochastic(number, random):
        bits = bits_of(number)
        magnitude = uint32(bits & uint32(0x7FFFFFFF))
        below = float_of(select(magnitude < uint32(0x38800000), magnitude, uint32(0)))
        subnormal = uint32(uint32(truncated(below * float32(2.0**40)) + uint32(random)) >> uint32(16))
        more = uint32(uint32(random) >> uint32(3))
        normal = uint32(uint32(magnitude - uint32(0x38000000) + more) >> uint32(13))
        half = select(magnitude < uint32(0x38800000), subnormal, normal)
        half = select((magnitude >= uint32(0x47800000)) | (half > uint32(0x7C00)), uint32(0x7C00), half)
        half = select(magnitude > uint32(0x7F800000), uint32(0x7E00), half)  # NaN
        return uint16(((bits >> uint32(16)) & uint32(0x8000)) | half)

    return narrow_float16_stochastic


def make_part_master(
    uint16: Function, int16: Function, uint32: Function, bits_of: Function, select: Function
) -> Function:
    """Return ``part(number)``: the bits of the bfloat16 weight, and the rest of a float32.

    Parameters
    ----------
    uint16, uint32, bits_of, select : callable
        See `fastadam.step.rounding.make_narrow_bfloat16`.
    int16 : callable
        Turns 16 bits into the signed number that has them.
    """

    def part_master(number):
        bits = select(number != number, uint32(0x7FC00000), bits_of(number))
        weight = uint16(uint32(uint32(bits + uint32(0x8000)) >> uint32(16)))
        return weight, int16(uint16(uint32(bits & uint32(0xFFFF))))

    return part_master


def make_join_master(uint32: Function, int32: Function, float_of: Function, select: Function) -> Function:
    """Return ``join(weight, rest)``: the float32 of a bfloat16 weight's bits and the rest.

    Beside 0 and infinity there are rests that no number has: somebody else has written the weight then.

    Parameters
    ----------
    uint32, float_of, select : callable
        See `fastadam.step.rounding.make_widen_bfloat16`. `uint32` of a negative number has its bits.
    int32 : callable
        Widens a signed number of 16 bits.
    """

    def join_master(weight, rest):
        size, more = uint32(uint32(weight) & uint32(0x7FFF)), int32(rest)
        more = select((size == uint32(0)) & (more < int32(0)), int32(0), more)
        more = select((size == uint32(0x7F80)) & (more > int32(0)), int32(0), more)
        return float_of(uint32(uint32(uint32(weight) << uint32(16)) + uint32(more)))

    return join_master


def make_join_float16_master(narrow_float16: Function, widen_float16: Function, select: Function) -> Function:
    """Return ``join(weight, master)``: the master, unless somebody else has written the weight's bits.

    Parameters
    ----------
    narrow_float16, widen_float16 : callable
        See `fastadam.step.rounding`.
    select : callable
        ``select(condition, yes, no)``.
    """

    def join_float16_master(weight, master):
        return select(narrow_float16(master) == weight, master, widen_float16(weight))

    return join_float16_master


def count_blocks(n: int) -> int:
    """Return how many blocks so many numbers of a parameter take; the last one may be short."""
    return -(-n // SCALE_BLOCK)


def factor_of(most: int) -> float:
    """Return what a block's factor is, times its largest size: a bit less than 65536 times the largest code."""
    return float(most * 65536 - 4)


def make_encode(int32: Function, truncated: Function, select: Function, number_format: Format) -> Function:
    """Return ``encode(number, factor, random)``: the code of a finite number, or of a root.

    Parameters
    ----------
    int32 : callable
        Turns a whole number into a signed one of 32 bits.
    truncated : callable
        Returns the whole part of a float32 below 2**24 in size, towards zero, as one.
    select : callable
        ``select(condition, yes, no)``.
    number_format : Format
        `INT8` or `ROOT8`. `random` is a whole number of 16 bits.
    """

    def encode_int8(number, factor, random):
        return int32(truncated(number * factor) + int32(random)) >> int32(16)

    def encode_root8(root, factor, random):
        code = int32(truncated(root * factor) + int32(random)) >> int32(16)
        return select(code > int32(1), code, int32(1))

    return encode_int8 if number_format is INT8 else encode_root8


def make_special(int32: Function, float32: Function, select: Function, number_format: Format) -> Function:
    """Return ``special(number)``: the code of an infinite number or a NaN, or of such a root.

    Parameters
    ----------
    int32, select, number_format
        See `make_encode`.
    float32 : callable
        Turns a Python float into a float32.
    """
    zero = float32(0.0)
    infinite, nan = int32(INFINITE_CODE[number_format]), int32(NAN_CODE[number_format])
    negative = int32(-INFINITE_CODE[INT8])

    def special_int8(number):
        return select(number != number, nan, select(number > zero, infinite, negative))

    def special_root8(root):
        return select(root > zero, infinite, nan)

    return special_int8 if number_format is INT8 else special_root8


def make_scale(
    uint32: Function, float32: Function, float_of: Function, select: Function, number_format: Format
) -> Function:
    """Return ``scale(largest, marked)``: the scale of a block, and the factor that its numbers are multiplied by.

    Parameters
    ----------
    uint32, float32, float_of, select : callable
        See `fastadam.step.rounding.make_narrow_float16`.
    number_format : Format
        `INT8` or `ROOT8`. `largest` has the 32 bits of the largest finite size, and `marked` says whether there
        are numbers that are not finite.
    """
    least, none, zero = uint32(LEAST_SIZE), uint32(0), float32(0.0)
    most, most_marked = float32(float(MOST[number_format])), float32(float(MOST_MARKED[number_format]))
    top, top_marked = float32(factor_of(MOST[number_format])), float32(factor_of(MOST_MARKED[number_format]))

    def scale_and_factor(largest, marked):
        size = float_of(select(largest >= least, largest, none))
        factor = select(size > zero, select(marked, top_marked, top) / size, zero)
        scale = size / select(marked, most_marked, most)
        return select(marked, -scale, scale), factor

    return scale_and_factor


def make_decode(int32: Function, float32: Function, select: Function, number_format: Format) -> Function:
    """Return ``decode(code, size, marked)``: what a code stands for.

    Parameters
    ----------
    int32, select, number_format
        See `make_encode`.
    float32 : callable
        Turns a whole number or a Python float into a float32. `size` is that of the block's scale, and `marked`
        its sign: whether codes at the ends stand for infinity and NaN.
    """
    infinite, nan = int32(INFINITE_CODE[number_format]), int32(NAN_CODE[number_format])
    negative = int32(-INFINITE_CODE[INT8])
    infinity, minus_infinity, not_a_number = float32(math.inf), float32(-math.inf), float32(math.nan)

    def decode_int8(code, size, marked):
        number = float32(code) * size
        number = select(marked & (code == infinite), infinity, number)
        number = select(marked & (code == negative), minus_infinity, number)
        return select(marked & (code == nan), not_a_number, number)

    def decode_root8(code, size, marked):
        root = float32(code) * size
        number = select(marked & (code == infinite), infinity, root * root)
        return select(marked & (code == nan), not_a_number, number)

    return decode_int8 if number_format is INT8 else decode_root8
