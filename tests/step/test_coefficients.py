"""The host-side scalars against exact arithmetic."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastadam.memory.structs import ROW, Constant, Varying
from fastadam.step import hyperparameters
from fastadam.step.coefficients import Coefficients, Row, varying
from tests.support import strategies
from tests.support.oracle import exact_bias_correction


def coefficients(step: int, **options: object) -> dict[str, float]:
    hyper = hyperparameters.check({**hyperparameters.DEFAULTS._asdict(), **options})
    made = Coefficients(hyper)
    rates = made.rates
    if made.lr_at is not None:
        assert math.isnan(rates.lr)
        rates = rates._replace(lr=made.lr_at(step))
    return {**varying(rates, step)._asdict(), **made.constant._asdict()}


def relative_error(actual: float, exact: mpmath.mpf) -> float:
    return float(abs(mpmath.mpf(actual) - exact) / abs(exact))


@given(strategies.betas, strategies.betas, strategies.steps, st.floats(0, 10), st.floats(0, 1))
def test_coefficients_agree_with_their_definitions(
    beta1: float, beta2: float, step: int, lr: float, weight_decay: float
) -> None:
    c = coefficients(step, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, eps=1e-6)
    if lr > 1e-300:
        assert relative_error(c["step_size"], lr / exact_bias_correction(beta1, step)) <= 5 * 2**-53
    exact = 1 / mpmath.sqrt(exact_bias_correction(beta2, step))
    assert relative_error(c["inv_sqrt_bias_correction2"], exact) <= 5 * 2**-53
    assert (c["beta1"], c["beta2"], c["eps"]) == (beta1, beta2, 1e-6)
    assert (c["one_minus_beta1"], c["one_minus_beta2"]) == (1 - beta1, 1 - beta2)
    assert (c["l2"], c["decay_rate"], c["grad_scale"]) == (weight_decay, 0.0, 1.0)
    assert c["tiny"] == (step % 8 == 0)


def test_decoupled_decay_and_maximize() -> None:
    c = coefficients(3, lr=0.1, weight_decay=0.2, decoupled_weight_decay=True, maximize=True)
    assert (c["l2"], c["decay_rate"], c["grad_scale"]) == (0.0, 0.1 * 0.2, -1.0)


@pytest.mark.parametrize(("eps", "tiny"), [(1e-8, 1.0), (2.0**-51, 1.0), (2.0**-52, 0.0), (0.0, 0.0)])
def test_small_moments_become_zero_where_eps_outweighs_them(eps: float, tiny: float) -> None:
    for step in (8, 16, 2**53):
        assert coefficients(step, eps=eps)["tiny"] == tiny
        assert coefficients(step - 1, eps=eps)["tiny"] == 0


def test_a_schedule_is_called_with_the_step_number() -> None:
    c = coefficients(
        7, lr=lambda step: step / 100, betas=(0.0, 0.0), weight_decay=0.5, decoupled_weight_decay=True
    )
    assert c["step_size"] == 0.07
    assert c["decay_rate"] == 0.07 * 0.5


@pytest.mark.parametrize("value", [np.float32(0.25), np.array(0.25), 0.25, 1])
def test_a_schedule_may_return_any_real_scalar(value: object) -> None:
    assert coefficients(1, lr=lambda _: value, betas=(0.0, 0.0))["step_size"] == float(value)  # type: ignore[arg-type]


def test_a_row_has_the_documented_fields() -> None:
    assert ROW.dtype.names == Row._fields == Varying._fields + Constant._fields
    assert ROW.dtype.itemsize == 8 * len(Row._fields)
