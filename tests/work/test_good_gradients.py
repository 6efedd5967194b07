"""Gradients and parameters that only look bad give the same bits as plain ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bench import (
    FLOAT32,
    SHAPES,
    Subclass,
    assert_goes_on,
    each_layout,
    read_only,
    refused,
    unaligned,
)
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot


def strided(array: np.ndarray) -> np.ndarray:
    wide = np.zeros((*array.shape, 3), array.dtype)
    wide[..., 1] = array
    return wide[..., 1]


def reversed_(array: np.ndarray) -> np.ndarray:
    every = (slice(None, None, -1),) * array.ndim
    return array[every].copy()[every]


def fortran(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="F")


def broadcast(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array.reshape(-1)[:1].reshape((1,) * array.ndim), array.shape)


def broadcast_rows(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(array[:1], array.shape) if array.ndim else array


def overlapping_windows(array: np.ndarray) -> np.ndarray:
    """Every element in several places of the same gradient."""
    line = np.arange(sum(array.shape) + 1, dtype=array.dtype)
    return np.lib.stride_tricks.as_strided(line, array.shape, (array.itemsize,) * array.ndim)


def scalar(array: np.ndarray) -> Any:
    return array if array.ndim else array[()]


LOOKS_BAD = [
    pytest.param(make, id=make.__name__)
    for make in (
        strided,
        reversed_,
        fortran,
        broadcast,
        broadcast_rows,
        overlapping_windows,
        read_only,
        unaligned,
        scalar,
    )
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("make", LOOKS_BAD)
def test_gradients_of_any_layout(backend: str, make: Callable[[np.ndarray], Any], dtype: Any) -> None:
    shapes = [(3, 4), (5,), (), (1,), (2, 3, 4), (0, 3)]
    ways = ("in place", "plain", "packed", "objects")
    params = {way: random_arrays(shapes, dtype, 1) for way in ways}
    objects = [fastadam.Parameter(array) for array in params["objects"]]
    flat = fastadam.pack(params["packed"])
    given = {"in place": params["in place"], "plain": params["plain"], "packed": flat, "objects": objects}
    opts = {way: fastadam.Adam(given[way], weight_decay=0.1, amsgrad=True, backend=backend) for way in ways}
    for seed in (2, 3, 4):
        arrays = random_arrays(shapes, dtype, seed)
        grads = [make(array) if array.size else array for array in arrays]
        copies = [np.array(grad, order="C") for grad in grads]
        opts["plain"].step(copies)
        opts["in place"].step(grads)
        opts["packed"].step(grads)
        for one, grad in zip(objects, grads, strict=True):
            one.grad = grad
        opts["objects"].step()
        for grad, plain in zip(grads, copies, strict=True):
            assert_same_bits(np.asarray(grad), plain, "gradients are not written to")
    expected = snapshot(opts["plain"])
    for way in ways:
        assert_same_state(snapshot(opts[way]), expected)


def test_gradients_of_other_kinds(backend: str, tmp_path: Any) -> None:
    shape = (4, 6)
    values = random_arrays([shape], FLOAT32, 7)[0]
    values.tofile(tmp_path / "grad")
    with_metadata = values.astype(np.dtype(np.float32, metadata={"unit": "m"}))
    grads = {
        "subclass": values.view(Subclass),
        "memory-mapped": np.memmap(tmp_path / "grad", np.float32, "r", shape=shape),
        "from bytes": np.frombuffer(values.tobytes(), np.float32).reshape(shape),
        "from bytearray": np.frombuffer(bytearray(values.tobytes()), np.float32).reshape(shape),
        "field": np.rec.fromarrays([values, values], names="a,b")["b"],
        "real part": (values + 1j * values).astype(np.complex64).real,
        "imaginary part": (values + 1j * values).astype(np.complex64).imag,
        "dtype with metadata": with_metadata,
        "DLPack": np.from_dlpack(values),
    }
    plain = fastadam.Adam([np.ones(shape, np.float32)], backend=backend)
    plain.step([values])
    expected = snapshot(plain)
    for what, grad in grads.items():
        assert np.array_equal(grad, values), what
        opt = fastadam.Adam([np.ones(shape, np.float32)], backend=backend)
        opt.step([grad])
        assert_same_state(snapshot(opt), expected)


def test_parameters_of_other_kinds(backend: str, tmp_path: Any) -> None:
    values = random_arrays([(4, 6)], FLOAT32, 7)[0]
    values.tofile(tmp_path / "param")
    params = {
        "subclass": values.copy().view(Subclass),
        "memory-mapped": np.memmap(tmp_path / "param", np.float32, "r+", shape=(4, 6)),
        "from bytearray": np.frombuffer(bytearray(values.tobytes()), np.float32).reshape(4, 6),
        "dtype with metadata": values.astype(np.dtype(np.float32, metadata={"unit": "m"})),
        "row of a larger one": np.stack([values, values, values])[1],
        "Fortran order of one row": np.array(values.reshape(1, 24), order="F").reshape(4, 6),
    }
    plain = fastadam.Adam([values.copy()], backend=backend)
    grads = random_arrays([(4, 6)] * 2, FLOAT32, 8)
    for grad in grads:
        plain.step([grad])
    for param in params.values():
        opt = fastadam.Adam([param], backend=backend)
        for grad in grads:
            opt.step([grad])
        assert_same_state(snapshot(opt), snapshot(plain))
        assert_same_bits(np.asarray(param), plain.param_groups[0]["params"][0])
    params["memory-mapped"].flush()
    on_disk = np.fromfile(tmp_path / "param", np.float32).reshape(4, 6)
    assert_same_bits(on_disk, plain.param_groups[0]["params"][0])


@pytest.mark.parametrize("wrap", [list, tuple, iter, lambda grads: (grad for grad in grads)])
def test_gradients_in_any_iterable(backend: str, wrap: Callable[[Any], Any]) -> None:
    for bench in each_layout(backend):
        grads = random_arrays(SHAPES, FLOAT32, 9)
        bench.innocent.opt.step(grads)
        bench.opt.step(wrap(grads))
        assert_goes_on(bench)


def test_one_gradient_array_for_several_parameters(backend: str) -> None:
    """Gradients are only read, so they may share memory with each other."""
    shared, apart = ([np.ones(4), np.ones(4)] for _ in range(2))
    grad = random_arrays([(6,)], np.float64, 1)[0]
    one, two = fastadam.Adam(shared, backend=backend), fastadam.Adam(apart, backend=backend)
    for _ in range(2):
        one.step([grad[:4], grad[2:]])
        two.step([grad[:4].copy(), grad[2:].copy()])
    assert_same_state(snapshot(one), snapshot(two))


def test_number_as_gradient_of_a_0_d_parameter(backend: str) -> None:
    """NumPy turns 0-d results into scalars: ``2 * (theta - 1)`` is one."""
    theta, plain = np.array(0.5), np.array(0.5)
    one, two = fastadam.Adam(theta, lr=0.1, backend=backend), fastadam.Adam(plain, lr=0.1, backend=backend)
    for _ in range(3):
        grad = 2 * (theta - 1.0)
        assert isinstance(grad, np.float64)
        one.step(grad)
        two.step([np.array(grad)])
    assert_same_state(snapshot(one), snapshot(two))
    with refused(one, TypeError, "has dtype float32, its parameter has float64"):
        one.step(np.float32(1))


def test_own_gradient_after_one_that_was_handed_in(backend: str) -> None:
    """``step()`` uses the buffer's own gradient, whatever the step before used."""
    expected = []
    for own in (True, False):
        flat = fastadam.pack([np.ones(4), np.ones(3)])
        opt = fastadam.Adam(flat, backend=backend)
        for whole in (True, False):
            handed = np.full(7, 5.0)
            opt.step(handed if whole else [handed[:4], handed[4:]])
            handed[...] = np.nan  # still there, but must not be read again
            flat.grad[...] = -1.0
            opt.step() if own else opt.step([np.full(4, -1.0), np.full(3, -1.0)])
        expected.append(snapshot(opt))
    assert_same_state(*expected)


def test_whole_gradient_after_a_partial_step(backend: str) -> None:
    """A packed buffer takes a gradient for the whole buffer, whichever steps its members have taken."""
    one, two = (fastadam.pack([np.ones(4), np.ones(3)]) for _ in range(2))
    grad = random_arrays([(7,)], np.float64, 1)[0]
    opts = [fastadam.Adam(flat, backend=backend) for flat in (one, two)]
    for opt in opts:
        opt.step([grad[:4], None])
    opts[0].step(grad)
    opts[1].step([grad[:4], grad[4:]])
    assert_same_state(*map(snapshot, opts))
