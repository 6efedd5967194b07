"""Clipping, the scale of the loss, and gradients that are not finite, in the step of `fastadam.Adam`."""

from __future__ import annotations

import copy
import functools
import logging
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.memory.array_offsets import array_offsets
from tests.conftest import AVAILABLE
from tests.support.strategies import options, seeds

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (2000,), (0,)]
LAYOUTS = ("in place", "packed", "objects")


def drawn(seed: int, dtype: Any = np.float32, size: float = 1.0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(size * rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


class Side:
    """An optimizer over the same arrays in some layout."""

    def __init__(self, layout: str, dtype: Any = np.float32, **settings: Any) -> None:
        arrays = drawn(100, dtype)
        self.layout = layout
        self.flat: Any = fastadam.pack(arrays) if layout == "packed" else None
        self.arrays = list(self.flat.params) if layout == "packed" else arrays
        self.objects = [fastadam.Parameter(array) for array in arrays]
        given = {"in place": self.arrays, "packed": self.flat, "objects": self.objects}[layout]
        self.optimizer = fastadam.Adam(given, **{"lr": 0.1, **settings})

    def step(self, grads: list[Any], *scale: Any) -> None:
        if self.layout == "in place":
            self.optimizer.step(grads, *scale)
            return
        places = self.flat.grads if self.layout == "packed" else self.objects
        for place, grad in zip(places, grads, strict=True):
            if self.layout == "packed":
                place[...] = grad
            else:
                place.grad = grad
        self.optimizer.step(None, *scale)

    def bits(self) -> list[bytes]:
        """Return what a step changes: arrays, moments and counters."""
        state = self.optimizer.state_dict()["state"]
        return [array.tobytes() for array in self.arrays] + [
            np.asarray(state[i][key]).tobytes() for i in state for key in sorted(state[i])
        ]


def clipped(grads: list[Any], max_norm: float) -> list[Any]:
    copies = [grad.copy() for grad in grads]
    fastadam.clip_grad_norm(copies, max_norm)
    return copies


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@given(options(), seeds)
def test_a_clipped_step_is_that_over_clipped_gradients(
    backend: str, layout: str, dtype: Any, choices: dict[str, Any], seed: int
) -> None:
    ours = Side(layout, dtype, backend=backend, max_grad_norm=0.5, **choices)
    theirs = Side("in place", dtype, backend=backend, **choices)
    for step, size in enumerate((1.0, 1e-3, 100.0)):
        grads = drawn(seed + step, dtype, size)
        before = [grad.tobytes() for grad in grads]
        ours.step(grads)
        theirs.step(clipped(grads, 0.5))
        assert ours.optimizer.grad_norm == fastadam.clip_grad_norm(grads, math.inf)
        assert before == [grad.tobytes() for grad in grads], "gradients are only read"
        assert ours.bits() == theirs.bits()


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.sampled_from([2.0, 1024.0, 2.0**-5]), seeds)
def test_the_scale_of_the_loss_is_taken_off(backend: str, layout: str, scale: float, seed: int) -> None:
    """Powers of two, so that the bits are the same."""
    settings = {"backend": backend, "max_grad_norm": 2.0}
    ours, theirs = Side(layout, **settings), Side("in place", **settings)
    for step in range(3):
        grads = drawn(seed + step)
        ours.step([grad * np.float32(scale) for grad in grads], scale)
        theirs.step(grads)
        assert ours.optimizer.grad_norm == theirs.optimizer.grad_norm
        assert ours.bits() == theirs.bits()
    ours.step(drawn(seed))  # for that step alone
    theirs.step(drawn(seed))
    assert ours.bits() == theirs.bits()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_steps_that_are_not_finite_are_left_out(
    backend: str, layout: str, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    side = Side(layout, backend=backend, skip_nonfinite=True)
    side.step(drawn(0))
    before = side.bits()
    grads = drawn(1)
    grads[3][1500] = bad
    with caplog.at_level(logging.WARNING, logger="fastadam"):
        for _ in range(3):
            side.step(grads)
    assert side.bits() == before
    assert side.optimizer.skipped_steps == 3
    assert not math.isfinite(side.optimizer.grad_norm or 0)
    assert [record.getMessage()[:18] for record in caplog.records] == ["a step was skipped"]
    side.step(drawn(2))
    other = Side(layout, backend=backend)
    other.step(drawn(0))
    other.step(drawn(2))
    assert side.bits() == other.bits()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_or_refused_by_name(backend: str, layout: str) -> None:
    side = Side(layout, backend=backend, error_if_nonfinite=True)
    side.step(drawn(0))
    before = side.bits()
    grads = drawn(1)
    grads[1][0, 0] = np.nan
    grads[2][...] = np.inf
    with pytest.raises(RuntimeError, match=r"not finite \(error_if_nonfinite=True\); no step was taken"):
        side.step(grads)
    if layout != "packed":
        with pytest.raises(RuntimeError, match="gradients of parameter 1, parameter 2 are"):
            side.step(grads)
    assert side.bits() == before
    side.step(drawn(2))
    assert side.bits() != before


def test_only_gradients_that_are_there_count(backend: str) -> None:
    arrays = [np.ones(3), np.ones(2)]
    optimizer = fastadam.Adam(arrays, backend=backend, skip_nonfinite=True)
    optimizer.step([np.array([3.0, 0.0, 0.0]), None])
    assert optimizer.grad_norm == 3.0
    optimizer.step([None, np.array([np.nan, 1.0])])
    assert (optimizer.skipped_steps, arrays[1].tolist()) == (1, [1.0, 1.0])
    optimizer.step([None, None])
    assert optimizer.grad_norm == 0.0
    strided = np.arange(12.0)[::4]
    optimizer.step([strided, np.zeros(2)])
    assert optimizer.grad_norm == math.sqrt(0 + 16 + 64)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_norm_goes_over_arrays_of_all_dtypes(backend: str, small_shares: None, threads: int) -> None:
    """Kernels for several dtypes step them, on one thread or more; what one of them finds holds for all."""
    dtypes = (np.float32, np.complex128, np.float64)
    arrays = [array for dtype in dtypes for array in drawn(0, dtype)]
    options = {"lr": 0.1, "backend": backend, "threads": threads}
    ours = fastadam.Adam([array.copy() for array in arrays], max_grad_norm=0.5, skip_nonfinite=True, **options)
    theirs = fastadam.Adam([array.copy() for array in arrays], **options)
    for seed in (1, 2, 3):
        grads = [grad for dtype in dtypes for grad in drawn(seed, dtype)]
        ours.step(grads)
        assert ours.grad_norm == fastadam.clip_grad_norm(grads, math.inf)
        theirs.step(clipped(grads, 0.5))
        grads[seed][...] = np.nan
        ours.step(grads)
        assert ours.skipped_steps == seed
        assert [m.array.tobytes() for m in ours._groups[0].members] == [
            m.array.tobytes() for m in theirs._groups[0].members
        ]


def test_a_clipped_step_of_numba_is_one_compiled_call() -> None:
    """Each call that is looked up in Python takes as long as the norm of a small network."""
    if "numba" not in AVAILABLE or array_offsets() is None:
        pytest.skip("gradients are not looked at by Numba's kernels here")
    optimizer = fastadam.Adam([np.ones(3), np.ones(4)], backend="numba", max_grad_norm=0.5)
    run: Any = optimizer._planner.in_pieces.plan._run
    assert isinstance(run, functools.partial)
    assert hasattr(run.func, "py_func")


def test_settings_can_be_edited(backend: str) -> None:
    side, other = Side("in place", backend=backend), Side("in place", backend=backend)
    assert side.optimizer.grad_norm is None
    side.step(drawn(0))
    other.step(drawn(0))
    assert side.optimizer.grad_norm is None
    side.optimizer.max_grad_norm = 0.25
    for limit in (0.25, 0.5):
        side.optimizer.max_grad_norm = limit
        side.step(drawn(1))
        other.step(clipped(drawn(1), limit))
        assert side.bits() == other.bits()
    side.optimizer.max_grad_norm = math.inf
    side.step(drawn(2))
    other.step(drawn(2))
    assert side.bits() == other.bits()
    assert side.optimizer.grad_norm == fastadam.clip_grad_norm(drawn(2), math.inf)
    side.optimizer.max_grad_norm = None
    side.step(drawn(3))
    assert side.optimizer.grad_norm is None


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_have_the_settings(how: Any) -> None:
    side = Side("in place", max_grad_norm=0.5, skip_nonfinite=True)
    side.step([np.full_like(grad, np.nan) for grad in drawn(0)])
    twin = how(side.optimizer)
    assert (twin.max_grad_norm, twin.skip_nonfinite, twin.error_if_nonfinite) == (0.5, True, False)
    assert twin.skipped_steps == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", -1.0),
        ("max_grad_norm", math.nan),
        ("max_grad_norm", "1"),
        ("max_grad_norm", True),
        ("skip_nonfinite", 1),
        ("error_if_nonfinite", None),
    ],
)
def test_wrong_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        fastadam.Adam(np.ones(3), **{name: value})
    optimizer = fastadam.AdamW(np.ones(3), max_grad_norm=2.0)
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        setattr(optimizer, name, value)
    assert (optimizer.max_grad_norm, optimizer.skip_nonfinite, optimizer.error_if_nonfinite) == (2.0, False, False)


@pytest.mark.parametrize("value", [1, "no", None, 0.0])
def test_clipping_apart_refuses_what_is_no_flag(value: Any) -> None:
    grads = [np.full(3, 4.0)]
    with pytest.raises(TypeError, match="error_if_nonfinite must be True or False"):
        fastadam.clip_grad_norm(grads, 1.0, error_if_nonfinite=value)
    assert grads[0].tolist() == [4.0] * 3


def test_one_cannot_skip_and_refuse() -> None:
    with pytest.raises(ValueError, match="set one of them to False"):
        fastadam.Adam(np.ones(3), skip_nonfinite=True, error_if_nonfinite=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, "2", None, 1j])
def test_a_wrong_scale_is_refused(backend: str, scale: Any) -> None:
    side = Side("in place", backend=backend)
    side.step(drawn(0))
    before = side.bits()
    with pytest.raises((TypeError, ValueError), match="grad_scale must be"):
        side.step(drawn(1), scale)
    assert side.bits() == before
    side.step(drawn(1))
    assert side.bits() != before
