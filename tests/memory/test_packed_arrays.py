"""The views of packed buffers: arrays like all others, but in copies and pickles."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import adam
from fastadam.memory.packed_arrays import PackedArray
from tests.support.bits import assert_same_bits

WAYS: list[Callable[[Any], Any]] = [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]


def packed() -> fastadam.Packed:
    return fastadam.pack({"w": np.arange(12.0).reshape(3, 4), "b": np.arange(5.0)})


def test_views_are_arrays() -> None:
    w = packed().params["w"]
    assert isinstance(w, np.ndarray)
    assert type(np.asarray(w)) is np.ndarray
    assert np.shares_memory(np.asarray(w), w)
    assert repr(w) == repr(np.arange(12.0).reshape(3, 4))
    for plain in (
        w.copy(),
        copy.copy(w),
        np.array(w),
        np.concatenate([w, w]),
        np.dot(w, np.ones(4)),
        w.sum(axis=0),
    ):
        assert type(plain) is np.ndarray
    assert isinstance(w.sum(), np.float64)
    same = w
    same += 1
    assert same is w
    assert np.add(w, 1, out=w) is w


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 gives results the type of what they are computed from")
def test_what_is_computed_is_plain() -> None:
    w = packed().params["w"]
    for plain in (w + 1, 1 - w, w * w, -w, np.exp(w), w @ w.T, w == w, np.maximum(w, 0), w[1:] + w[:-1]):
        assert type(plain) is np.ndarray


@pytest.mark.parametrize("way", WAYS)
def test_what_is_computed_copies_by_itself(way: Callable[[Any], Any]) -> None:
    w = packed().params["w"]
    for each in (w + 1, w.copy(), w.astype(np.float32), np.zeros_like(w), np.exp(w)):
        twin = way(each)
        assert type(twin) is np.ndarray
        assert_same_bits(twin, each)
        assert len(pickle.dumps(each)) < len(pickle.dumps(w))


PARTS: dict[str, Callable[[Any], Any]] = {
    "view": lambda flat: flat.params["w"],
    "whole": lambda flat: flat.param,
    "slice": lambda flat: flat.params["w"][1:, ::2],
    "row of a slice": lambda flat: flat.params["w"][1:][0],
    "transpose": lambda flat: flat.params["w"].T,
    "backwards": lambda flat: flat.params["b"][::-1],
    "across": lambda flat: flat.param[10:14],
    "empty": lambda flat: flat.params["b"][2:2],
    "no dimensions": lambda flat: flat.params["b"][2:3].reshape(()),
    "bytes": lambda flat: flat.params["b"].view(np.uint8),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("part_first", [True, False])
def test_parts_of_views_are_parts_of_the_copy(part: str, way: Callable[[Any], Any], part_first: bool) -> None:
    flat = packed()
    made = PARTS[part](flat)
    both = [made, flat] if part_first else [flat, made]
    twins = way(both)
    twin, other = twins if part_first else twins[::-1]
    assert_same_bits(twin, made)
    assert twin.strides == made.strides or made.size < 2
    before = made.copy()
    other.param[...] += 1
    assert_same_bits(made, before)
    flat.param[...] += 1
    assert_same_bits(twin, made)
    assert (PARTS[part](other) == made).all()


@pytest.mark.parametrize("way", WAYS)
def test_views_that_arrive_first_are_those_of_the_buffer(way: Callable[[Any], Any]) -> None:
    flat = packed()
    w, whole, twin, grad = way([flat.params["w"], flat.param, flat, flat.grads["b"]])
    assert twin.params["w"] is w
    assert twin.param is whole
    assert twin.grads["b"] is grad
    assert twin.param.ctypes.data % 64 == 0


def test_a_view_that_was_changed_in_place_is_copied_as_it_is() -> None:
    flat = packed()
    w = flat.params["w"]
    np.ndarray.__setstate__(w, (1, (2,), np.dtype(np.float32), False, bytes(8)))
    for way in WAYS:
        twin = way(w)
        assert type(twin) is np.ndarray
        assert_same_bits(twin, np.zeros(2, np.float32))


def test_no_circle_keeps_a_buffer() -> None:
    gc.disable()
    try:
        flat = packed()
        watched = weakref.ref(flat.params["w"]), weakref.ref(flat.param)
        part = flat.params["w"][1:]
        del flat
        assert watched[0]() is not None
        assert part.sum() == 60
        del part
        assert watched[0]() is None
        assert watched[1]() is None
    finally:
        gc.enable()


def test_views_serve_as_parameters_and_gradients(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And compiled backends step them without a look from Python."""
    if backend != "numpy":
        monkeypatch.setattr(adam, "step_with_care", lambda *args: pytest.fail("a view is not plain"))
    flat, twin = packed(), packed()
    flat.grad[...] = twin.grad[...] = np.arange(17.0)
    first, second = fastadam.Adam(flat, backend=backend), fastadam.Adam(twin.params, backend=backend)
    for _ in range(2):
        first.step()
        second.step(twin.grads)
    first.step(flat.grad)
    second.step({"w": twin.grads["w"], "b": twin.grads["b"].copy()})
    assert_same_bits(flat.param, twin.param)
    assert second.state[twin.params["b"]]["step"] == 3


def test_other_libraries_take_views() -> None:
    # ImportError: a Numba that is there and cannot be imported counts as none.
    numba, torch = pytest.importorskip("numba", exc_type=ImportError), pytest.importorskip("torch")
    w = packed().params["w"]
    assert numba.njit(lambda x: x.sum())(w) == 66
    tensor = torch.from_numpy(w)
    tensor += 1
    assert w[0, 0] == 1
    assert isinstance(w, PackedArray)
