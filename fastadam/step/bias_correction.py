"""``1 - beta**step`` in nothing but exactly specified operations, so that its bits are the same on every machine.

The logarithm of a C library, or of NumPy, has other last bits on other machines. So the one here is taken in whole
numbers, when options are set; the exponential function, which every step needs twice, is written in sums, products
and quotients of float64. cext/bias_correction.h holds the same operations, and Numba compiles these.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

PLACES = 160  # binary ones behind the point, for logarithms in whole numbers


class LogBeta(NamedTuple):
    """The logarithm of a decay rate as the sum of two numbers.

    Attributes
    ----------
    high : float
        Its first 26 bits, so that its product with as many bits of a step's number is exact.
    low : float
        The rest.
    """

    high: float
    low: float


# The first 40 bits of log(2), so that a product with a small whole number is exact, and the rest.
LOG_2_HIGH, LOG_2_LOW = 0.6931471805592082, 7.371002565167799e-13
# Of the power series of the exponential function, 1 / n!.
F3, F4, F5, F6, F7, F8 = 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0, 1.0 / 40320.0
F9, F10, F11 = 1.0 / 362880.0, 1.0 / 3628800.0, 1.0 / 39916800.0
F12, F13, F14 = 1.0 / 479001600.0, 1.0 / 6227020800.0, 1.0 / 87178291200.0

# Of a beta of 0. Its exponential is 0, as is that of minus infinity, with which there are no exact sums.
LOG_OF_ZERO = LogBeta(-1024.0, 0.0)


def _twice_artanh(numerator: int, denominator: int) -> int:
    """Return ``log((1 + x) / (1 - x))`` of a fraction x in [0, 1/3], in units of the last place, by its series."""
    power = (numerator << PLACES) // denominator
    square = power * power >> PLACES
    total, n = 0, 1
    while power:
        total += power // n
        power = power * square >> PLACES
        n += 2
    return 2 * total


_LOG_2 = _twice_artanh(1, 3)


@functools.lru_cache(maxsize=256)
def log_of(beta: float) -> LogBeta:
    """Return the logarithm of a decay rate in [0, 1), with an error below 2**-75 of it."""
    if not beta:
        return LOG_OF_ZERO
    numerator, denominator = beta.as_integer_ratio()
    # 1 / beta = 2**halvings * (denominator / numerator), the latter from 1 to 2.
    halvings = denominator.bit_length() - numerator.bit_length() - 1
    numerator <<= halvings
    found = halvings * _LOG_2 + _twice_artanh(denominator - numerator, denominator + numerator)
    rest = found.bit_length() - 26
    first = found >> rest << rest
    # The quotient of two whole numbers is rounded once.
    return LogBeta(-first / (1 << PLACES), (first - found) / (1 << PLACES))


def bias_correction(log_high: float, log_low: float, step: float) -> float:
    """Return ``1 - beta**step`` with an error below 1 ulp.

    Parameters
    ----------
    log_high, log_low : float
        `LogBeta` of a decay rate in [0, 1).
    step : float
        Steps taken, this one included; a whole number from 1 to 2**53.

    Returns
    -------
    float
        In (0, 1]; NaN where `step` is not a positive number.

    Notes
    -----
    ``beta**step = exp(x)`` with ``x = step * log(beta)``, which is kept as a sum of two numbers, ``x + x_low``:
    rounded to one, it would cost another ulp. Products of numbers of 26 bits are exact (Dekker, "A floating-point
    technique for extending the available precision", 1971). With ``z = x + halvings * log(2)``, at most half of
    log(2) in size, ``exp(x) = 2**-halvings * (1 + z + tail)``, and the tail is the power series from ``z**2 / 2``.
    """
    scaled = step * 134217729.0  # 2**27 + 1
    step_high = scaled - (scaled - step)
    step_low = step - step_high
    product = step_high * log_high
    lower = step_low * log_high
    total = product + lower
    rest = ((product - total) + lower) + step * log_low
    x = total + rest
    x_low = (total - x) + rest
    if x <= -40.0:  # where beta**step is below half an ulp of 1
        return 1.0
    if not x < 0.0:
        return math.nan
    halvings = int(x * -1.4426950408889634 + 0.5)
    near = x + halvings * LOG_2_HIGH
    carried = halvings * LOG_2_LOW + x_low
    z = near + carried
    z_low = (near - z) + carried
    square = z * z
    even = (((((F14 * square + F12) * square + F10) * square + F8) * square + F6) * square + F4) * square + 0.5
    odd = ((((F13 * square + F11) * square + F9) * square + F7) * square + F5) * square + F3
    tail = (even + z * odd) * square + (z * z_low + z_low)
    scale = 1.0 / (1 << halvings)
    kept, scaled_z = 1.0 - scale, scale * z
    found = kept - scaled_z
    return found + (((kept - found) - scaled_z) - scale * tail)
