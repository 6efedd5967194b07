"""Exact sums of squares: the same from NumPy, from C and from fractions, however numbers are shared out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastadam.backends import c
from fastadam.memory.structs import TOTAL_LOWEST
from fastadam.step import exact
from fastadam.step.totals import WORD_BITS
from tests.support.strategies import examples

DTYPES = (np.float32, np.float64)


def by_numpy(total: np.ndarray, numbers: np.ndarray) -> None:
    exact.add_squares(total, numbers)


def by_c(total: np.ndarray, numbers: np.ndarray) -> None:
    if reason := c.why_missing():
        pytest.skip(f"c: {reason}")
    where, what = (
        c.ffi.cast(*each) for each in (("fastadam_total *", total.ctypes.data), ("void *", numbers.ctypes.data))
    )
    c.lib.fastadam_add_squares(where, what, numbers.size, numbers.dtype == np.float64)


def value(total: np.ndarray) -> Fraction:
    words = total["words"][0].tolist()
    return sum(word << WORD_BITS * k for k, word in enumerate(words)) * Fraction(2) ** TOTAL_LOWEST


def squares(numbers: np.ndarray) -> Fraction:
    return sum((Fraction(float(each)) ** 2 for each in numbers), Fraction(0))


numbers_of_any_size = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.integers(0, 40),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=8 * np.dtype(dtype).itemsize),
    )
)


@pytest.mark.parametrize("add", [by_numpy, by_c])
@examples(60)
@given(numbers=numbers_of_any_size, cut=st.integers(0, 40))
def test_nothing_is_rounded_wherever_numbers_are_cut(add: Any, numbers: np.ndarray, cut: int) -> None:
    total = exact.new_total()
    for part in (numbers[:cut], numbers[cut:]):
        add(total, np.ascontiguousarray(part))
    assert value(total) == squares(numbers)
    assert not total["is_nan"][0]
    assert not total["is_infinite"][0]


@pytest.mark.parametrize("add", [by_numpy, by_c])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bins_do_not_overflow(add: Any, dtype: Any) -> None:
    """Where all numbers have the largest mantissa and the same exponent, more often than a bin takes them."""
    one = np.nextafter(dtype(2), dtype(0))
    numbers = np.full(70_001, one)
    total = exact.new_total()
    add(total, numbers)
    assert value(total) == Fraction(float(one)) ** 2 * numbers.size
    for extreme in (np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal):
        total = exact.new_total()
        add(total, np.full(5000, extreme, dtype))
        assert value(total) == Fraction(float(extreme)) ** 2 * 5000


@pytest.mark.parametrize("add", [by_numpy, by_c])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("special", "is_nan"), [(np.inf, 0), (-np.inf, 0), (np.nan, 1), (-np.nan, 1)])
@pytest.mark.parametrize("at", [0, 6, 40_000])
def test_what_is_not_finite_is_noted(add: Any, dtype: Any, special: float, is_nan: int, at: int) -> None:
    numbers = np.ones(40_001, dtype)
    numbers[at] = special
    total = exact.new_total()
    add(total, numbers)
    assert (int(total["is_nan"][0]), int(total["is_infinite"][0])) == (is_nan, 1 - is_nan)
