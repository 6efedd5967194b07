"""Numbers of 16 bits, in NumPy: all widen to their value, and narrowing rounds right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.eager import narrow, widen
from tests.support.plans import HALVES


def decode(bits: int, exponent_bits: int, mantissa_bits: int) -> float:
    """Return the value of a number by the definition of its format."""
    sign = -1.0 if bits >> (exponent_bits + mantissa_bits) else 1.0
    exponent = bits >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = bits & (1 << mantissa_bits) - 1
    bias = (1 << exponent_bits - 1) - 1
    if exponent == (1 << exponent_bits) - 1:
        return sign * np.inf if not mantissa else np.nan
    if exponent == 0:
        return sign * float(mantissa) * 2.0 ** (1 - bias - mantissa_bits)
    return sign * float((1 << mantissa_bits) + mantissa) * 2.0 ** (exponent - bias - mantissa_bits)


PARAMETERS = {"bfloat16": (8, 7), "float16": (5, 10)}


@pytest.mark.parametrize("number_format", HALVES, ids=[each.name for each in HALVES])
def test_all_halves_widen_to_their_value(number_format: Any) -> None:
    everything = np.arange(2**16, dtype=np.uint16)
    expected = np.array([decode(int(bits), *PARAMETERS[number_format.name]) for bits in everything], np.float64)
    widened = widen(everything.view(number_format.stored), number_format)
    assert widened.dtype == np.float32
    with np.errstate(invalid="ignore"):  # signalling NaNs
        np.testing.assert_array_equal(widened.astype(np.float64), expected)
    signs = np.signbit(widened)[~np.isnan(expected)]
    np.testing.assert_array_equal(signs, np.signbit(expected)[~np.isnan(expected)])


@pytest.mark.parametrize("number_format", HALVES, ids=[each.name for each in HALVES])
def test_narrowing_takes_the_nearest_and_in_a_tie_the_even_one(number_format: Any) -> None:
    finite = [
        bits for bits in range(2**15) if np.isfinite(decode(bits, *PARAMETERS[number_format.name]))
    ]  # the positive ones, in rising order
    values = np.array([decode(bits, *PARAMETERS[number_format.name]) for bits in finite])
    middles = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    assert np.array_equal(middles.astype(np.float64), (values[:-1] + values[1:]) / 2)  # float32 holds them
    even = np.array([low if low % 2 == 0 else low + 1 for low in finite[:-1]], np.uint16)
    for sign, bit in ((1, 0), (-1, 0x8000)):
        np.testing.assert_array_equal(narrow(sign * middles, number_format).view(np.uint16), even | bit)
        below = np.nextafter(middles, np.float32(0))
        np.testing.assert_array_equal(
            narrow(sign * below, number_format).view(np.uint16), np.array(finite[:-1]) | bit
        )
        above = np.nextafter(middles, np.float32(np.inf))
        np.testing.assert_array_equal(
            narrow(sign * above, number_format).view(np.uint16), np.array(finite[1:]) | bit
        )
    largest = values[-1]
    overflow = np.float32(largest + (values[-1] - values[-2]) / 2)  # halfway to what would come next
    infinity = (1 << PARAMETERS[number_format.name][0]) - 1 << PARAMETERS[number_format.name][1]
    with np.errstate(over="ignore"):
        ends = narrow(
            np.array([overflow, np.nextafter(overflow, np.float32(0)), np.inf], np.float32), number_format
        )
        assert ends.view(np.uint16).tolist() == [infinity, finite[-1], infinity]
        assert np.isnan(widen(narrow(np.array([np.nan], np.float32), number_format), number_format)).all()
