"""What a step does with each chunk of numbers in a variant, as a program of NumPy's ufuncs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from fastadam.backends.numpy.codecs import Storing, load
from fastadam.backends.numpy.recording import FLOAT32, Constant, Program, Recorder, Value
from fastadam.memory.structs import AVERAGE, ROLES
from fastadam.step.after import make_average
from fastadam.step.coefficients import Row
from fastadam.step.element import make_element
from fastadam.step.rounding import keep, make_maximum
from fastadam.step.variants import variant_of

FLOAT64 = np.dtype(np.float64)


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

    Its arrays are `AVERAGE` and ``"param"``, with that of masters where there are any.
    """
    variant, recorder = variant_of(number), Recorder()
    param = load(recorder, ROLES[0], variant.formats[0], variant.compute)
    ema = recorder.take_in("array", AVERAGE, variant.compute)
    weight = recorder.take_in("scalar", AVERAGE, variant.compute)
    add, sub, mul = map(recorder.operation, (np.add, np.subtract, np.multiply))
    moved = make_average(add, sub, mul)(ema, param, weight)
    if begins:
        stays = weight >= Constant(variant.compute.type(1))
        moved = recorder.select(stays, param, moved)
    return Program(recorder, {AVERAGE: moved})


@functools.cache
def program_of(number: int, flushes: bool) -> Program:
    """Return what steps a chunk in a variant (see `fastadam.step.variants`), and may set small moments to zero.

    Its arrays have the names of `ROLES`; the running maximum is among them with amsgrad only. Beside them are
    those that their formats need.
    """
    variant = variant_of(number)
    recorder = Recorder()
    mul, add, sub, div = map(recorder.operation, (np.multiply, np.add, np.subtract, np.divide))
    maximum = make_maximum(recorder.select)
    flags = {"l2_on": variant.l2_on, "decoupled_on": variant.decoupled_on, "amsgrad_on": variant.amsgrad_on}
    element = make_element(mul, add, sub, div, _root(recorder), maximum, _flush if flushes else keep, **flags)
    roles = ROLES if variant.amsgrad_on else ROLES[:-1]
    formats = dict(zip(roles, variant.formats, strict=False))
    old = [load(recorder, role, formats[role], variant.compute) for role in roles]
    row = Row._make(recorder.take_in("scalar", name, variant.compute) for name in Row._fields)
    new = element(*old, *[None] * (len(ROLES) - len(old)), row)
    storing, written = Storing(recorder, _root(recorder)), [role for role in roles if role != "grad"]
    results: dict[str, Value] = {}
    for role, value in zip(written, new, strict=False):
        results.update(storing.store(role, value, formats[role]))
    return Program(recorder, results)
