"""What users see: gradients that are missing or zero, schedules, closures, arrays of all kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.adam.arrays import F32, arrays, assert_equal
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.strategies import examples


def test_zero_grad() -> None:
    param, other = fastadam.Parameter(np.ones(2)), fastadam.Parameter(np.ones(2))
    flat = fastadam.pack([np.ones(3)])
    optimizer = fastadam.Adam([{"params": [param, other, np.ones(1)]}, {"params": flat}])
    param.grad = grad = np.ones(2)
    flat.grad[...] = 1
    optimizer.zero_grad(set_to_none=False)
    assert param.grad is grad
    assert not grad.any()
    assert other.grad is None
    assert not flat.grad.any()
    flat.grad[...] = 1
    optimizer.zero_grad()
    assert param.grad is None
    assert not flat.grad.any()


@pytest.mark.parametrize("packed", [False, True])
@examples(12)
@given(pattern=st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=6), seed=strategies.seeds)
def test_none_leaves_a_parameter_its_moments_and_its_counter_alone(
    backend: str, packed: bool, pattern: list[tuple[bool, ...]], seed: int
) -> None:
    """Whatever the pattern, each parameter ends where an optimizer of its own would have taken it."""
    shapes: list[tuple[int, ...]] = [(3,), (2, 2), (), (17,)]
    start = random_arrays(shapes, F32, seed)
    alone = [array.copy() for array in start]
    singles = [fastadam.Adam(array, backend="numpy") for array in alone]
    flat = fastadam.pack(start)
    params = flat.params if packed else start
    optimizer = fastadam.Adam(flat if packed else start, backend=backend)
    for step, present in enumerate(pattern):
        grads = random_arrays(shapes, F32, seed + step + 1)
        optimizer.step([grad if there else None for grad, there in zip(grads, present, strict=True)])
        for single, grad, there in zip(singles, grads, present, strict=True):
            if there:
                single.step(grad)
    assert_equal(params, alone)
    for i, single in enumerate(singles):
        if 0 in single.state:
            assert optimizer.state[i]["step"] == single.state[0]["step"]
            assert_same_bits(optimizer.state[i]["exp_avg"], single.state[0]["exp_avg"])
        else:
            assert i not in optimizer.state


def test_a_step_without_any_gradient_changes_nothing(backend: str) -> None:
    optimizer = fastadam.Adam([fastadam.Parameter(array) for array in arrays()], backend=backend)
    before = snapshot(optimizer)
    optimizer.step()
    optimizer.step([None, None, None])
    assert_same_state(snapshot(optimizer), before)


def test_a_zero_gradient_is_not_none(backend: str) -> None:
    param = np.ones(2)
    optimizer = fastadam.Adam(param, backend=backend)
    optimizer.step(np.ones(2))
    after_one = param.copy()
    optimizer.step(np.zeros(2))
    assert optimizer.state[0]["step"] == 2
    assert (param < after_one).all()


def test_a_closure_recomputes_gradients_and_its_value_is_returned(backend: str) -> None:
    param = fastadam.Parameter(np.array([1.0, -2.0]))
    expected = param.data.copy()
    optimizer = fastadam.Adam([param], lr=0.1, backend=backend)
    reference = fastadam.Adam(expected, lr=0.1, backend="numpy")

    def closure() -> float:
        optimizer.zero_grad()
        param.grad = 2 * param.data
        return float((param.data**2).sum())

    assert optimizer.step(closure=closure) == 5.0
    reference.step(2 * expected)
    assert_same_bits(param.data, expected)
    assert optimizer.step(closure=closure) < 5.0


def test_a_closure_may_fill_the_gradients_that_are_given(backend: str) -> None:
    param, grad = np.ones(2), np.zeros(2)
    optimizer = fastadam.Adam(param, backend=backend)

    def closure() -> str:
        grad[...] = 1.0
        return "loss"

    assert optimizer.step([grad], closure=closure) == "loss"
    assert (param < 1.0).all()


def test_mixed_dtypes_and_odd_shapes_in_one_optimizer(backend: str) -> None:
    params = [
        array
        for i, dtype in enumerate(strategies.DTYPES)
        for array in random_arrays([(), (0,), (1,), (3, 0, 2), (7,)], dtype, i)
    ]
    grads = [
        grad
        for i, dtype in enumerate(strategies.DTYPES)
        for grad in random_arrays([(), (0,), (1,), (3, 0, 2), (7,)], dtype, i + 50)
    ]
    expected = [param.copy() for param in params]
    optimizer = fastadam.Adam(params, amsgrad=True, backend=backend)
    for _ in range(2):
        optimizer.step(grads)
    for param, grad in zip(expected, grads, strict=True):
        alone = fastadam.Adam(param, amsgrad=True, backend="numpy")
        alone.step([grad])
        alone.step([grad])
    assert_equal(params, expected)


def test_only_empty_arrays(backend: str) -> None:
    optimizer = fastadam.Adam([np.zeros(0), np.zeros((2, 0), F32)], backend=backend)
    optimizer.step([np.zeros(0), np.zeros((2, 0), F32)])
    assert optimizer.state[0]["step"] == 1
    packed = fastadam.Adam(fastadam.pack([np.zeros(0)]), backend=backend)
    packed.step()
    assert packed.state[0]["exp_avg"].shape == (0,)


def test_ndarray_subclasses_are_updated_in_place(backend: str, tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "params", np.float32, "w+", shape=(5,))
    expected = np.zeros(5, F32)
    fastadam.Adam(mapped, backend=backend).step(np.ones(5, F32))
    fastadam.Adam(expected, backend="numpy").step(np.ones(5, F32))
    assert_same_bits(np.asarray(mapped), expected)


def test_gradients_are_never_written(backend: str) -> None:
    grads = [np.ones(100, F32), np.ones((3, 4), F32).T, np.broadcast_to(F32(2), (5,))]
    copies = [grad.copy() for grad in grads]
    params = [np.zeros(grad.shape, F32) for grad in grads]
    optimizer = fastadam.Adam(params, weight_decay=0.1, maximize=True, backend=backend)
    for _ in range(3):
        optimizer.step(grads)
    assert_equal(grads, copies)


def test_gradients_are_not_kept_alive() -> None:
    """A step must not hold the last gradients, which would cost the size of the parameters."""
    import sys

    grad = np.ones(10)
    optimizer = fastadam.Adam(np.zeros(10))
    before = sys.getrefcount(grad)
    optimizer.step([grad])
    optimizer.step([grad[::-1].copy()[::-1]])
    assert sys.getrefcount(grad) == before


def test_repr_names_options_and_backend() -> None:
    text = repr(fastadam.AdamW([np.ones(2)], lr=0.25, backend="numpy"))
    assert text.startswith("AdamW (")
    assert "lr: 0.25" in text
    assert "backend: numpy" in text


@examples(10)
@given(seed=strategies.seeds)
def test_it_finds_the_minimum_of_a_quadratic(backend: str, seed: int) -> None:
    (target,) = random_arrays([(6,)], np.float64, seed)
    theta = np.zeros(6)
    optimizer = fastadam.Adam(theta, lr=lambda step: 0.3 * 0.98**step, backend=backend)
    for _ in range(500):
        optimizer.step(theta - target)
    assert np.abs(theta - target).max() < 1e-2
