"""Weights of 16 bits with exact masters: the float32 run, bit for bit, with weights that are it, rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.support.halves import BFLOAT16, DECAYS, FLOAT16, FLOAT32, HALVES, MIXED, assert_same, bits, numbers
from tests.support.strategies import examples, options, seeds, shapes

SHAPES = [(70,), (3, 3), (), (0,), (1100,)]
STATE_DTYPES = [None, "float32", "int8", "bfloat16"]


def master_of(optimizer: fastadam.Adam, param: np.ndarray, position: int) -> np.ndarray:
    """Return the float32 that a weight and what lies beside it stand for."""
    group, index = optimizer._groups.where[position]
    beside = group.moment("master_param", index)
    if param.dtype == FLOAT16:
        return beside.copy()
    assert beside.dtype == np.int16
    return ((param.view(np.uint16).astype(np.int64) << 16) + beside).astype(np.uint32).view(np.float32)


def rounded(master: np.ndarray, dtype: Any) -> np.ndarray:
    """Return masters rounded to nearest: to bfloat16, halves away from zero."""
    if dtype == FLOAT16:
        with np.errstate(over="ignore"):
            return master.astype(np.float16)
    return ((bits(master).astype(np.int64) + 0x8000) >> 16).astype(np.uint16).view(dtype)


def assert_masters(optimizer: fastadam.Adam, params: list[Any], expected: list[Any]) -> None:
    """Fail unless the masters of `params` are the `expected` float32 weights, and the weights these, rounded."""
    for i, (param, each) in enumerate(zip(params, expected, strict=True)):
        assert_same(master_of(optimizer, param, i), each, f"master {i}")
        assert_same(param, rounded(each, param.dtype), f"weight {i}")


def pair(dtype: Any, backend: str, state_dtype: Any = None, seed: int = 0, **choices: Any) -> Any:
    """Return weights and their optimizer with masters, and the same in float32."""
    params = numbers(SHAPES, dtype, seed)
    wide = [param.astype(np.float32) for param in params]
    one = fastadam.Adam(params, master_weights=True, state_dtype=state_dtype, backend=backend, **choices)
    other = fastadam.Adam(wide, state_dtype=state_dtype, backend=backend, **choices)
    return params, one, wide, other


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("state_dtype", STATE_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_masters_are_the_float32_run(backend: str, dtype: Any, state_dtype: Any, decay: str) -> None:
    params, one, wide, other = pair(dtype, backend, state_dtype, lr=0.003, **DECAYS[decay])
    for step in range(1000 if backend == "c" else 20):
        grads = numbers(SHAPES, MIXED[step % 3], step, 0.1 + step % 7)
        for optimizer in (one, other):
            optimizer.step(grads)
    assert_masters(one, params, wide)
    assert {"exp_avg", "exp_avg_sq", "master_param"} <= set(one.state[0])
    for i in one.state:
        for name in set(other.state[i]) - {"step"}:
            assert_same(one.state[i][name], other.state[i][name], f"{name} of {i}")


@given(data=st.data(), choices=options(), seed=seeds)
@examples(30)
def test_in_any_layout_with_any_gradients(
    data: st.DataObject, choices: dict[str, Any], seed: int, backend: str
) -> None:
    each = data.draw(st.lists(shapes, min_size=1, max_size=4))
    dtype, state_dtype = data.draw(st.sampled_from(HALVES)), data.draw(st.sampled_from(STATE_DTYPES))
    params = numbers(each, dtype, seed)
    wide = [param.astype(np.float32) for param in params]
    limit = data.draw(st.sampled_from([None, 0.1]))
    how: dict[str, Any] = dict(max_grad_norm=limit, state_dtype=state_dtype, backend=backend, **choices)
    flat = fastadam.pack(params) if data.draw(st.booleans()) else None
    one = fastadam.Adam(params if flat is None else flat, master_weights=True, **how)
    other = fastadam.Adam(wide, **how)
    for step in range(4):
        grads: list[Any] = [
            grad if data.draw(st.integers(0, 3)) else None
            for grad in numbers(each, data.draw(st.sampled_from(MIXED)), seed + step)
        ]
        for optimizer in (one, other):
            optimizer.step(grads)
    for i in one.state:
        weight = params[i] if flat is None else np.asarray(flat.params[i])
        assert_same(master_of(one, weight, i), wide[i], f"master {i}")
        assert_same(weight, rounded(wide[i], dtype), f"weight {i}")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_users_write_is_taken_up(backend: str, dtype: Any) -> None:
    """With no step size, a step leaves a weight as it was written, and its master near it."""
    written = np.array([0, np.inf, -np.inf, np.nan, 1.5, -3.0, 6e4, 1e-7, 0.1], np.float32).astype(dtype)
    param = numbers([written.shape], dtype, 1)[0]
    optimizer = fastadam.Adam(param, lr=0.01, master_weights=True, backend=backend)
    for step in range(20):
        optimizer.step(numbers([written.shape], FLOAT32, step)[0])
    assert np.any(master_of(optimizer, param, 0) != param.astype(np.float32))
    param[...] = written
    optimizer.lr = 0.0
    optimizer.step(np.ones(written.shape, FLOAT32))
    master = master_of(optimizer, param, 0)
    assert_same(param, written)
    finite = np.isfinite(written.astype(np.float32))
    half_a_digit = 2.0**-8 if dtype == BFLOAT16 else 0  # which the rest of an old weight adds
    np.testing.assert_allclose(master[finite], written[finite].astype(np.float32), rtol=half_a_digit, atol=1e-38)
    # An infinite bfloat16 is what the largest float32 numbers are rounded to, and they have negative rests, too.
    largest = 3.38e38 if dtype == BFLOAT16 else np.inf
    assert master[1] >= largest
    assert master[2] <= -largest
    assert np.isnan(master[3])
    optimizer.lr = 0.01
    optimizer.step(np.ones(written.shape, FLOAT32))
    assert (master_of(optimizer, param, 0)[finite] != master[finite]).all()  # goes on from what was written
    assert (np.isfinite(param.astype(np.float32)) == finite).all()


def test_a_small_step_is_not_lost(backend: str) -> None:
    param = np.ones(3, BFLOAT16)
    optimizer = fastadam.Adam(param, lr=1e-4, master_weights=True, backend=backend)
    for _ in range(100):
        optimizer.step(np.ones(3, BFLOAT16))
    assert float(param[0]) == pytest.approx(0.99, abs=0.004)
    lost = np.ones(3, BFLOAT16)
    optimizer = fastadam.Adam(lost, lr=1e-4, backend=backend)
    for _ in range(100):
        optimizer.step(np.ones(3, BFLOAT16))
    assert float(lost[0]) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("choice", [{"master_weights": True}, {"rounding": "stochastic"}], ids=str)
def test_others_are_their_own_masters(backend: str, choice: dict[str, Any], dtype: Any) -> None:
    one, other = (np.linspace(-1, 1, 70).astype(dtype) for _ in range(2))
    with_it = fastadam.Adam(one, backend=backend, **choice)
    without = fastadam.Adam(other, backend=backend)
    for seed in range(3):
        grad = np.random.default_rng(seed).standard_normal(70).astype(dtype)
        with_it.step(grad)
        without.step(grad)
    assert_same(one.view(one.real.dtype), other.view(one.real.dtype))
    assert set(with_it.state[0]) == {"step", "exp_avg", "exp_avg_sq"}
