"""The norm of gradients: its bits, its accuracy, and clipping by it."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.backends import c
from fastadam.memory.structs import BLOCK
from fastadam.step.norm import root_of, scale_of
from tests.conftest import AVAILABLE
from tests.support.norms import bits, gradients, norm_of
from tests.support.strategies import DTYPES, seeds

MOST_ULPS = 2.0


def exact(grads: list[Any]) -> Any:
    """Return the norm, from the sum of squares as a whole number."""
    reals = np.concatenate([part.ravel().astype(np.float64) for g in grads for part in (g.real, g.imag)])
    mantissas, exponents = np.frexp(reals)
    whole = (mantissas * 2.0**53).astype(np.int64).tolist()
    total = sum((m * m) << 2 * (e + 1200) for m, e in zip(whole, exponents.tolist(), strict=True))
    return mpmath.sqrt(mpmath.mpf(total)) * mpmath.mpf(2) ** -(1200 + 53)


def ulps(found: float, grads: list[Any]) -> float:
    """Return the distance from the exact norm, in units of the last place of the norm that was found."""
    with mpmath.workprec(5000):
        return float(abs(mpmath.mpf(found) - exact(grads)) / mpmath.mpf(math.ulp(found)))


@given(gradients())
def test_the_norm_is_within_two_ulps_of_exact(backend: str, grads: list[Any]) -> None:
    found = norm_of(grads, backend)
    assert ulps(found, grads) <= MOST_ULPS


@pytest.mark.parametrize(
    "grads",
    [
        [np.array([1.0] * 32 + [7e-9] * (BLOCK - 32), np.float32)],  # each of the small ones would be lost
        [np.array([1.0] * 16 + [7e-9] * (BLOCK - 16))],
        [np.full(100_003, 0.1)],  # rounding in the same direction over and over
        [np.full(100_003, 0.1, np.float32)],
        [np.array([1e-300, 1e-320, 5e-324])],
        [np.full(3000, 1e-170)],  # no square is a normal number
        [np.array([1e300, 1e300, 1e-300])],  # squares overflow
        [np.array([1e200]), np.array([1e-200]), np.array([1.0], np.float32)],
        [np.array([1e-45, 1e-40], np.float32)],
        [np.full(5000, 3e38, np.float32)],
        [np.array([5e-324])],
    ],
    ids=range(11),
)
def test_hard_sums_are_within_two_ulps_too(backend: str, grads: list[Any]) -> None:
    assert ulps(norm_of(grads, backend), grads) <= MOST_ULPS


@given(gradients())
def test_all_backends_give_the_same_bits(grads: list[Any]) -> None:
    assert len({bits(norm_of(grads, backend)) for backend in AVAILABLE}) == 1


@given(gradients())
def test_each_instruction_set_gives_the_same_bits(instruction_set: str, grads: list[Any]) -> None:
    assert c.instruction_set() == instruction_set
    assert bits(norm_of(grads, "c")) == bits(norm_of(grads, "numpy"))


@given(gradients(), st.randoms(use_true_random=False))
def test_the_order_of_gradients_does_not_matter(backend: str, grads: list[Any], random: Any) -> None:
    found = bits(norm_of(grads, backend))
    random.shuffle(grads)
    assert bits(norm_of(grads, backend)) == found


@given(gradients(), st.integers(2, 5))
def test_threads_give_the_same_bits(backend: str, small_shares: None, grads: list[Any], threads: int) -> None:
    assert bits(norm_of(grads, backend, threads)) == bits(norm_of(grads, backend, 1))


@given(seeds)
def test_a_gradient_can_be_cut_at_borders_of_blocks(backend: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grad = rng.standard_normal(5 * BLOCK + 11).astype(np.float32)
    at = BLOCK * int(rng.integers(1, 5))
    assert bits(norm_of([grad[at:], grad[:at]], backend)) == bits(norm_of([grad], backend))


@given(gradients())
def test_strides_do_not_matter(backend: str, grads: list[Any]) -> None:
    strided = [np.repeat(grad, 2)[::2] for grad in grads]
    assert bits(norm_of(strided, backend)) == bits(norm_of(grads, backend))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 40, 3 * BLOCK])
def test_what_is_not_finite(backend: str, dtype: Any, length: int) -> None:
    grad = np.ones(length, dtype)
    grad[length // 2] = np.inf
    assert norm_of([np.ones(3), grad], backend) == math.inf
    grad[-1] = np.nan
    assert math.isnan(norm_of([np.ones(3), grad], backend))
    assert norm_of([np.zeros(length, dtype)], backend) == 0
    assert norm_of([], backend) == 0


def test_a_norm_that_is_too_large_is_infinite_and_its_numbers_are_finite(backend: str) -> None:
    grads = [np.full(5000, 1.7e308)]
    assert norm_of(grads, backend) == math.inf
    before = grads[0].copy()
    fastadam.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
    assert (grads[0] == before * 0).all()


@given(st.integers(0, 2**400), st.integers(0, 3000))
def test_roots_of_totals(total: int, power: int) -> None:
    total <<= power
    with mpmath.workprec(5000):
        wanted = mpmath.sqrt(mpmath.mpf(total) * mpmath.mpf(2) ** -2304)
        found = root_of(total)
        assert abs(mpmath.mpf(found) - wanted) <= mpmath.mpf(math.ulp(found))


def test_the_factor_is_torchs() -> None:
    assert scale_of(2.0, 1.0) == 1.0 / (2.0 + 1e-6)
    assert scale_of(0.5, 1.0) == scale_of(math.inf, math.inf) == scale_of(0.0, 0.0 + 1e-5) == 1.0
    assert scale_of(math.inf, 1.0) == 0.0
    assert math.isnan(scale_of(math.nan, 1.0))


@given(gradients(), st.floats(0, 10))
def test_gradients_are_clipped_in_place(grads: list[Any], part: float) -> None:
    before = [grad.copy() for grad in grads]
    norm = norm_of(grads)
    max_norm = part * norm if math.isfinite(part * norm) else 1.0
    assert fastadam.clip_grad_norm(grads, max_norm) == norm
    factor = scale_of(norm, max_norm)
    for grad, old in zip(grads, before, strict=True):
        with np.errstate(all="ignore"):
            wanted = old * old.real.dtype.type(factor)
        assert grad.tobytes() == (wanted if factor != 1 else old).tobytes()


def test_every_form_of_gradients_can_be_clipped() -> None:
    a, b = np.array([3.0, 0.0]), np.array([[4.0]])
    for form in ([a, None, b], (a, b), {"a": a, "b": b}, iter([a, b]), {"a": a, "none": None, "b": b}):
        a[...], b[...] = [3.0, 0.0], 4.0
        assert fastadam.clip_grad_norm(form, 1.0) == 5.0
        np.testing.assert_allclose(np.concatenate([a, b[0]]), [0.6, 0, 0.8], rtol=1e-6)
    flat = fastadam.pack({"a": a, "b": b})
    flat.grads["a"][...], flat.grads["b"][...] = [3.0, 0.0], 4.0
    assert fastadam.clip_grad_norm(flat, 1.0) == 5.0
    np.testing.assert_allclose(flat.grad, [0.6, 0, 0.8], rtol=1e-6)
    assert fastadam.clip_grad_norm(np.array([3.0, 4.0]), math.inf) == 5.0


@pytest.mark.parametrize("max_norm", [-1.0, math.nan, "1", None, True, 1j])
def test_a_wrong_limit_is_refused(max_norm: Any) -> None:
    grad = np.full(2, 3.0)
    with pytest.raises((TypeError, ValueError), match="max_norm must be"):
        fastadam.clip_grad_norm([grad], max_norm)
    assert (grad == 3).all()


def test_wrong_gradients_are_refused_before_any_is_written() -> None:
    good, locked = np.full(2, 3.0), np.full(2, 3.0)
    locked.flags.writeable = False
    for bad, error, message in (
        ([3.0, 4.0], TypeError, r"grads\[1\]"),
        (locked, ValueError, r"grads\[1\] is read-only"),
        (np.array([1, 2]), TypeError, r"grads\[1\]"),
    ):
        with pytest.raises(error, match=message):
            fastadam.clip_grad_norm([good, bad], 1.0)
    for bad in ("ab", 3, None):
        with pytest.raises(TypeError, match="grads must be arrays"):
            fastadam.clip_grad_norm(bad, 1.0)
    assert (good == 3).all()


def test_gradients_that_are_not_finite_are_named() -> None:
    grads = {"fine": np.ones(2), "bad": np.array([np.nan]), "worse": np.array([np.inf], np.float32)}
    before = {name: grad.tobytes() for name, grad in grads.items()}
    with pytest.raises(
        RuntimeError, match=r"not finite: grads\['bad'\], grads\['worse'\]; with error_if_nonfinite"
    ):
        fastadam.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
    assert before == {name: grad.tobytes() for name, grad in grads.items()}
    assert math.isnan(fastadam.clip_grad_norm(grads, 1.0))
    assert all(np.isnan(grad).all() for grad in grads.values())


def test_clip_grad_norm_refuses_a_gradient_given_twice() -> None:
    grad = np.full(3, 2.0)
    with pytest.raises(ValueError, match=r"grads\[1\] is the same array as grads\[0\].*; give it once"):
        fastadam.clip_grad_norm([grad, grad], 1.0)
    assert (grad == 2.0).all()
