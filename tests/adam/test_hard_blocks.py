"""Compact state where it is hard: what one rounding can do to the next step, and numbers that are not finite.

What is kept is compared with what would be kept without rounding, computed in float64 from what was kept before.
docs/guides/low-precision.md states the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.support.bits import assert_same_bits
from tests.support.compact import BLOCK, BY_NAME, Kept
from tests.support.strategies import EDGES, examples, seeds

LR, BETA1, BETA2, EPS = 0.125, 0.9, 0.999, 1e-8
FORMATS = {
    "int8": {"exp_avg": "int8", "exp_avg_sq": "root8"},
    "bfloat16": {"exp_avg": "bfloat16_stochastic", "exp_avg_sq": "bfloat16_stochastic"},
}
# Moments below these become zero: exp_avg in a block of such numbers, and exp_avg_sq, whose root this is.
LEAST, LEAST_ROOT = 2.0**-100, float(np.sqrt(np.finfo(np.float32).tiny))
ROUNDED = 1e-4  # what float32 may differ by from float64, relative to what is compared
# The most that a step can be, as a part of the learning rate, where exp_avg was zero before it.
MOST_AFTER_SILENCE = (1 - BETA1) / (1 - BETA2) ** 0.5
MOST_JUMP = 12.0  # times that of float32, after a silence

# What gradients are multiples of. The squares of the largest, times 1 - beta2, are finite.
SIZES = (0.0, 1e-42, 1e-30, 1e-20, 1e-12, 1e-8, 1e-4, 1e-2, 1.0, 1e3, 1e10, 1e19)
NOT_FINITE = (np.nan, np.inf, -np.inf)


Moments = tuple[np.ndarray, np.ndarray]


def adam(params: Any, state_dtype: Any, backend: str, **options: Any) -> fastadam.Adam:
    """Return an optimizer with the constants of this file."""
    return fastadam.Adam(params, LR, (BETA1, BETA2), EPS, state_dtype=state_dtype, backend=backend, **options)


def kept(optimizer: fastadam.Adam, state_dtype: str) -> Moments:
    """Return the moments of the first parameter, decoded, as float64."""
    entry = optimizer.state_dict()["state"][0]
    found = []
    for name, number_format in FORMATS[state_dtype].items():
        each = Kept(BY_NAME[number_format], entry[name].reshape(-1), entry.get(f"{name}_scale"))
        found.append(each.read().astype(np.float64))
    return found[0], found[1]


def load(optimizer: fastadam.Adam, moments: Moments) -> None:
    """Load plain moments of the first parameter, which has been stepped."""
    state = optimizer.state_dict()
    for name, numbers in zip(MOST, moments, strict=True):
        state["state"][0][name] = numbers.astype(np.float32)
        state["state"][0].pop(f"{name}_scale", None)
    optimizer.load_state_dict(state)


def moved(before: Moments, grad: np.ndarray) -> Moments:
    """Return the moments after a step from decoded ones, not rounded, but with what becomes zero or infinite."""
    with np.errstate(all="ignore"):
        grad = grad.astype(np.float64)
        exp_avg = BETA1 * before[0] + (1 - BETA1) * grad
        exp_avg_sq = BETA2 * before[1] + (1 - BETA2) * grad * grad
        return exp_avg, np.where(exp_avg_sq > np.finfo(np.float32).max, np.inf, exp_avg_sq)


def size_of_update(moments: Moments, grad: np.ndarray, step: int) -> np.ndarray:
    """Return how far such a step moves a parameter."""
    exp_avg, exp_avg_sq = moved(moments, grad)
    correction = (1 - BETA2**step) ** -0.5
    return LR / (1 - BETA1**step) * np.abs(exp_avg) / (np.sqrt(exp_avg_sq) * correction + EPS)


def largest(numbers: np.ndarray) -> np.ndarray:
    """Return, for each number, the largest in its block."""
    padded = np.pad(numbers, (0, -numbers.size % BLOCK)).reshape(-1, BLOCK)
    return np.repeat(padded.max(axis=1), BLOCK)[: numbers.size]


# The largest code, and the largest of a number in a block where codes stand for what is not finite.
MOST = {"exp_avg": (127, 126), "exp_avg_sq": (255, 253)}


def codes(numbers: np.ndarray, most: int, most_beside_others: int) -> np.ndarray:
    """Return, for each number, how much a code of its block is."""
    finite = np.isfinite(numbers)
    marked = largest(~finite)
    return largest(np.where(finite, np.abs(numbers), 0)) / np.where(marked, most_beside_others, most)


def assert_rounded(state_dtype: str, before: Moments, grad: np.ndarray, found: Moments) -> None:
    """Check moments as they are kept after a step from others."""
    exact = moved(before, grad)
    # What float32 may be off by where exp_avg and a gradient cancel.
    off = {
        "exp_avg": 1e-6 * (np.abs(before[0]) + np.abs(grad.astype(np.float64))),
        "exp_avg_sq": np.zeros(grad.size),
    }
    for name, wanted, got in zip(MOST, exact, found, strict=True):
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(got[~finite], wanted[~finite])
        assert np.isfinite(got[finite]).all()
        code = codes(wanted if name == "exp_avg" else np.sqrt(wanted), *MOST[name])[finite]
        wanted, got, slack = wanted[finite], got[finite], off[name][finite]
        if state_dtype == "bfloat16":  # one of the two neighbours, of 8 digits
            np.testing.assert_array_less(
                np.abs(got - wanted), 2.0**-7 * (1 + ROUNDED) * np.abs(wanted) + slack + 2e-38
            )
        elif name == "exp_avg":
            np.testing.assert_array_less(np.abs(got - wanted), code * (1 + ROUNDED) + slack + LEAST)
        else:
            root, found_root = np.sqrt(wanted), np.sqrt(got)
            np.testing.assert_array_less(found_root, (root + code) * (1 + ROUNDED) + 2 * LEAST_ROOT)
            has_code = code > LEAST_ROOT
            least = np.maximum(root / 2, code)[has_code] * (1 - ROUNDED)
            np.testing.assert_array_less(least, found_root[has_code])


@st.composite
def gradients(draw: st.DrawFn) -> list[np.ndarray]:
    """Draw some gradients of one parameter, whose blocks are hard in different ways."""
    size = draw(st.sampled_from([n for n in EDGES if n < 1000] + [127, 128, 129, 200]))
    rng = np.random.default_rng(draw(seeds))
    scales = np.zeros(size)
    for low in range(0, size, BLOCK):
        block = scales[low : low + BLOCK]
        kind = draw(st.sampled_from(["one size", "one huge", "mixed", "mostly zero"]))
        chosen = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4))
        block[:] = chosen[0]
        if kind == "mixed":
            block[:] = rng.choice(chosen, block.size)
        elif kind != "one size":
            if kind == "mostly zero":
                block[:] = 0
            block[draw(st.integers(0, block.size - 1))] = rng.choice(SIZES[6:])
    count = draw(st.integers(1, 6))
    found = []
    for _ in range(count):
        numbers = rng.standard_normal(size) * scales * (rng.random(size) < draw(st.sampled_from([1.0, 1.0, 0.3])))
        found.append(np.clip(numbers, -4e19, 4e19).astype(np.float32))
    return found


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@given(gradients(), st.integers(0, 5))
@examples(60)
def test_what_one_rounding_can_do(backend: str, state_dtype: str, grads: Sequence[np.ndarray], seed: int) -> None:
    """Moments move by less than a code, roots to no less than half; what follows for the next step is bounded."""
    param = np.zeros(grads[0].size, np.float32)
    optimizer = adam([param], state_dtype, backend, seed=seed)
    exact = before = (np.zeros(param.size), np.zeros(param.size))
    for step, grad in enumerate(grads, 1):
        old = param.astype(np.float64)
        optimizer.step([grad])
        jump = np.abs(param - old)
        # A float32 step from moments that were not rounded in the step before, and what rounding adds.
        usual = size_of_update(exact, grad, step)
        if state_dtype == "int8" and param.size:
            root = largest(np.sqrt(exact[1]))
            ratio = np.divide(largest(np.abs(exact[0])), root, out=np.zeros_like(root), where=root > 0)
            corrected = LR * (1 - BETA2**step) ** 0.5 / (1 - BETA1**step)
            most = 2 * usual + corrected * BETA1 / BETA2**0.5 * (255 / 127) * ratio
        else:
            most = 1.02 * usual + 0.02 * size_of_update(exact, np.zeros_like(grad), step)
        np.testing.assert_array_less(jump, most * (1 + ROUNDED) + 1e-6 * (LR + np.abs(old)))
        found = kept(optimizer, state_dtype)
        assert_rounded(state_dtype, before, grad, found)
        exact, before = moved(before, grad), found


@pytest.mark.parametrize("neighbours", ["active", "silent"])
@pytest.mark.parametrize("silence", [200, 1000])
def test_no_jump_after_a_long_silence(backend: str, neighbours: str, silence: int) -> None:
    """A step is at most what one of float32 can be then, and at most `MOST_JUMP` times what that one is."""
    rng = np.random.default_rng(silence)
    blocks, silent = 24, slice(32, None)
    scales = np.ones((blocks, BLOCK))
    scales[:, 1:32] = 10 ** rng.uniform(-4, 0, (blocks, 31))
    scales[:, silent] = 10 ** rng.uniform(-4, 0, (blocks, 1))
    own, usual = np.zeros((2, blocks * BLOCK), np.float32)
    compact, plain = adam([own], "int8", backend), adam([usual], None, backend)

    def step(factor: Any) -> tuple[np.ndarray, np.ndarray]:
        """Step both; return how far the elements that were silent have moved."""
        old, old_usual = own.copy(), usual.copy()
        numbers = rng.standard_normal((blocks, BLOCK)) * scales
        numbers[:, silent] *= factor
        if neighbours == "silent":
            numbers[:, :32] *= np.any(factor)
        for each in (compact, plain):
            each.step([numbers.astype(np.float32).reshape(-1)])
        jumps = (np.abs(each).reshape(blocks, BLOCK)[:, silent] for each in (own - old, usual - old_usual))
        return next(jumps), next(jumps)

    for _ in range(50):
        step(1.0)
    for _ in range(silence):
        step(0.0)
    exp_avg = kept(compact, "int8")[0].reshape(blocks, BLOCK)[:, silent]
    assert np.abs(exp_avg).max() <= (0 if neighbours == "active" else 1e-9)
    jump, usual_jump = step(10 ** rng.uniform(-3, 3, (blocks, BLOCK - 32)))
    assert jump.max() <= LR * MOST_AFTER_SILENCE * 1.001
    assert (jump / usual_jump).max() <= MOST_JUMP


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("number", NOT_FINITE, ids=str)
@given(st.integers(1, 200), st.data())
@examples(15)
def test_a_gradient_that_is_not_finite_stays_where_it_is(
    backend: str, state_dtype: str, number: float, size: int, data: st.DataObject
) -> None:
    where = data.draw(st.integers(0, size - 1))
    rng = np.random.default_rng(size)
    param, usual = np.ones((2, size), np.float32)
    optimizer, plain = adam([param], state_dtype, backend), adam([usual], None, backend)
    before = (np.zeros(size), np.zeros(size))
    others = np.arange(size) != where
    for step in range(4):
        grad = rng.standard_normal(size).astype(np.float32)
        if step == 1:
            grad[where] = number
        optimizer.step([grad])
        plain.step([grad])
        found = kept(optimizer, state_dtype)
        assert_rounded(state_dtype, before, grad, found)
        before = found
        assert np.isfinite(param[others]).all()
        np.testing.assert_array_equal(np.isfinite(param), np.isfinite(usual))
    assert np.isnan(param[where])


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@given(st.integers(1, 200), st.data())
@examples(40)
def test_a_loaded_moment_that_is_not_finite_stays_where_it_is(
    backend: str, state_dtype: str, size: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(size)
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3, unique=True))
    moments = rng.standard_normal(size), rng.random(size) + 0.1
    for place in places:
        moments[0][place] = data.draw(st.sampled_from([0.0, *NOT_FINITE]))
        moments[1][place] = data.draw(st.sampled_from([1.0, np.nan, np.inf]))
    param = np.zeros(size, np.float32)
    optimizer = adam([param], state_dtype, backend)
    optimizer.step([np.ones(size, np.float32)])
    load(optimizer, moments)
    before = kept(optimizer, state_dtype)
    for _ in range(3):
        grad = rng.standard_normal(size).astype(np.float32)
        optimizer.step([grad])
        found = kept(optimizer, state_dtype)
        assert_rounded(state_dtype, before, grad, found)
        before = found
    others = np.setdiff1d(np.arange(size), places)
    assert np.isfinite(param[others]).all()
    is_nan = np.isnan(moments[0]) | np.isnan(moments[1]) | (np.isinf(moments[0]) & np.isinf(moments[1]))
    np.testing.assert_array_equal(np.isnan(param), is_nan)


def test_a_square_that_overflows_is_infinite_and_moves_nothing(backend: str) -> None:
    """As in float32: `exp_avg` divided by infinity."""
    grad = np.ones(100, np.float32)
    grad[70] = 1e22
    param = np.zeros(100, np.float32)
    optimizer = adam([param], "int8", backend)
    optimizer.step([grad])
    exp_avg, exp_avg_sq = kept(optimizer, "int8")
    assert exp_avg_sq[70] == np.inf
    assert exp_avg[70] == pytest.approx(1e21, rel=1e-5)
    assert param[70] == 0
    assert np.isfinite(exp_avg_sq[np.arange(100) != 70]).all()
    assert (param[np.arange(100) != 70] < 0).all()


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("number", [0.0, 1e-45, -1e-40], ids=str)
def test_gradients_of_zero_and_denormal_ones_leave_all_as_it_is(
    backend: str, state_dtype: str, number: float
) -> None:
    param = np.linspace(-1, 1, 100, dtype=np.float32)
    old = param.copy()
    optimizer = adam([param], state_dtype, backend)
    for _ in range(3):
        optimizer.step([np.full(100, number, np.float32)])
    assert_same_bits(param, old)
    for moment in kept(optimizer, state_dtype):
        assert np.abs(moment).max() <= 1e-38 * (number != 0)


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("size", [0, 1])
def test_parameters_of_no_number_and_of_one(backend: str, state_dtype: str, size: int) -> None:
    """One number has a block of its own, whose largest it is, so that 8 bits are as exact as float32, nearly."""
    param, usual = np.ones((2, size), np.float32)
    optimizer, plain = adam([param], state_dtype, backend), adam([usual], None, backend)
    rng = np.random.default_rng(1)
    for _ in range(50):
        grad = rng.standard_normal(size).astype(np.float32)
        optimizer.step([grad])
        plain.step([grad])
    np.testing.assert_allclose(param, usual, rtol=0, atol=2 * LR * (0.02 if state_dtype == "bfloat16" else 1e-4))
    assert [each.shape for each in kept(optimizer, state_dtype)] == [(size,)] * 2


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
@given(st.integers(0, 3), st.integers(1, BLOCK - 1), st.integers(1, 100), seeds)
@examples(25)
def test_a_tail_changes_nothing_in_the_blocks_before_it(
    backend: str, state_dtype: str, blocks: int, tail: int, more: int, seed: int
) -> None:
    """What is in a block depends on nothing beyond it, and random bits count from the first element on."""
    rng = np.random.default_rng(seed)
    size = blocks * BLOCK + tail
    short, long = np.zeros(size, np.float32), np.zeros(size + more, np.float32)
    one, other = adam([short], state_dtype, backend), adam([long], state_dtype, backend)
    for _ in range(3):
        grad = rng.standard_normal(size + more).astype(np.float32)
        one.step([grad[:size].copy()])
        other.step([grad])
    whole = blocks * BLOCK if state_dtype == "int8" else size
    assert_same_bits(short[:whole], long[:whole])
    for mine, theirs in zip(kept(one, state_dtype), kept(other, state_dtype), strict=True):
        assert_same_bits(mine[:whole], theirs[:whole])


def test_not_a_number_in_one_parameter_does_not_reach_another(backend: str) -> None:
    """Blocks begin anew with each parameter, in packed ones too."""
    flat = fastadam.pack({"a": np.zeros(10, np.float32), "b": np.zeros(10, np.float32)})
    optimizer = adam(flat, "int8", backend)
    flat.grads["a"][...] = np.nan
    flat.grads["b"][...] = 1
    optimizer.step()
    assert np.isnan(flat.params["a"]).all()
    np.testing.assert_allclose(flat.params["b"], -LR, rtol=1e-4)
