"""Gradients that the step itself lets be zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_state, random_arrays, snapshot

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (3000,), (0,)]
LAYOUTS = ["in place", "packed", "objects"]


def drawn(seed: int) -> list[Any]:
    return random_arrays(SHAPES, np.float32, seed)


def make(layout: str, **settings: Any) -> tuple[fastadam.Adam, list[Any]]:
    """Return an optimizer, and where its gradients live; those of arrays are given to its steps."""
    arrays = drawn(100)
    if layout == "packed":
        flat = fastadam.pack(arrays)
        return fastadam.Adam(flat, **settings), list(flat.grads)
    grads = [np.zeros_like(array) for array in arrays]
    if layout == "objects":
        objects = [fastadam.Parameter(array) for array in arrays]
        for each, grad in zip(objects, grads, strict=True):
            each.grad = grad
        return fastadam.Adam(objects, **settings), grads
    return fastadam.Adam(arrays, **settings), grads


def fill(grads: list[Any], seed: int) -> None:
    for grad, numbers in zip(grads, drawn(seed), strict=True):
        grad[...] = numbers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("threads", [1, 3])
def test_gradients_become_zero_and_the_step_is_the_same(
    backend: str, layout: str, threads: int, small_shares: None
) -> None:
    settings = {"backend": backend, "threads": threads, "max_grad_norm": 1.0, "ema_decay": 0.9}
    ours, grads = make(layout, **settings)
    theirs, others = make(layout, **settings)
    homes = layout != "in place"
    for seed in range(4):
        fill(grads, seed)
        fill(others, seed)
        ours.step(None if homes else grads, zero_grad=seed != 2)
        theirs.step(None if homes else others)
        assert_same_state(snapshot(ours), snapshot(theirs))
        assert any(grad.any() for grad in grads) == (seed == 2), "for that step alone"


def test_a_gradient_for_the_whole_packed_buffer_becomes_zero(backend: str) -> None:
    optimizer, _ = make("packed", backend=backend)
    grad = np.ones(sum(array.size for array in drawn(0)), np.float32)
    optimizer.step(grad, 1.0, True)
    assert not grad.any()


def test_only_gradients_that_are_there_become_zero(backend: str) -> None:
    optimizer, grads = make("in place", backend=backend, ema_decay=0.9)
    fill(grads, 1)
    kept = grads[3].copy()
    optimizer.step([grads[0], grads[1], grads[2], None, None], zero_grad=True)
    assert not any(grad.any() for grad in grads[:3])
    assert grads[3].tobytes() == kept.tobytes()


def test_one_gradient_for_two_parameters_is_read_for_both(backend: str) -> None:
    arrays, others, grad = [np.ones(7), np.ones(7)], [np.ones(7), np.ones(7)], np.arange(7.0)
    fastadam.Adam(others, backend=backend).step([grad, grad.copy()])
    fastadam.Adam(arrays, backend=backend).step([grad, grad], zero_grad=True)
    assert not grad.any()
    assert [array.tobytes() for array in arrays] == [other.tobytes() for other in others]


class Array(np.ndarray):
    """A subclass of the user's."""


def test_gradients_of_other_kinds_become_zero_where_they_are_read(backend: str) -> None:
    optimizer = fastadam.Adam([np.ones(4), np.ones(4)], backend=backend)
    base = np.ones(8)
    grads = [np.ones(4).view(Array), base[4:]]
    optimizer.step(grads, zero_grad=True)
    assert not grads[0].any()
    assert base.tolist() == [1] * 4 + [0] * 4


@pytest.mark.parametrize("kind", ["read-only", "strided", "reversed", "Fortran", "repeated", "scalar", "wrong"])
def test_those_that_cannot_are_refused_by_name_before_anything_is_written(backend: str, kind: str) -> None:
    good = np.ones(3)
    locked = np.ones((2, 2))
    locked.flags.writeable = False
    bad, message = {
        "read-only": (locked, "the gradient of parameter 'bad' is read-only, and zero_grad=True fills it"),
        "strided": (np.ones((2, 4))[:, ::2], "the gradient of parameter 'bad' is read from a copy"),
        "reversed": (np.ones((2, 2))[::-1], "the gradient of parameter 'bad' is read from a copy"),
        "Fortran": (np.ones((2, 2), order="F"), "the gradient of parameter 'bad' is read from a copy"),
        "repeated": (np.broadcast_to(np.ones(2), (2, 2)), "the gradient of parameter 'bad' is read from a copy"),
        "scalar": (None, "the gradient of parameter 'bad' is read from a copy"),
        "wrong": (np.ones(4), "the gradient of parameter 'bad' has shape"),
    }[kind]
    array = np.ones(()) if kind == "scalar" else np.ones((2, 2))
    grad = np.float64(2.0) if kind == "scalar" else bad
    optimizer = fastadam.Adam({"good": np.ones(3), "bad": array}, backend=backend, ema_decay=0.5)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step([good, grad], zero_grad=True)
    assert_same_state(snapshot(optimizer), before)
    assert good.all()
    if kind != "wrong":  # the remedies
        optimizer.step([good, grad])
        contiguous = np.ascontiguousarray(grad).reshape(array.shape).copy()
        optimizer.step([good, contiguous], zero_grad=True)
        assert not good.any()
        assert not contiguous.any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("asked", ["skip_nonfinite", "error_if_nonfinite"])
def test_what_is_not_finite_becomes_zero_where_it_is_skipped_and_stays_where_it_is_refused(
    backend: str, layout: str, asked: str
) -> None:
    optimizer, grads = make(layout, backend=backend, **{asked: True})
    fill(grads, 1)
    grads[1][1, 1] = np.inf
    before = snapshot(optimizer)
    given = grads if layout == "in place" else None
    if asked == "skip_nonfinite":
        optimizer.step(given, zero_grad=True)
        assert optimizer.skipped_steps == 1
        assert not any(grad.any() for grad in grads)
    else:
        with pytest.raises(RuntimeError, match="not finite"):
            optimizer.step(given, zero_grad=True)
        assert np.isinf(grads[1]).any()
    assert_same_state(snapshot(optimizer), before)


@pytest.mark.parametrize("wrong", [1, None, "yes", np.array([True])])
def test_what_is_neither_true_nor_false_is_refused(wrong: Any) -> None:
    optimizer, grad = fastadam.Adam(np.ones(2)), np.ones(2)
    with pytest.raises(TypeError, match="zero_grad must be True or False"):
        optimizer.step(grad, zero_grad=wrong)
    assert grad.all()
    optimizer.step(grad, zero_grad=np.True_)
    assert not grad.any()
