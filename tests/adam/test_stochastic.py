"""Weights of 16 bits that are rounded at random: without bias, and with the same bits wherever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.support.halves import BFLOAT16, DECAYS, FLOAT16, FLOAT32, HALVES, MIXED, Rounded, assert_same, numbers
from tests.support.strategies import examples, seeds, shapes

SHAPES = [(70,), (3, 3), (), (0,), (9001,)]
# Where statistics are taken; the others give the same bits.
BACKENDS = ["c"]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_step_is_that_of_float32_rounded_at_random(backend: str, dtype: Any, decay: str) -> None:
    params = numbers(SHAPES, dtype, 0)
    choices: dict[str, Any] = {"lr": 0.003, "state_dtype": "float32", **DECAYS[decay]}
    expected = Rounded(params, FLOAT32, "stochastic", 7, **choices)
    optimizer = fastadam.Adam(params, rounding="stochastic", seed=7, backend=backend, **choices)
    for seed in range(6):
        grads: list[Any] = numbers(SHAPES, MIXED[seed % 3], seed)
        grads[1] = grads[1] if seed % 2 else None  # so that counters differ
        optimizer.step(grads)
        expected.step(grads)
    for i, (param, other) in enumerate(zip(params, expected.weights(), strict=True)):
        assert_same(param, other, f"parameter {i}")


# What a weight of 1 in bfloat16 moves by in a step of this size is this part of its last digit (2**-8 below 1).
RATE = 2.0**-12


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_without_bias(backend: str, dtype: Any) -> None:
    """The mean of weights is that of float32, and their spread a binomial walk's, within five errors of each.

    They are parameters of their own, whose random bits have nothing to do with each other, and one large one: in
    that the mean is at least as near.
    """
    n, steps = 2000, 400
    part = 1 if dtype == BFLOAT16 else 8  # float16 has three digits more
    params = [*np.ones((n, 1), dtype), np.ones(n, dtype)]
    wide = np.ones(1, np.float32)
    how: dict[str, Any] = {"lr": RATE / part, "state_dtype": "float32", "backend": backend}
    optimizer = fastadam.Adam(params, rounding="stochastic", **how)
    expected = fastadam.Adam(wide, **how)
    grads = [np.ones(param.shape, dtype) for param in params]
    for _ in range(steps):
        optimizer.step(grads)
        expected.step(np.ones(1, FLOAT32))
    assert wide[0] == pytest.approx(1 - steps * RATE / part, rel=1e-4)
    # In each step a weight goes by a whole digit of 2**-8 with a probability of a 16th.
    deviation = 2.0**-8 / part * np.sqrt(steps / 16 * 15 / 16)
    alone, together = np.concatenate(params[:-1]).astype(np.float64), params[-1].astype(np.float64)
    for found in (alone, together):
        assert abs(found.mean() - wide[0]) < 5 * deviation / np.sqrt(n)
    assert alone.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * n))
    nearest = np.ones(1, dtype)
    fastadam.Adam(nearest, **how).step(np.ones(1, dtype))
    assert nearest == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_are_independent_from_step_to_step(backend: str) -> None:
    """Correlations between the moves of one step and of another are those of chance, within five errors."""
    n, steps = 3000, 12
    params = [*np.ones((n, 1), BFLOAT16)]
    optimizer = fastadam.Adam(params, lr=2.0**-9, rounding="stochastic", state_dtype="float32", backend=backend)
    moves = []
    for _ in range(steps):
        before = np.concatenate(params).astype(np.float64)
        optimizer.step([np.ones(1, BFLOAT16)] * n)
        moves.append(before - np.concatenate(params).astype(np.float64))
    for move in moves:
        assert np.mean(move > 0) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(n))
    correlations = np.corrcoef(moves) - np.eye(steps)
    assert np.abs(correlations).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_bits_depend_on_neither_threads_nor_layout(backend: str, dtype: Any, small_shares: None) -> None:
    found = []
    for threads, packed in ((1, False), (2, False), (3, True), (1, True)):
        params: Any = numbers([(5000,), (70,), (3, 3)], dtype, 0)
        flat = fastadam.pack(params) if packed else params
        optimizer = fastadam.Adam(flat, lr=0.01, rounding="stochastic", threads=threads, backend=backend)
        for seed in range(4):
            optimizer.step(numbers([(5000,), (70,), (3, 3)], MIXED[seed % 3], seed))
        found.append([np.array(param) for param in (flat.params if packed else params)])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert_same(one, two)


@given(each=st.lists(shapes, min_size=2, max_size=5), seed=seeds)
@examples(20)
def test_what_the_others_are_does_not_matter(each: Any, seed: int) -> None:
    """A parameter at the same position, with as many steps, gets the same bits beside any others, in any group."""
    one, other = numbers(each, BFLOAT16, seed), numbers(each[:1] * len(each), BFLOAT16, seed + 1)
    other[-1][...] = 1
    other[-1] = one[-1].copy()
    how: dict[str, Any] = {"rounding": "stochastic", "lr": 0.01, "seed": 3}
    first = fastadam.Adam(one, **how, backend="c")
    second = fastadam.Adam([{"params": other[:1], "lr": 1.0}, {"params": other[1:]}], **how, backend="c")
    for step in range(3):
        grads = numbers(each, BFLOAT16, seed + step)
        first.step(grads)
        second.step([None] * (len(each) - 1) + grads[-1:])
    assert_same(one[-1], other[-1])


@pytest.mark.parametrize("change", ["seed", "position"])
def test_other_seeds_and_positions_have_other_bits(change: str) -> None:
    found = []
    for number in range(2):
        params = [np.ones(1000, BFLOAT16), np.ones(1000, BFLOAT16)]
        seed = number if change == "seed" else 0
        optimizer = fastadam.Adam(params, lr=2.0**-9, rounding="stochastic", seed=seed, backend="c")
        optimizer.step([np.ones(1000, BFLOAT16)] * 2)
        found.append(params[number if change == "position" else 0].astype(np.float32))
    assert (found[0] != found[1]).any()
    assert found[0].mean() == pytest.approx(found[1].mean(), abs=1e-4)


@pytest.mark.parametrize("state_dtype", [None, "float32", "bfloat16", "int8"], ids=str)
@pytest.mark.parametrize(
    "how", [{"rounding": "stochastic"}, {"master_weights": True}, {}], ids=["stochastic", "masters", "nearest"]
)
@pytest.mark.parametrize("dtype", MIXED, ids=str)
def test_it_goes_on_the_same_from_a_state_dict(dtype: Any, how: dict[str, Any], state_dtype: Any) -> None:
    params = numbers(SHAPES, dtype, 0)
    choices: dict[str, Any] = {"lr": 0.01, "amsgrad": True, "state_dtype": state_dtype, "backend": "c", **how}
    optimizer = fastadam.Adam(params, seed=5, **choices)
    for seed in range(3):
        optimizer.step(numbers(SHAPES, FLOAT16, seed))
    twins = [param.copy() for param in params]
    twin = fastadam.Adam(twins, **choices)
    twin.load_state_dict(optimizer.state_dict())
    for seed in range(3):
        for each in (optimizer, twin):
            each.step(numbers(SHAPES, BFLOAT16, seed + 3))
    for param, other in zip(params, twins, strict=True):
        assert_same(param, other)
