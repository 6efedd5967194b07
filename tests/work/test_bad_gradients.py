"""Gradients that do not fit are refused, all of them before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bench import (
    FIVE,
    FLOAT32,
    SHAPES,
    Bench,
    OnDevice,
    Subclass,
    Tensor,
    assert_goes_on,
    each_layout,
    flat_of,
    refused,
    take,
)
from tests.support.bits import random_arrays


def _shape(shape: Any) -> str:
    return r"the gradient of parameter (1|'b') has shape " + shape + r", its parameter has \(5,\)"


def _dtype(name: str, remedy: str = "convert it") -> str:
    place = r"the gradient of parameter (1|'b') has dtype "
    return place + name + ", its parameter has float32, which takes gradients of .*float16; " + remedy


def _kind(name: str) -> str:
    return r"the gradient of parameter (1|'b') is a " + name


def _shares(what: str) -> str:
    return r"the gradient of parameter (1|'b') shares memory with " + what + ".*which this step writes"


# A gradient for parameter 1, of shape (5,) and float32. A function makes it from the bench.
BAD_GRADIENTS = [
    pytest.param(np.ones(4, np.float32), ValueError, _shape(r"\(4,\)"), id="too short"),
    pytest.param(np.ones(6, np.float32), ValueError, _shape(r"\(6,\)"), id="too long"),
    pytest.param(np.ones((1, 5), np.float32), ValueError, _shape(r"\(1, 5\)"), id="an axis more"),
    pytest.param(np.ones((5, 1), np.float32), ValueError, _shape(r"\(5, 1\)"), id="a column"),
    pytest.param(np.ones((), np.float32), ValueError, _shape(r"\(\)"), id="0-d"),
    pytest.param(np.float32(1), ValueError, _shape(r"\(\)"), id="NumPy scalar"),
    pytest.param(np.ones(1, np.float32), ValueError, _shape(r"\(1,\)"), id="would broadcast"),
    pytest.param(np.ones(0, np.float32), ValueError, _shape(r"\(0,\)"), id="empty"),
    pytest.param(np.ones(5), TypeError, _dtype("float64"), id="float64"),
    pytest.param(
        np.ones(5, np.longdouble), TypeError, _dtype(r"(float96|float128|float64|longdouble)"), id="longdouble"
    ),
    pytest.param(np.ones(5, np.complex64), TypeError, _dtype("complex64"), id="complex"),
    pytest.param(np.ones(5, np.int32), TypeError, _dtype("int32"), id="int"),
    pytest.param(np.ones(5, bool), TypeError, _dtype("bool"), id="bool"),
    pytest.param(np.ones(5, object), TypeError, _dtype("object"), id="object"),
    pytest.param(np.ones(5, FLOAT32.newbyteorder()), TypeError, _dtype("[<>]f4"), id="byte-swapped"),
    pytest.param(
        np.ones(5, [("x", "f4")]),
        TypeError,
        _dtype(r"\[\('x', '<f4'\)\]", "give its numbers alone"),
        id="structured",
    ),
    pytest.param(np.array(list("abcde")), TypeError, _dtype("<U1"), id="strings"),
    pytest.param([1.0] * 5, TypeError, _kind("list, not a NumPy array; .*; use None"), id="list"),
    pytest.param("ones", TypeError, _kind("str, not a NumPy array"), id="string"),
    pytest.param(1.0, TypeError, _kind("float, not a NumPy array"), id="float"),
    pytest.param(False, TypeError, _kind("bool, not a NumPy array"), id="bool value"),
    pytest.param(FIVE.data, TypeError, _kind("memoryview, not a NumPy array"), id="memoryview"),
    pytest.param(Tensor(), TypeError, _kind(r"torch.Tensor, not a NumPy array; .*numpy\(\)"), id="torch tensor"),
    pytest.param(OnDevice(), TypeError, _kind(r".*OnDevice on a CUDA device"), id="on a device"),
    pytest.param(fastadam.Parameter(np.ones(5)), TypeError, _kind(r"fastadam.Parameter, not"), id="Parameter"),
    pytest.param(
        np.ma.array(FIVE, mask=[1, 0, 0, 0, 0]), TypeError, _kind(r"masked array.*filled\(0\)"), id="masked"
    ),
    pytest.param(lambda bench: bench.arrays[1], ValueError, _shares("parameter (1|'b')"), id="its own parameter"),
    pytest.param(
        lambda bench: bench.arrays[1][::-1], ValueError, _shares("parameter (1|'b')"), id="its own, reversed"
    ),
    pytest.param(
        lambda bench: bench.arrays[1].view(Subclass),
        ValueError,
        _shares("parameter (1|'b')"),
        id="its own, subclass",
    ),
    pytest.param(
        lambda bench: read_only_view(bench.arrays[1]),
        ValueError,
        _shares("parameter (1|'b')"),
        id="its own, read-only",
    ),
    pytest.param(
        lambda bench: np.broadcast_to(bench.arrays[1][2:3], 5),
        ValueError,
        _shares("parameter (1|'b')"),
        id="its own, broadcast",
    ),
    pytest.param(
        lambda bench: flat_of(bench.arrays[0])[:5],
        ValueError,
        _shares("parameter (0|'w')"),
        id="another parameter",
    ),
    pytest.param(
        lambda bench: flat_of(bench.arrays[0])[7:],
        ValueError,
        _shares("parameter (0|'w')"),
        id="another parameter's end",
    ),
    pytest.param(
        lambda bench: flat_of(bench.arrays[0])[1:10:2],
        ValueError,
        _shares("parameter (0|'w')"),
        id="another parameter, strided",
    ),
    pytest.param(
        lambda bench: flat_of(bench.arrays[0])[11:1:-2],
        ValueError,
        _shares("parameter (0|'w')"),
        id="another parameter, strided and reversed",
    ),
    pytest.param(
        lambda bench: flat_of(bench.arrays[0]).view(np.uint8)[4:24].view(np.float32),
        ValueError,
        _shares("parameter (0|'w')"),
        id="another parameter through bytes",
    ),
    pytest.param(
        lambda bench: np.broadcast_to(bench.arrays[2], 5),
        ValueError,
        _shares("parameter (2|'scale')"),
        id="another parameter, broadcast",
    ),
    pytest.param(
        lambda bench: bench.opt.state[1]["exp_avg"],
        ValueError,
        _shares("exp_avg of"),
        id="its own first moment",
    ),
    pytest.param(
        lambda bench: bench.opt.state[1]["exp_avg_sq"],
        ValueError,
        _shares("exp_avg_sq of"),
        id="its second moment",
    ),
    pytest.param(
        lambda bench: flat_of(bench.opt.state[0]["exp_avg"])[10:0:-2],
        ValueError,
        _shares("exp_avg of"),
        id="another moment, strided and reversed",
    ),
]


def read_only_view(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize(("bad", "error", "match"), BAD_GRADIENTS)
def test_bad_gradient(backend: str, bad: Any, error: Any, match: str) -> None:
    for bench in each_layout(backend):
        grads: list[Any] = random_arrays(SHAPES, FLOAT32, 9)
        grads[1] = bad(bench) if callable(bad) else bad
        with refused(bench.opt, error, match):
            bench.step(grads)
        assert_goes_on(bench)


def test_running_maximum_as_gradient(backend: str) -> None:
    bench = take("groups", backend)
    grads = random_arrays(SHAPES, FLOAT32, 9)
    grads[1] = bench.opt.state[1]["max_exp_avg_sq"]
    with refused(bench.opt, ValueError, _shares("max_exp_avg_sq of parameter 1 and its group")):
        bench.step(grads)
    assert_goes_on(bench)


@pytest.mark.parametrize("at", [0, 7, -1])
@pytest.mark.parametrize("packed", [False, True])
def test_one_bad_gradient_among_many_writes_nothing(backend: str, at: int, packed: bool) -> None:
    shapes = [(3, 2)] * 150
    params: Any = random_arrays(shapes, np.float64, 1)
    opt = fastadam.Adam(fastadam.pack(params) if packed else params, backend=backend)
    opt.step(random_arrays(shapes, np.float64, 2))
    grads = random_arrays(shapes, np.float64, 3)
    position = range(150)[at]
    grads[at] = grads[at].T
    with refused(opt, ValueError, rf"the gradient of parameter {position} has shape \(2, 3\), its parameter has"):
        opt.step(grads)
    grads[at] = np.ones((3, 2), np.float32)
    with refused(
        opt, TypeError, rf"the gradient of parameter {position} has dtype float32, its parameter has float64"
    ):
        opt.step(grads)


def test_bad_gradient_in_the_last_dtype_writes_nothing(backend: str) -> None:
    """Each dtype is a batch of its own; all are checked before the first is stepped."""
    params = [np.ones(4, dtype) for dtype in (np.float64, np.complex128, np.complex64, np.float32)]
    opt = fastadam.Adam(params, backend=backend)
    opt.step([np.ones_like(param) for param in params])
    for at in range(4):
        grads = [np.ones_like(param) for param in params]
        grads[at] = grads[at][:3]
        with refused(opt, ValueError, rf"the gradient of parameter {at} has shape \(3,\)"):
            opt.step(grads)


def failing() -> Iterator[np.ndarray]:
    yield np.ones((3, 4), np.float32)
    raise ZeroDivisionError("the generator failed")


def _grads(n: int) -> list[np.ndarray]:
    return random_arrays([*SHAPES, (2,), (2,)][:n], FLOAT32, 9)


NOT_A_LIST = "grads must be a list of arrays or a mapping of names to arrays, got "
BAD_GRADIENT_LISTS = [
    pytest.param(list, ValueError, "grads has 0 items, but there are 3 parameters", id="none"),
    pytest.param(lambda: _grads(2), ValueError, "grads has 2 items, but there are 3 parameters", id="too few"),
    pytest.param(lambda: _grads(4), ValueError, "grads has 4 items, but there are 3 parameters", id="too many"),
    pytest.param(lambda: tuple(_grads(2)), ValueError, "grads has 2 items", id="tuple"),
    pytest.param(lambda: (g for g in _grads(2)), ValueError, "grads has 2 items", id="generator"),
    pytest.param(failing, ZeroDivisionError, "the generator failed", id="failing generator"),
    pytest.param(
        lambda: np.ones((3, 4), np.float32), TypeError, "grads is one array, but there are", id="one array"
    ),
    pytest.param(lambda: "abc", TypeError, NOT_A_LIST + "'abc'", id="string"),
    pytest.param(lambda: b"abc", TypeError, NOT_A_LIST + "b'abc'", id="bytes"),
    pytest.param(lambda: {1, 2, 3}, TypeError, NOT_A_LIST + r"\{1, 2, 3\}", id="set"),
    pytest.param(lambda: 1.0, TypeError, NOT_A_LIST + "1.0", id="float"),
    pytest.param(lambda: 0, TypeError, NOT_A_LIST + "0", id="zero"),
    pytest.param(
        lambda: abs,
        TypeError,
        "grads is the callable <built-in function abs>; to pass a closure",
        id="closure as grads",
    ),
    pytest.param(lambda: fastadam.pack([FIVE]), TypeError, "grads is a packed buffer", id="packed"),
    pytest.param(lambda: fastadam.Parameter(FIVE), TypeError, NOT_A_LIST + "Parameter", id="Parameter"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD_GRADIENT_LISTS)
def test_bad_gradient_list(backend: str, make: Callable[[], Any], error: Any, match: str) -> None:
    for bench in each_layout(backend):
        with refused(bench.opt, error, match):
            bench.opt.step(make())
        assert_goes_on(bench)


def test_mapping_of_gradients_for_unnamed_parameters(backend: str) -> None:
    for bench in each_layout(backend, ["in place", "packed", "objects", "groups"]):
        with refused(bench.opt, TypeError, "grads is a mapping, but the parameters have no names; pass a list"):
            bench.opt.step(dict(enumerate(_grads(3))))


BAD_NAMES = [
    pytest.param(("w", "b"), r"missing \['scale'\], unexpected \[\]", id="missing"),
    pytest.param(("w", "b", "scale", "more"), r"missing \[\], unexpected \['more'\]", id="unexpected"),
    pytest.param(("w", "b", "Scale"), r"missing \['scale'\], unexpected \['Scale'\]", id="misspelled"),
    pytest.param((0, 1, 2), r"missing \['w', 'b', 'scale'\], unexpected \[0, 1, 2\]", id="positions"),
    pytest.param((), r"missing \['w', 'b', 'scale'\], unexpected \[\]", id="empty"),
]


@pytest.mark.parametrize(("names", "match"), BAD_NAMES)
def test_bad_gradient_names(backend: str, names: tuple[Any, ...], match: str) -> None:
    for bench in each_layout(backend, ["named", "packed and named"]):
        with refused(bench.opt, ValueError, match):
            bench.opt.step(dict(zip(names, _grads(4), strict=False)))
        assert_goes_on(bench)


def test_step_without_gradients_for_plain_arrays(backend: str) -> None:
    for bench in each_layout(backend, ["in place", "groups", "named"]):
        label = "parameter 'w'" if bench.names else "parameter 0"
        match = rf"step\(\) found no gradient for {label}.*step\(grads\).*Parameter.*pack"
        with refused(bench.opt, ValueError, match):
            bench.opt.step()
        assert_goes_on(bench)


def test_step_without_gradients_names_the_plain_array(backend: str) -> None:
    objects = [fastadam.Parameter(np.ones(2)), fastadam.Parameter(np.ones(2))]
    for one in objects:
        one.grad = np.ones(2)
    opt = fastadam.Adam([objects[0], np.ones(3), objects[1]], backend=backend)
    opt.step([np.ones(2), np.ones(3), np.ones(2)])
    with refused(opt, ValueError, "found no gradient for parameter 1"):
        opt.step()


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        pytest.param(np.ones(16, np.float32), TypeError, "one array, but there are 3 parameters", id="too short"),
        pytest.param(np.ones(18), TypeError, "has dtype float64, its parameter has float32", id="dtype"),
        pytest.param(np.ma.ones(18, np.float32), TypeError, "is a masked array", id="masked"),
    ],
)
def test_bad_gradient_for_the_whole_buffer(backend: str, bad: Any, error: Any, match: str) -> None:
    bench = take("packed", backend)
    with refused(bench.opt, error, match):
        bench.opt.step(bad)
    with refused(bench.opt, ValueError, "shares memory with parameter 0"):
        bench.opt.step(bench.flat.param)
    with refused(bench.opt, ValueError, "shares memory with parameter 0"):
        bench.opt.step(bench.flat.param[::-1])
    assert_goes_on(bench)


@pytest.mark.parametrize("closure", [3, "loss", np.ones(3)])
def test_closure_that_cannot_be_called(backend: str, closure: Any) -> None:
    bench = Bench("objects", backend)
    with refused(bench.opt, TypeError, "closure"):
        bench.opt.step(closure=closure)


def test_closure_that_raises(backend: str) -> None:
    for bench in each_layout(backend):

        def closure(objects: Any = bench.objects) -> float:
            for one in objects:
                one.grad = np.ones_like(one.data)
            raise ZeroDivisionError("no loss")

        with refused(bench.opt, ZeroDivisionError, "no loss"):
            bench.opt.step(closure=closure)
        with refused(bench.opt, ZeroDivisionError, "no loss"):
            bench.opt.step(_grads(3), closure=closure)
        assert_goes_on(bench)


@pytest.mark.parametrize(
    ("grad", "error", "match"),
    [(np.broadcast_to(1.0, 3), ValueError, "read-only"), (np.float64(1), TypeError, "is a float64")],
)
def test_gradients_that_cannot_be_filled_are_refused_before_any_is(grad: Any, error: Any, match: str) -> None:
    params = [fastadam.Parameter(np.zeros(3)), fastadam.Parameter(np.zeros(grad.shape))]
    params[0].grad, params[1].grad = np.ones(3), grad
    optimizer = fastadam.Adam(params)
    with pytest.raises(error, match=f"the gradient of parameter 1.*{match}.*set_to_none=True"):
        optimizer.zero_grad(set_to_none=False)
    assert params[0].grad.tolist() == [1, 1, 1]
    optimizer.zero_grad()
    assert params[0].grad is params[1].grad is None
