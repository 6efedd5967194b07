"""What a step does with each chunk of numbers in a variant, as a program of NumPy's ufuncs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastadam.backends.numpy.recording import FLOAT32, UINT16, UINT32, Constant, Program, Recorder, Value
from fastadam.memory.formats import BFLOAT16, Format
from fastadam.memory.structs import AVERAGE, ROLES
from fastadam.step.after import make_average
from fastadam.step.coefficients import Row
from fastadam.step.element import make_element
from fastadam.step.rounding import keep, make_maximum, make_narrow_bfloat16, make_widen_bfloat16
from fastadam.step.variants import variant_of

FLOAT64 = np.dtype(np.float64)


def _uint32(number: Value | int) -> Value | Constant:
    return number.converted(UINT32) if isinstance(number, Value) else Constant(np.array(number, UINT32))


def _uint16(number: Value) -> Value:
    return number.converted(UINT16)


def _float_of(bits: Value) -> Value:
    return bits.seen_as(FLOAT32)


def _bits_of(number: Value) -> Value:
    return number.seen_as(UINT32)


def _widen(stored: Value, number_format: Format) -> Value:
    """Return a number in the dtype that is computed in."""
    if number_format is BFLOAT16:
        found: Value = make_widen_bfloat16(_uint32, _float_of)(stored)
        return found
    return stored.converted(number_format.compute)


def _narrow(computed: Value, number_format: Format) -> Value:
    """Return a number as it lies in memory."""
    if number_format is BFLOAT16:
        found: Value = make_narrow_bfloat16(_uint16, _uint32, _bits_of, computed.recorder.select)(computed)
        return found
    return computed.converted(number_format.stored)


def _flush(number: Value, tiny: Value) -> Value:
    """Return zero where a number is smaller in size than `tiny`: its bits times 0 or 1, which is quick.

    Seen as whole numbers, the sizes of numbers are in the same order, and NaNs are the largest ones.
    """
    word = np.dtype(f"u{number.dtype.itemsize}")
    bits, sign = number.seen_as(word), Constant(word.type(1 << (8 * word.itemsize - 1)))
    size = bits & Constant(~sign.value)
    kept = size >= tiny.seen_as(word)
    return (bits * kept.converted(word)).seen_as(number.dtype)


@functools.cache
def roots_are_exact() -> bool:
    """Return whether NumPy rounds the roots of float32 numbers correctly; on ARM with 32 bits, it does not."""
    numbers = np.arange(1, 1025, dtype=FLOAT32)
    return bool((np.sqrt(numbers) == np.sqrt(numbers.astype(FLOAT64)).astype(FLOAT32)).all())


def _root(recorder: Recorder) -> Callable[[Value], Value]:
    """Return the square root; the way through float64, which has twice the digits, rounds correctly, too."""
    root = recorder.operation(np.sqrt)
    if roots_are_exact():
        return root
    return lambda number: root(number.converted(FLOAT64)).converted(number.dtype)


@functools.cache
def average_of(number: int, begins: bool) -> Program:
    """Return what moves the averages of a chunk in a variant, some of which may begin.

    Its arrays are `AVERAGE` and ``"param"``.
    """
    number_format, recorder = variant_of(number).formats[0], Recorder()
    param = _widen(recorder.take_in("array", ROLES[0], number_format.stored), number_format)
    ema = recorder.take_in("array", AVERAGE, number_format.compute)
    weight = recorder.take_in("scalar", AVERAGE, number_format.compute)
    add, sub, mul = map(recorder.operation, (np.add, np.subtract, np.multiply))
    moved = make_average(add, sub, mul)(ema, param, weight)
    if begins:
        stays = weight >= Constant(number_format.compute.type(1))
        moved = recorder.select(stays, param, moved)
    return Program(recorder, {AVERAGE: moved})


@functools.cache
def program_of(number: int, flushes: bool) -> Program:
    """Return what steps a chunk in a variant (see `fastadam.step.variants`), and may set small moments to zero.

    Its arrays have the names of `ROLES`; the running maximum is among them with amsgrad only.
    """
    variant = variant_of(number)
    recorder = Recorder()
    mul, add, sub, div = map(recorder.operation, (np.multiply, np.add, np.subtract, np.divide))
    maximum = make_maximum(recorder.select)
    flags = {"l2_on": variant.l2_on, "decoupled_on": variant.decoupled_on, "amsgrad_on": variant.amsgrad_on}
    element = make_element(mul, add, sub, div, _root(recorder), maximum, _flush if flushes else keep, **flags)
    roles = ROLES if variant.amsgrad_on else ROLES[:-1]
    formats = dict(zip(roles, variant.formats, strict=False))
    old = [_widen(recorder.take_in("array", role, formats[role].stored), formats[role]) for role in roles]
    row = Row._make(recorder.take_in("scalar", name, variant.compute) for name in Row._fields)
    new = element(*old, *[None] * (len(ROLES) - len(old)), row)
    written = [role for role in roles if role != "grad"]
    return Program(
        recorder, {role: _narrow(value, formats[role]) for role, value in zip(written, new, strict=False)}
    )
