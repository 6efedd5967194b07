"""``1 - beta**step`` against exact arithmetic. Its bits on each backend are compared in test_plan.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import example, given

from fastadam.backends import c
from fastadam.step.bias_correction import bias_correction, log_of
from tests.support import strategies
from tests.support.oracle import exact_bias_correction
from tests.support.strategies import examples


def relative_error(actual: float, exact: mpmath.mpf) -> float:
    return float(abs(mpmath.mpf(actual) - exact) / abs(exact))


def ulps(actual: float, exact: mpmath.mpf) -> float:
    return float(abs(mpmath.mpf(actual) - exact) / mpmath.mpf(math.ulp(float(exact))))


@examples(100)
@given(strategies.betas.filter(bool), strategies.steps)
@example(1 - 1e-9, 1)
@example(1 - 1e-9, 10**9)
@example(1 - 2**-53, 1)
@example(1 - 2**-53, 2**53)
@example(0.9, 2**53)
@example(1e-300, 1)
@example(5e-324, 1)
def test_bias_correction_is_exact_to_an_ulp(beta: float, step: int) -> None:
    assert ulps(bias_correction(*log_of(beta), step), exact_bias_correction(beta, step)) < 1


def sweep() -> Iterator[tuple[float, int]]:
    """Yield betas of all magnitudes, and for each the steps at which the power of it has one as well."""
    betas = [1 - 2.0**-digits for digits in np.arange(0.25, 53, 0.75).tolist()] + [1 - 2**-53]
    betas += [10.0**-digits for digits in range(1, 301, 13)] + np.linspace(0.01, 0.99, 25).tolist()
    for beta in betas:
        rate = -float(mpmath.log(beta))
        powers = np.geomspace(rate, 45.0, 60) if rate < 45 else []
        steps = {1, 2, 3, *(max(1, min(2**53, round(power / rate))) for power in powers)}
        yield from ((beta, step) for step in sorted(steps))


def test_bias_correction_is_exact_to_an_ulp_in_a_dense_sweep() -> None:
    found = [
        (ulps(bias_correction(*log_of(beta), step), exact_bias_correction(beta, step)), beta, step)
        for beta, step in sweep()
    ]
    assert len(found) > 4000
    assert max(found)[0] < 1


@given(strategies.betas.filter(bool))
@example(1 - 2**-53)
@example(1e-300)
@example(5e-324)
@example(0.5)
def test_a_logarithm_has_75_bits_in_two_parts(beta: float) -> None:
    high, low = log_of(beta)
    assert relative_error(mpmath.mpf(high) + mpmath.mpf(low), mpmath.log(beta)) < 2**-75
    mantissa = math.frexp(high)[0] * 2**26
    assert mantissa == int(mantissa)
    assert abs(low) < 2**-25 * abs(high)


def test_bias_correction_without_decay_is_one() -> None:
    for step in (1, 2, 10**9, 2**53, 2**63 - 1):
        assert bias_correction(*log_of(0.0), step) == 1.0


@pytest.mark.parametrize("step", [0, -1, -(2**40), math.nan, -math.inf])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999])
def test_what_is_no_number_of_steps_gives_nan(step: float, beta: float) -> None:
    assert math.isnan(bias_correction(*log_of(beta), step))


def test_the_naive_formula_would_fail_that_bound() -> None:
    """The tests above are worth something: 1 - beta**step is wrong by orders of magnitude more."""
    assert relative_error(1 - (1 - 1e-9) ** 1, exact_bias_correction(1 - 1e-9, 1)) < 1e-15
    assert relative_error(1 - 0.999999999**7, exact_bias_correction(0.999999999, 7)) > 1e-9


@pytest.mark.skipif(c.lib is None, reason="the C extension is not available")
@pytest.mark.parametrize("name", [b"expm1", b"log", b"log1p", b"exp", b"pow"])
def test_the_extension_calls_no_such_function_of_the_c_library(name: bytes) -> None:
    """Their last bits are not the same everywhere. The names of symbols stand between zeros."""
    assert b"\0" + name + b"\0" not in Path(c._c.__file__).read_bytes()
