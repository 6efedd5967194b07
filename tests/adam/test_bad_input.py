"""Bad input gets a clear error before anything is written; input that only looks bad gives the same bits."""

from __future__ import annotations

import contextlib
import copy
import functools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

SHAPES = ((3, 4), (5,), ())
NAMES = ("w", "b", "scale")
LAYOUTS = ("in place", "packed", "objects", "groups", "named", "packed and named")
FLOAT32 = np.dtype(np.float32)


class Subclass(np.ndarray):
    """An ndarray subclass, as np.memmap is one."""


# What only looks like torch: the tests must not need it.
Tensor = type("Tensor", (), {"__module__": "torch", "__array__": lambda self, *args, **kwargs: np.ones(5)})


class OnDevice:
    """What looks like an array on a GPU."""

    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012 - never looked into


class Ambiguous:
    """What cannot be compared, as tensors of several elements cannot."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("truth value is ambiguous")


class Bench:
    """An optimizer in one of the layouts, with two good steps behind it, so that no moment is zero."""

    def __init__(self, layout: str, backend: str, **options: Any) -> None:
        self.innocent: Bench  # set by `take`
        self.layout = layout
        self.key = (layout, backend, tuple(options.items()))
        arrays = random_arrays(SHAPES, FLOAT32, seed=1)
        self.flat: Any = None
        self.objects: list[Any] = []
        params: Any = arrays
        if layout.startswith("packed"):
            named = dict(zip(NAMES, arrays, strict=True))
            params = self.flat = fastadam.pack(named if "named" in layout else arrays)
            arrays = self.flat.param_views
        elif layout == "objects":
            params = self.objects = [fastadam.Parameter(array) for array in arrays]
        elif layout == "groups":
            params = [{"params": arrays[:1], "lr": 0.02}, {"params": arrays[1:], "amsgrad": True}]
        elif layout == "named":
            params = dict(zip(NAMES, arrays, strict=True))
        self.arrays = arrays
        self.names = NAMES if "named" in layout else ()
        self.opt = fastadam.Adam(params, **{"lr": 0.01, "weight_decay": 0.1, "backend": backend, **options})
        self.good_step(2)
        self.good_step(3)

    def step(self, grads: list[Any]) -> None:
        """Step in the way of the layout: with a list, with a mapping, or with `Parameter.grad`."""
        if self.objects:
            for parameter, grad in zip(self.objects, grads, strict=True):
                parameter.grad = grad
            self.opt.step()
        elif self.names:
            self.opt.step(dict(zip(self.names, grads, strict=True)))
        else:
            self.opt.step(grads)

    def good_step(self, seed: int) -> None:
        self.step(random_arrays(SHAPES, FLOAT32, seed))


# Pairs of equal benches that passed a test and can serve in the next one: refused input leaves no trace.
_pairs: dict[Any, list[tuple[Bench, Bench]]] = {}


def take(layout: str, backend: str, **options: Any) -> Bench:
    """Return a bench that meets bad input; `assert_goes_on` compares it with its twin that never does."""
    print("layout:", layout)  # pytest shows it where the test fails
    key = (layout, backend, tuple(options.items()))
    if _pairs.get(key):
        bench, innocent = _pairs[key].pop()
    else:
        bench, innocent = Bench(layout, backend, **options), Bench(layout, backend, **options)
    bench.innocent = innocent
    return bench


def each_layout(backend: str, layouts: Iterable[str] = LAYOUTS, **options: Any) -> Iterator[Bench]:
    return (take(layout, backend, **options) for layout in layouts)


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compare two snapshots, the quick way first."""
    if [array.tobytes() for array in actual.values()] != [array.tobytes() for array in expected.values()]:
        assert_same_state(actual, expected)
    assert actual.keys() == expected.keys()


def assert_goes_on(bench: Bench) -> None:
    """Take one more good step; the bits are those of the twin that never met anything bad."""
    bench.good_step(4)
    bench.innocent.good_step(4)
    assert_same(snapshot(bench.opt), snapshot(bench.innocent.opt))
    _pairs.setdefault(bench.key, []).append((bench, bench.innocent))


@contextlib.contextmanager
def refused(opt: fastadam.Adam, error: Any, match: str) -> Iterator[None]:
    """Expect an error that leaves parameters, moments, step counts and groups as they were."""
    before, groups = snapshot(opt), len(opt.param_groups)
    with pytest.raises(error, match=match):
        yield
    assert_same(snapshot(opt), before)
    assert len(opt.param_groups) == groups


def unaligned(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy at an odd address."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    odd = raw[1:].view(array.dtype).reshape(array.shape)
    odd[...] = array
    return odd


def read_only(array: np.ndarray) -> np.ndarray:
    fixed = array.copy()
    fixed.flags.writeable = False
    return fixed


def flat_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


# -------------------- gradients

FIVE = np.ones(5, np.float32)
needs_longdouble = pytest.mark.skipif(
    np.dtype(np.longdouble) == np.dtype(np.float64), reason="longdouble is float64 here"
)


def _shape(shape: Any) -> str:
    return r"the gradient of parameter (1|'b') has shape " + shape + r", its parameter has \(5,\)"


def _dtype(name: str) -> str:
    return r"the gradient of parameter (1|'b') has dtype " + name + r", its parameter has float32; convert it"


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
    pytest.param(np.ones(5, np.float16), TypeError, _dtype("float16"), id="float16"),
    pytest.param(
        np.ones(5, np.longdouble), TypeError, _dtype(r"(float96|float128|float64|longdouble)"), id="longdouble"
    ),
    pytest.param(np.ones(5, np.complex64), TypeError, _dtype("complex64"), id="complex"),
    pytest.param(np.ones(5, np.int32), TypeError, _dtype("int32"), id="int"),
    pytest.param(np.ones(5, bool), TypeError, _dtype("bool"), id="bool"),
    pytest.param(np.ones(5, object), TypeError, _dtype("object"), id="object"),
    pytest.param(np.ones(5, FLOAT32.newbyteorder()), TypeError, _dtype("[<>]f4"), id="byte-swapped"),
    pytest.param(np.ones(5, [("x", "f4")]), TypeError, _dtype(r"\[\('x', '<f4'\)\]"), id="structured"),
    pytest.param(np.array(list("abcde")), TypeError, _dtype("<U1"), id="strings"),
    pytest.param([1.0] * 5, TypeError, _kind("list, not a NumPy array; use None"), id="list"),
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


# -------------------- parameters

BAD_ARRAYS = [
    pytest.param(lambda: read_only(FIVE), ValueError, "is read-only; .*pass a writable copy", id="read-only"),
    pytest.param(lambda: np.broadcast_to(FIVE, (2, 5)), ValueError, "is read-only", id="broadcast"),
    pytest.param(
        lambda: np.ones(9)[::2], ValueError, r"\(5,\) is not C-contiguous \(strides \(16,\)\)", id="strided"
    ),
    pytest.param(lambda: np.ones(5)[::-1], ValueError, r"is not C-contiguous \(strides \(-8,\)\)", id="reversed"),
    pytest.param(lambda: np.ones((2, 3)).T, ValueError, r"of shape \(3, 2\) is not C-contig", id="transposed"),
    pytest.param(
        lambda: np.ones((2, 3), order="F"), ValueError, "is not C-contiguous.*ascontig", id="Fortran order"
    ),
    pytest.param(lambda: np.ones((4, 4))[:, :2], ValueError, "is not C-contiguous", id="block"),
    pytest.param(lambda: unaligned(np.ones(5)), ValueError, "is not aligned to its dtype float64", id="unaligned"),
    pytest.param(
        lambda: np.ones(5, FLOAT32.newbyteorder()),
        TypeError,
        r"has dtype >f4 \(not in this machine's byte order\)",
        marks=pytest.mark.skipif(sys.byteorder != "little", reason="big-endian machine"),
        id="byte-swapped",
    ),
    pytest.param(lambda: np.ones(5, object), TypeError, "has dtype object; supported are float32", id="object"),
    pytest.param(lambda: np.ones(5, np.int64), TypeError, "has dtype int64; supported are .*astype", id="int"),
    pytest.param(lambda: np.ones(5, bool), TypeError, "has dtype bool", id="bool"),
    pytest.param(lambda: np.ones(5, np.float16), TypeError, "has dtype float16", id="float16"),
    pytest.param(
        lambda: np.ones(5, np.longdouble),
        TypeError,
        "has dtype float",
        marks=needs_longdouble,
        id="longdouble",
    ),
    pytest.param(
        lambda: np.ones(5, np.clongdouble),
        TypeError,
        "has dtype complex",
        marks=needs_longdouble,
        id="clongdouble",
    ),
    pytest.param(lambda: np.ones(5, [("x", "f4")]), TypeError, "has dtype .*'x'", id="structured"),
    pytest.param(lambda: np.array(["a"]), TypeError, "has dtype <U1", id="strings"),
    pytest.param(lambda: np.ones(5, "M8[s]"), TypeError, "has dtype datetime64", id="dates"),
    pytest.param(lambda: np.ma.ones(5), TypeError, "is a masked array, whose mask would be ignored", id="masked"),
    pytest.param(lambda: [1.0, 2.0], TypeError, "is a list, not a NumPy array", id="list"),
    pytest.param(lambda: 1.0, TypeError, "is a float, not a NumPy array", id="float"),
    pytest.param(lambda: np.float64(1), TypeError, "is a numpy.float64, not a NumPy array", id="NumPy scalar"),
    pytest.param(lambda: None, TypeError, "is a NoneType, not a NumPy array", id="None"),
    pytest.param(lambda: "w", TypeError, "is a str, not a NumPy array", id="string"),
    pytest.param(lambda: FIVE.data, TypeError, "is a memoryview, not a NumPy array", id="memoryview"),
    pytest.param(
        Tensor, TypeError, r"is a torch.Tensor, not a NumPy array; use fastadam.torch.Adam", id="torch tensor"
    ),
    pytest.param(OnDevice, TypeError, "OnDevice whose __cuda_array_interface__ cannot be read", id="on a device"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD_ARRAYS)
def test_bad_parameter(backend: str, make: Callable[[], Any], error: Any, match: str) -> None:
    good = random_arrays([(3,)], np.float64, 1)[0]
    before = good.copy()
    unnamed = ([good, make()], (one for one in [good, make()]), [{"params": [good]}, {"params": [make()]}])
    named = ({"w": good, "b": make()}, [("w", good), ("b", make())], [{"params": {"w": good, "b": make()}}])
    for params in unnamed:
        with pytest.raises(error, match="parameter 1 .*" + match):
            fastadam.Adam(params, backend=backend)
    for params in named:
        with pytest.raises(error, match="parameter 'b' .*" + match):
            fastadam.Adam(params, backend=backend)
    with pytest.raises(error, match="data .*" + match):
        fastadam.Parameter(make())
    assert_same_bits(good, before)


@pytest.mark.parametrize(("make", "error", "match"), BAD_ARRAYS)
def test_bad_parameter_in_a_new_group(backend: str, make: Callable[[], Any], error: Any, match: str) -> None:
    bench = take("groups", backend)
    with refused(bench.opt, error, "parameter 4 .*" + match):
        bench.opt.add_param_group({"params": [np.ones(3), make()]})
    assert_goes_on(bench)


def test_bad_parameters_to_pack() -> None:
    for params, error, match in (
        ([], ValueError, "params is empty"),
        ({}, ValueError, "params is empty"),
        (np.ones(3), TypeError, r"params is one array; pack takes several: fastadam.pack\(\[array\]\)"),
        ([np.ones(3), [1.0]], TypeError, r"params\[1\] is a list, not a NumPy array"),
        ([np.ones(3), np.ones(3, int)], TypeError, r"params\[1\] has dtype int64"),
        (
            {"w": np.ones(3), "b": np.ones(3, np.float32)},
            TypeError,
            r"params\['b'\] has dtype float32, params\['w'\]",
        ),
        ({1: np.ones(3)}, TypeError, "params has the key 1; names must be strings"),
        ([np.ma.ones(3)], TypeError, r"params\[0\] is a masked array"),
    ):
        with pytest.raises(error, match=match):
            fastadam.pack(params)


def _a(n: int = 3) -> np.ndarray:
    return np.ones(n)


BAD_COLLECTIONS = [
    pytest.param(list, ValueError, "params is empty; an optimizer needs at least one array", id="list"),
    pytest.param(lambda: (), ValueError, "params is empty", id="tuple"),
    pytest.param(lambda: iter(()), ValueError, "params is empty", id="empty iterator"),
    pytest.param(lambda: (x for x in ()), ValueError, "params is empty", id="empty generator"),
    pytest.param(dict, ValueError, "params is empty; a group needs at least one array", id="empty mapping"),
    pytest.param(lambda: [{"params": []}], ValueError, "params is empty; a group needs", id="empty group"),
    pytest.param(
        lambda: [{"params": [_a()]}, {"params": ()}],
        ValueError,
        r"param_groups\[1\]: params is empty",
        id="second empty",
    ),
    pytest.param(lambda: {1, 2}, TypeError, "params is a set, which has no order", id="set"),
    pytest.param(lambda: frozenset({1}), TypeError, "params is a set", id="frozenset"),
    pytest.param(lambda: [{"params": {1, 2}}], TypeError, "params is a set", id="set in a group"),
    pytest.param(
        lambda: "abc", TypeError, "params must be an array, an iterable.* got 'abc' of type str", id="string"
    ),
    pytest.param(lambda: b"abc", TypeError, "params must be .* got b'abc' of type bytes", id="bytes"),
    pytest.param(lambda: 3.5, TypeError, "params must be .* got 3.5 of type float", id="number"),
    pytest.param(lambda: np.float64(1), TypeError, "params must be .* of type float64", id="NumPy scalar"),
    pytest.param(lambda: None, TypeError, "params must be .* got None of type NoneType", id="None"),
    pytest.param(lambda: abs, TypeError, "params must be .* of type builtin_function", id="function"),
    pytest.param(lambda: [{"params": None}], TypeError, "params must be .* got None", id="None in a group"),
    pytest.param(lambda: [1.0, 2.0], TypeError, "parameter 0 is a float, not a NumPy array", id="list of numbers"),
    pytest.param(lambda: [[_a()]], TypeError, "parameter 0 is a list, not a NumPy array", id="nested list"),
    pytest.param(
        lambda: {"layer": {"w": _a()}}, TypeError, "parameter 'layer' is a dict, not a", id="nested mapping"
    ),
    pytest.param(
        lambda: [{"params": _a()}, _a()],
        TypeError,
        "params mixes group dicts and arrays; put each",
        id="group, array",
    ),
    pytest.param(lambda: [_a(), {"params": _a()}], TypeError, "params mixes group dicts and", id="array, group"),
    pytest.param(
        lambda: [("w", _a()), _a()], ValueError, r"params\[1\] has no name, others have", id="pair, array"
    ),
    pytest.param(
        lambda: [_a(), ("w", _a())], ValueError, r"params\[0\] has no name, others have", id="array, pair"
    ),
    pytest.param(
        lambda: [{"params": {"w": _a()}}, {"params": _a()}],
        ValueError,
        "parameter 1 has no name",
        id="group unnamed",
    ),
    pytest.param(
        lambda: [("w", _a()), ("w", _a())],
        ValueError,
        "the name 'w' is given to parameters 0 and 1",
        id="same name",
    ),
    pytest.param(
        lambda: [{"params": {"w": _a(), "b": _a()}}, {"params": {"b": _a()}}],
        ValueError,
        "the name 'b' is given to parameters 1 and 2",
        id="same name in two groups",
    ),
    pytest.param(lambda: {1: _a()}, TypeError, "params has the key 1; names must be strings", id="number as name"),
    pytest.param(lambda: [(1, _a())], TypeError, "parameter 0 is a tuple, not a NumPy array", id="number in pair"),
    pytest.param(
        lambda: {"params": _a()}, TypeError, "single dict with the key 'params'; put group", id="bare group"
    ),
    pytest.param(
        lambda: {"params": _a(), "lr": 0.1}, TypeError, "single dict with the key 'params'", id="bare with lr"
    ),
    pytest.param(
        lambda: [{"w": _a(), "b": _a()}],
        ValueError,
        r"the group has no 'params'; it has \['b', 'w'\]",
        id="layers",
    ),
    pytest.param(
        lambda: [{"params": _a()}, {"lr": 0.1}],
        ValueError,
        r"param_groups\[1\]: the group has no 'params'",
        id="no params",
    ),
    pytest.param(
        lambda: [fastadam.pack([_a()]), _a()],
        TypeError,
        r"params\[0\] is packed; give a packed buffer",
        id="packed, array",
    ),
    pytest.param(
        lambda: [{"params": _a(), "learning_rate": 0.1}],
        ValueError,
        r"param_groups\[0\]: unknown option 'learning_rate'; known are params, lr, betas",
        id="misspelled option",
    ),
    pytest.param(
        lambda: [{"params": _a()}, {"params": _a(), "Lr": 1}],
        ValueError,
        r"param_groups\[1\]: unknown option 'Lr'",
        id="misspelled in the second group",
    ),
    pytest.param(lambda: [{"params": _a(), 1: 2}], ValueError, "unknown option 1", id="number as option"),
    pytest.param(
        lambda: [{"params": _a(), "fused": True}], ValueError, "unknown option 'fused'", id="option of torch"
    ),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD_COLLECTIONS)
def test_bad_collection(backend: str, make: Callable[[], Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        fastadam.Adam(make(), backend=backend)


def _w() -> np.ndarray:
    return np.arange(12.0)


SHARED = [
    pytest.param(lambda w: [w, w], id="given twice"),
    pytest.param(lambda w: [w[:7], w[5:]], id="slices that overlap"),
    pytest.param(lambda w: [w[5:], w[:6]], id="slices in the other order"),
    pytest.param(lambda w: [w[:4], w[6:], w[3:5]], id="the third one overlaps"),
    pytest.param(lambda w: [w, w[4:5]], id="one inside"),
    pytest.param(lambda w: [w, w.reshape(3, 4)], id="another shape"),
    pytest.param(lambda w: [w[:6], w.view(np.complex128)], id="another dtype"),
    pytest.param(lambda w: [w, w[5:6].reshape(())], id="0-d"),
    pytest.param(lambda w: [w, w.view(Subclass)], id="subclass"),
    pytest.param(lambda w: [w, fastadam.Parameter(w)], id="Parameter around it"),
    pytest.param(lambda w: [fastadam.Parameter(w), fastadam.Parameter(w)], id="two Parameters"),
    pytest.param(lambda w: [fastadam.Parameter(w)] * 2, id="one Parameter twice"),
    pytest.param(lambda w: {"a": w, "b": w}, id="two names"),
    pytest.param(lambda w: [{"params": w[:7]}, {"params": [w[6:]]}], id="two groups"),
    pytest.param(lambda w: [{"params": (flat := fastadam.pack([w]))}, {"params": flat}], id="packed twice"),
    pytest.param(
        lambda w: [{"params": (flat := fastadam.pack([w, w]))}, {"params": flat.params[1]}],
        id="packed and its view",
    ),
]


@pytest.mark.parametrize("make", SHARED)
def test_parameters_that_share_memory(backend: str, make: Callable[[np.ndarray], Any]) -> None:
    with pytest.raises(ValueError, match=r"parameter ([0-2]|'[ab]') and parameter ([0-2]|'[ab]') share memory"):
        fastadam.Adam(make(_w()), backend=backend)


def test_new_group_that_shares_memory(backend: str) -> None:
    for bench in each_layout(backend):

        def group(params: Any, named: Any = bench.names) -> dict[str, Any]:
            return {"params": {"more": params} if named else params}

        for params in (
            bench.arrays[1],
            bench.arrays[0][1],
            bench.arrays[2],
            fastadam.Parameter(bench.arrays[1][2:]),
        ):
            with refused(bench.opt, ValueError, r"parameter .* share memory \(or are the same array\); give each"):
                bench.opt.add_param_group(group(params))
        with refused(bench.opt, ValueError, "exp_avg_sq of .*share memory"):
            bench.opt.add_param_group(group(bench.opt.state[1]["exp_avg_sq"]))
        w = np.ones(5)
        twice = {"more": w[:3], "most": w[2:]} if bench.names else [w[:3], w[2:]]
        with refused(bench.opt, ValueError, "share memory"):
            bench.opt.add_param_group({"params": twice})
        assert_goes_on(bench)


def test_neighbours_and_empty_slices_do_not_share_memory(backend: str) -> None:
    whole = random_arrays([(12,)], np.float64, 1)[0]
    apart = [whole[:5].copy(), whole[5:].copy()]
    grads = random_arrays([(5,), (7,)], np.float64, 2)
    one = fastadam.Adam([whole[:5], whole[3:3], whole[5:]], backend=backend)
    two = fastadam.Adam(apart, backend=backend)
    one.step([grads[0], np.ones(0), grads[1]])
    two.step(grads)
    assert_same_bits(whole, np.concatenate(apart))


BAD_NEW_GROUPS = [
    pytest.param([np.ones(2)], TypeError, "param_group must be a dict with the key 'params', got", id="list"),
    pytest.param(np.ones(2), TypeError, "param_group must be a dict", id="array"),
    pytest.param(None, TypeError, "param_group must be a dict with the key 'params', got None", id="None"),
    pytest.param({}, ValueError, r"param_groups\[\d\]: the group has no 'params'; it has \[\]", id="empty dict"),
    pytest.param({"lr": 0.1}, ValueError, r"the group has no 'params'; it has \['lr'\]", id="no params"),
    pytest.param({"params": []}, ValueError, "params is empty; a group needs at least one array", id="no arrays"),
    pytest.param({"params": {1}}, TypeError, "params is a set", id="set"),
    pytest.param(
        {"params": np.ones(2), "LR": 1}, ValueError, r"param_groups\[\d\]: unknown option 'LR'", id="typo"
    ),
    pytest.param({"params": [{"params": np.ones(2)}]}, TypeError, "is a dict, not a NumPy array", id="nested"),
    pytest.param({"params": [("new", _a()), _a()]}, ValueError, r"params\[1\] has no name", id="half named"),
]


@pytest.mark.parametrize(("group", "error", "match"), BAD_NEW_GROUPS)
def test_bad_new_group(backend: str, group: Any, error: Any, match: str) -> None:
    for bench in each_layout(backend):
        with refused(bench.opt, error, match):
            bench.opt.add_param_group(group)
        assert_goes_on(bench)


def test_new_group_with_and_without_names(backend: str) -> None:
    for bench in each_layout(backend):
        if bench.names:
            with refused(bench.opt, ValueError, "parameter 3 has no name, others have; name all of them or none"):
                bench.opt.add_param_group({"params": np.ones(3)})
            with refused(bench.opt, ValueError, "the name 'b' is given to parameters 1 and 3"):
                bench.opt.add_param_group({"params": {"b": np.ones(3)}})
        else:
            with refused(bench.opt, ValueError, "parameter 0 has no name, others have; name all of them or none"):
                bench.opt.add_param_group({"params": {"new": np.ones(3)}})
        assert_goes_on(bench)


# -------------------- options

NUMBER = " must be a real number, got "
RANGE = " must be finite and at least 0, got "
FLAG = " must be True or False, got "
BAD_OPTIONS = [
    *(
        pytest.param(option, value, error, f"{option}{text}", id=f"{option}={value!r}")
        for option in ("lr", "eps", "weight_decay")
        for value, error, text in (
            (-1e-3, ValueError, RANGE + "-0.001"),
            (-1, ValueError, RANGE + "-1"),
            (float("nan"), ValueError, RANGE + "nan"),
            (float("inf"), ValueError, RANGE + "inf"),
            (-float("inf"), ValueError, RANGE + "-inf"),
            (np.float32("nan"), ValueError, RANGE + r"(np\.float32\()?nan"),
            (10**400, ValueError, RANGE + "1000"),
            ("0.1", TypeError, NUMBER + "'0.1' of type str"),
            (None, TypeError, NUMBER + "None of type NoneType"),
            (True, TypeError, NUMBER + "True of type bool"),
            (np.True_, TypeError, NUMBER + r"(np\.)?True"),
            (1j, TypeError, NUMBER + "1j of type complex"),
            ([0.1], TypeError, NUMBER + r"\[0.1\] of type list"),
            (np.array(0.1), TypeError, NUMBER + r"array\(0.1\) of type ndarray; try float\(.*" + option),
            (np.ones(2), TypeError, NUMBER + r"array\(\[1., 1.\]\) of type ndarray"),
            (np.ones(1), TypeError, NUMBER + r"array\(\[1.\]\) of type ndarray"),
        )
    ),
    pytest.param("eps", abs, TypeError, "eps" + NUMBER + "<built-in function abs>", id="eps callable"),
    pytest.param("weight_decay", Ambiguous(), TypeError, "weight_decay" + NUMBER, id="weight_decay ambiguous"),
    *(
        pytest.param("betas", value, error, text, id=f"betas={value!r}")
        for value, error, text in (
            ((1.0, 0.999), ValueError, r"betas\[0\] must be in \[0, 1\), got 1.0"),
            ((0.9, 1.0), ValueError, r"betas\[1\] must be in \[0, 1\), got 1.0"),
            ((0.9, 1), ValueError, r"betas\[1\] must be in \[0, 1\), got 1"),
            ((-0.1, 0.999), ValueError, r"betas\[0\] must be in \[0, 1\), got -0.1"),
            ((0.9, float("nan")), ValueError, r"betas\[1\] must be in \[0, 1\), got nan"),
            ((float("inf"), 0.9), ValueError, r"betas\[0\] must be in \[0, 1\), got inf"),
            ((0.9, Fraction(3, 2)), ValueError, r"betas\[1\] must be in \[0, 1\), got Fraction\(3, 2\)"),
            (("0.9", 0.999), TypeError, r"betas\[0\] must be a real number, got '0.9'"),
            ((0.9, None), TypeError, r"betas\[1\] must be a real number, got None"),
            ((False, 0.9), TypeError, r"betas\[0\] must be a real number, got False"),
            ((0.9, 0.9j), TypeError, r"betas\[1\] must be a real number, got 0.9j"),
            ((0.9, np.ones(2)), TypeError, r"betas\[1\] must be a real number, got array"),
            (0.9, TypeError, r"betas must be a pair of numbers, got 0.9; try betas=\(0.9, 0.999\)"),
            ((0.9,), TypeError, r"betas must be a pair of numbers, got \(0.9,\)"),
            ((0.9, 0.99, 0.999), TypeError, "betas must be a pair of numbers, got"),
            ((), TypeError, r"betas must be a pair of numbers, got \(\)"),
            ("ab", TypeError, "betas must be a pair of numbers, got 'ab'"),
            (None, TypeError, "betas must be a pair of numbers, got None"),
            ({0.9, 0.999}, TypeError, "betas must be a pair of numbers, got"),
            ({0: 0.9, 1: 0.999}, TypeError, "betas must be a pair of numbers, got"),
            (np.array([0.9, 0.999]), TypeError, "betas must be a pair of numbers, got array"),
        )
    ),
    *(
        pytest.param(option, value, TypeError, option + FLAG + text, id=f"{option}={value!r}")
        for option in ("amsgrad", "maximize", "decoupled_weight_decay")
        for value, text in (
            (1, "1"),
            (2.0, "2.0"),
            ("yes", "'yes'"),
            (None, "None"),
            (np.array([True, False]), "array"),
            (np.array(True), "array"),
        )
    ),
]
# "amsgrad" is on already in the second group.
# The three numbers are checked alike.
EDITS = [
    case
    for case in BAD_OPTIONS
    if case.id != "amsgrad=1" and (case.values[0] not in ("eps", "weight_decay") or len(case.id) < 19)
]


@pytest.mark.parametrize(("option", "value", "error", "match"), BAD_OPTIONS)
def test_bad_option(option: str, value: Any, error: Any, match: str) -> None:
    w = np.ones(3)
    with pytest.raises(error, match=match):
        fastadam.Adam([w], **{option: value})
    with pytest.raises(error, match=match):
        fastadam.Adam([{"params": w}], **{option: value})
    with pytest.raises(error, match=r"param_groups\[0\]: " + match):
        fastadam.Adam([{"params": w, option: value}])
    with pytest.raises(error, match=r"param_groups\[1\]: " + match):
        fastadam.Adam([{"params": w}, {"params": np.ones(2), option: value}])
    if option != "decoupled_weight_decay":
        with pytest.raises(error, match=match):
            fastadam.AdamW([w], **{option: value})


@pytest.mark.parametrize(("option", "value", "error", "match"), EDITS)
def test_bad_edit(backend: str, option: str, value: Any, error: Any, match: str) -> None:
    for bench in each_layout(backend, ["packed", "groups"]):
        group = bench.opt.param_groups[-1]
        before = group[option]
        with refused(bench.opt, error, rf"param_groups\[{len(bench.opt.param_groups)}\]: " + match):
            bench.opt.add_param_group({"params": np.ones(3), option: value})
        bench.opt.param_groups[0]["maximize"] = True  # a good edit, which must wait for the other one
        group[option] = value
        with refused(bench.opt, error, match):
            bench.good_step(9)
        group[option] = before
        bench.opt.param_groups[0]["maximize"] = False
        assert_goes_on(bench)


def test_bad_edit_names_the_group(backend: str) -> None:
    bench = Bench("groups", backend)
    bench.opt.param_groups[1]["lr"] = -1
    with refused(bench.opt, ValueError, r"param_groups\[1\]: lr must be finite and at least 0, got -1"):
        bench.good_step(9)


class Schedule:
    """A learning rate of 0.01, until `bad` is set."""

    bad: Any = 0.01

    def __call__(self, step: int) -> Any:
        if isinstance(self.bad, Exception):
            raise self.bad
        return self.bad


BAD_RATES = [
    pytest.param(float("nan"), ValueError, r"lr\(3\) must be finite and at least 0, got nan", id="NaN"),
    pytest.param(float("inf"), ValueError, r"lr\(3\) must be finite and at least 0, got inf", id="inf"),
    pytest.param(-0.1, ValueError, r"lr\(3\) must be finite and at least 0, got -0.1", id="negative"),
    pytest.param(np.float32(-1), ValueError, r"lr\(3\) must be finite and at least 0", id="negative float32"),
    pytest.param("0.1", TypeError, r"lr\(3\) must be a real number, got '0.1' of type str", id="string"),
    pytest.param(None, TypeError, r"lr\(3\) must be a real number, got None", id="None"),
    pytest.param(True, TypeError, r"lr\(3\) must be a real number, got True", id="bool"),
    pytest.param(1j, TypeError, r"lr\(3\) must be a real number, got 1j", id="complex"),
    pytest.param(np.ones(2), TypeError, r"lr\(3\) must be a real number, got array", id="array"),
    pytest.param(np.array(np.nan), ValueError, r"lr\(3\) must be finite and at least 0, got nan", id="0-d NaN"),
    pytest.param(np.array("a"), TypeError, r"lr\(3\) must be a real number, got 'a'", id="0-d string"),
    pytest.param(abs, TypeError, r"lr\(3\) must be a real number, got <built-in", id="function"),
    pytest.param(ZeroDivisionError("at 3"), ZeroDivisionError, "at 3", id="raises"),
]


@pytest.mark.parametrize(("rate", "error", "match"), BAD_RATES)
def test_bad_schedule(backend: str, rate: Any, error: Any, match: str) -> None:
    schedule = Schedule()
    for bench in each_layout(backend, ["in place", "packed", "objects", "named"], lr=schedule):
        schedule.bad = rate
        for _ in range(2):
            with refused(bench.opt, error, match):
                bench.good_step(9)
        schedule.bad = Schedule.bad
        assert_goes_on(bench)


@pytest.mark.parametrize(("rate", "error", "match"), BAD_RATES)
def test_bad_schedule_in_the_last_group(backend: str, rate: Any, error: Any, match: str) -> None:
    schedule = Schedule()
    groups = [
        {"params": np.ones(3)},
        {"params": np.ones(2), "weight_decay": 0.1},
        {"params": _a(), "lr": schedule},
    ]
    opt = fastadam.Adam(groups, backend=backend)
    grads = [np.ones(3), np.ones(2), np.ones(3)]
    opt.step(grads)
    opt.step([grads[0][::-1], *grads[1:]])
    schedule.bad = rate
    for last in (grads[2], grads[2][::-1]):
        with refused(opt, error, match):
            opt.step([*grads[:2], last])
    with refused(opt, error, match):
        opt.step([None, *grads[1:]])


def test_schedule_without_its_argument(backend: str) -> None:
    opt = fastadam.Adam([np.ones(3)], lr=lambda: 0.1, backend=backend)
    with refused(opt, TypeError, "takes 0 positional arguments"):
        opt.step([np.ones(3)])


def test_unknown_argument() -> None:
    for make in (fastadam.Adam, fastadam.AdamW):
        with pytest.raises(TypeError, match="learning_rate"):
            make([np.ones(3)], learning_rate=0.1)
    with pytest.raises(TypeError, match="decoupled_weight_decay"):
        fastadam.AdamW([np.ones(3)], decoupled_weight_decay=False)
    with pytest.raises(TypeError, match="positional"):
        fastadam.Adam([np.ones(3)], 1e-3, (0.9, 0.999), 1e-8, 0.0, False, True)


def test_misspelled_option_in_param_groups(backend: str) -> None:
    for bench in each_layout(backend):
        group = bench.opt.param_groups[-1]
        group["learning_rate"] = 0.5
        with refused(bench.opt, ValueError, "unknown option 'learning_rate'; known are lr, betas, eps"):
            bench.good_step(9)
        del group["learning_rate"]
        assert_goes_on(bench)


@pytest.mark.parametrize("key", ["params", "lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"])
def test_removed_option(backend: str, key: str) -> None:
    for bench in each_layout(backend):
        group = bench.opt.param_groups[-1]
        value = group.pop(key)
        with refused(bench.opt, ValueError, f"the option '{key}' was removed; assign it a value"):
            bench.good_step(9)
        group["typo"] = value  # as many keys as before
        with refused(bench.opt, ValueError, f"'{key}' was removed|unknown option 'typo'"):
            bench.good_step(9)
        del group["typo"]
        group[key] = value
        assert_goes_on(bench)


def test_removed_or_replaced_names(backend: str) -> None:
    """Names that differ from the optimizer's own would be saved with the state."""
    for bench in each_layout(backend, ["named", "packed and named"]):
        group = bench.opt.param_groups[0]
        names = group["param_names"]
        for edit in (("b", "w", "scale"), ("w",), None, "wbs"):
            group["param_names"] = edit
            with refused(bench.opt, ValueError, "'param_names' was replaced"):
                bench.good_step(9)
        del group["param_names"]
        with refused(bench.opt, ValueError, "the option 'param_names' was removed"):
            bench.good_step(9)
        group["typo"] = names  # as many keys as before
        with refused(bench.opt, ValueError, "'param_names' was removed|unknown option 'typo'"):
            bench.good_step(9)
        del group["typo"]
        group["param_names"] = names
        assert_goes_on(bench)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda params: (), id="none"),
        pytest.param(lambda params: params[:1], id="fewer"),
        pytest.param(lambda params: (*params, np.ones(2)), id="more"),
        pytest.param(lambda params: tuple(reversed(params)), id="reversed"),
        pytest.param(lambda params: tuple(np.zeros_like(one) for one in params), id="others"),
        pytest.param(lambda params: tuple(one.copy() for one in params), id="copies"),
        pytest.param(lambda params: None, id="None"),
        pytest.param(lambda params: "abc", id="string"),
    ],
)
@pytest.mark.parametrize("shapes", [[(3,), (2, 2)], [(1,), ()]])
def test_replaced_params(backend: str, shapes: Any, edit: Callable[[Any], Any]) -> None:
    """Arrays of one element compare like numbers: equal ones must be told apart all the same."""
    opt, innocent = (fastadam.Adam(random_arrays(shapes, np.float64, 1), backend=backend) for _ in range(2))
    opt.step(random_arrays(shapes, np.float64, 2))
    group = opt.param_groups[0]
    params = group["params"]
    group["params"] = edit(params)
    with refused(opt, ValueError, "'params' was replaced; a group's parameters are fixed, so use add_param_group"):
        opt.step(random_arrays(shapes, np.float64, 3))
    group["params"] = params
    opt.step(random_arrays(shapes, np.float64, 3))
    for seed in (2, 3):
        innocent.step(random_arrays(shapes, np.float64, seed))
    assert_same_state(snapshot(opt), snapshot(innocent))


def test_param_groups_edited_by_hand(backend: str) -> None:
    for bench in each_layout(backend):
        groups = bench.opt.param_groups
        n = len(groups)
        mine = {**groups[-1], "lr": 0.5}
        original = list(groups)
        groups[-1] = mine
        with refused(bench.opt, ValueError, rf"param_groups\[{n - 1}\] was replaced; edit the values"):
            bench.good_step(9)
        groups[-1] = original[-1]
        groups.append({"params": [np.ones(3)], "lr": 0.1})
        with refused(
            bench.opt, ValueError, f"param_groups has {n + 1} entries, the optimizer made {n}; use add_param"
        ):
            bench.good_step(9)
        groups.clear()
        with refused(bench.opt, ValueError, f"param_groups has 0 entries, the optimizer made {n}"):
            bench.good_step(9)
        groups.extend(original)
        if n > 1:
            groups.reverse()
            with refused(bench.opt, ValueError, r"param_groups\[0\] was replaced"):
                bench.good_step(9)
            groups.reverse()
        bench.opt.param_groups = list(groups)  # another list of the same dicts is fine
        assert_goes_on(bench)


@pytest.mark.parametrize("groups", [None, 3])
def test_param_groups_that_are_no_list(backend: str, groups: Any) -> None:
    bench = take("in place", backend)
    before = bench.opt.param_groups
    bench.opt.param_groups = groups
    state = snapshot(bench.opt)
    with pytest.raises((TypeError, ValueError)):
        bench.good_step(9)
    assert_same_state(snapshot(bench.opt), state)
    bench.opt.param_groups = before
    assert_goes_on(bench)


@pytest.mark.parametrize(
    ("argument", "value", "error", "match"),
    [
        ("threads", 0, ValueError, "threads must be from 1 to 256, got 0"),
        ("threads", -1, ValueError, "threads must be from 1 to 256, got -1"),
        ("threads", 257, ValueError, "threads must be from 1 to 256, got 257"),
        ("threads", 10**30, ValueError, "threads must be from 1 to 256, got 1000"),
        ("threads", 2.0, TypeError, "threads must be an int or None, got 2.0"),
        ("threads", "2", TypeError, "threads must be an int or None, got '2'"),
        ("threads", True, TypeError, "threads must be an int or None, got True"),
        ("threads", [2], TypeError, r"threads must be an int or None, got \[2\]"),
        (
            "backend",
            "tpu",
            ValueError,
            "backend must be 'auto' or one of 'c', 'numba', 'numpy', 'cuda', got 'tpu'",
        ),
        ("backend", "NumPy", ValueError, "backend must be 'auto' or one of .* got 'NumPy'"),
        ("backend", "", ValueError, "backend must be 'auto' or one of .* got ''"),
        ("backend", None, TypeError, "backend must be a string, got None"),
        ("backend", 1, TypeError, "backend must be a string, got 1"),
        ("backend", np, TypeError, "backend must be a string, got <module 'numpy'"),
    ],
)
def test_bad_threads_and_backend(argument: str, value: Any, error: Any, match: str) -> None:
    for make in (fastadam.Adam, fastadam.AdamW):
        with pytest.raises(error, match=match):
            make([np.ones(3)], **{argument: value})


# -------------------- saved states


def _set(*path: Any) -> Callable[[Any], Callable[[dict[str, Any]], Any]]:
    """Return a function of a value that returns an edit: put the value there in the state dict."""

    def to(value: Any) -> Callable[[dict[str, Any]], Any]:
        def edit(saved: dict[str, Any]) -> dict[str, Any]:
            at: Any = saved
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value(at.get(path[-1])) if callable(value) else value
            return saved

        return edit

    return to


def _drop(*path: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(saved: dict[str, Any]) -> dict[str, Any]:
        at: Any = saved
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        return saved

    return edit


def _group(key: str) -> Any:
    def to(value: Any) -> Callable[[dict[str, Any]], Any]:
        def edit(saved: dict[str, Any]) -> dict[str, Any]:
            saved["param_groups"][-1][key] = value
            return saved

        return edit

    return to


LAST = 2  # position of the last parameter: whatever came before it must not have been taken over
step_of = _set("state", LAST, "step")
exp_avg_of = _set("state", LAST, "exp_avg")
STEP = "step must be a whole number of at least 0, got "
LABEL = r"state dict, parameter (2|'scale'): "
BAD_STATES = [
    pytest.param(
        lambda saved: None,
        ValueError,
        "must be a mapping with the keys 'state' and 'param_groups'",
        id="None",
    ),
    pytest.param(lambda saved: [saved], ValueError, "must be a mapping with the keys", id="list"),
    pytest.param(lambda saved: {}, ValueError, "must be a mapping with the keys", id="empty"),
    pytest.param(lambda saved: saved["state"], ValueError, "must be a mapping with the keys", id="only the state"),
    pytest.param(_drop("state"), ValueError, "must be a mapping with the keys 'state'", id="no state"),
    pytest.param(_drop("param_groups"), ValueError, "must be a mapping with the keys", id="no groups"),
    pytest.param(_set("state")([1]), TypeError, "'state' must be a mapping", id="state is a list"),
    pytest.param(_set("state")(None), TypeError, "'state' must be a mapping", id="state is None"),
    pytest.param(_set("param_groups")(None), TypeError, "'param_groups' a list", id="groups are None"),
    pytest.param(_set("param_groups")({}), TypeError, "'param_groups' a list", id="groups are a mapping"),
    pytest.param(_set("param_groups")([]), ValueError, "has 0 parameter groups, the optimizer has", id="no group"),
    pytest.param(
        _set("param_groups")(lambda groups: groups * 2),
        ValueError,
        r"has \d parameter groups, the",
        id="more groups",
    ),
    pytest.param(
        _set("param_groups")(lambda groups: [*groups[:-1], [1, 2]]),
        ValueError,
        "must be a mapping with the key 'params'",
        id="group is a list",
    ),
    pytest.param(
        lambda saved: _drop("param_groups", len(saved["param_groups"]) - 1, "params")(saved),
        ValueError,
        "must be a mapping with the key 'params'",
        id="group without params",
    ),
    pytest.param(
        _group("params")([0]), ValueError, "it has 1 parameters, the optimizer's group has", id="too few"
    ),
    pytest.param(_group("params")([0, 1, 2, 3]), ValueError, "it has 4 parameters, the", id="too many"),
    pytest.param(_group("params")([]), ValueError, "it has 0 parameters", id="no parameters"),
    pytest.param(_group("params")(None), (TypeError, ValueError), "state dict.*params", id="params is None"),
    pytest.param(_group("params")(2), (TypeError, ValueError), "state dict.*params", id="params is a number"),
    pytest.param(
        lambda saved: _group("params")([[key] for key in saved["param_groups"][-1]["params"]])(saved),
        (TypeError, ValueError),
        "state dict.*(params|parameter)",
        id="params of lists",
    ),
    pytest.param(
        lambda saved: _group("params")([LAST] * len(saved["param_groups"][-1]["params"]))(saved),
        ValueError,
        "state dict.*(twice|which no parameter group lists)",
        id="one parameter for all",
    ),
    pytest.param(step_of(-1), ValueError, LABEL + STEP + "-1", id="negative step"),
    pytest.param(step_of(1.5), ValueError, LABEL + STEP + "1.5", id="fractional step"),
    pytest.param(step_of(float("nan")), ValueError, LABEL + STEP + "nan", id="NaN step"),
    pytest.param(step_of(float("inf")), ValueError, LABEL + STEP + "inf", id="infinite step"),
    pytest.param(step_of(2**62), ValueError, LABEL + STEP, id="huge step"),
    pytest.param(step_of(10**30), ValueError, LABEL + STEP, id="huger step"),
    pytest.param(step_of("2"), ValueError, LABEL + STEP + "'2'", id="string step"),
    pytest.param(step_of(None), ValueError, LABEL + STEP + "None", id="step is None"),
    pytest.param(step_of(2j), ValueError, LABEL + STEP + "2j", id="complex step"),
    pytest.param(step_of(True), ValueError, LABEL + STEP + "True", id="bool step"),
    pytest.param(step_of(np.ones(2)), ValueError, LABEL + STEP + "array", id="two steps"),
    pytest.param(step_of(np.ones(0)), ValueError, LABEL + STEP + "array", id="empty step"),
    pytest.param(exp_avg_of(np.ones(2, np.float32)), ValueError, LABEL + r"exp_avg has shape \(2,\)", id="shape"),
    pytest.param(exp_avg_of(np.ones(())), TypeError, LABEL + "exp_avg has dtype float64, the", id="dtype"),
    pytest.param(
        exp_avg_of(np.ones((), np.complex64)), TypeError, LABEL + "exp_avg has dtype complex64", id="complex"
    ),
    pytest.param(exp_avg_of(np.ones((), object)), TypeError, LABEL + "exp_avg has dtype object", id="object"),
    pytest.param(exp_avg_of("abc"), TypeError, LABEL + "exp_avg has dtype <U3", id="string"),
    pytest.param(exp_avg_of(None), TypeError, LABEL + "exp_avg has dtype object", id="None as moment"),
    pytest.param(
        _set("state", 0, "exp_avg_sq")(lambda array: array.T),
        ValueError,
        r"exp_avg_sq has shape \(4, 3\), the parameter",
        id="transposed",
    ),
    pytest.param(_drop("state", LAST, "step"), ValueError, LABEL + "its state has no 'step'", id="no step"),
    pytest.param(
        _drop("state", LAST, "exp_avg"), ValueError, LABEL + "its state has no 'exp_avg'", id="no exp_avg"
    ),
    pytest.param(
        _drop("state", LAST, "exp_avg_sq"), ValueError, LABEL + "its state has no 'exp_avg_sq'", id="no sq"
    ),
    pytest.param(
        _set("state", LAST, "momentum")(0),
        ValueError,
        LABEL + "its state has the unknown key 'momentum'",
        id="momentum",
    ),
    pytest.param(
        _set("state", LAST)([1, 2]),
        TypeError,
        LABEL + "its state must be a mapping, got list",
        id="entry list",
    ),
    pytest.param(
        _set("state", LAST)(None),
        TypeError,
        LABEL + "its state must be a mapping, got NoneType",
        id="entry None",
    ),
    pytest.param(
        lambda saved: _set("state", 7)(saved["state"][0])(saved),
        ValueError,
        r"has state for \[7\], which no parameter group lists",
        id="extra entry",
    ),
    pytest.param(_set("state", "w")({}), ValueError, r"has state for \['w'\], which no", id="entry under a name"),
    pytest.param(
        _group("lr")(-1), ValueError, r"state dict, param_groups\[.\]: lr must be finite", id="negative lr"
    ),
    pytest.param(
        _group("lr")("0.1"), TypeError, "state dict, .*lr must be a real number, got '0.1'", id="lr string"
    ),
    pytest.param(_group("betas")((0.9, 1.0)), ValueError, r"state dict, .*betas\[1\] must be in", id="betas"),
    pytest.param(_group("eps")(float("nan")), ValueError, "state dict, .*eps must be finite", id="eps"),
    pytest.param(
        _group("weight_decay")(None), TypeError, "state dict, .*weight_decay must be a", id="weight_decay"
    ),
    pytest.param(
        _group("maximize")("no"), TypeError, "state dict, .*maximize must be True or False", id="maximize"
    ),
    pytest.param(
        _group("momentum")(0.9), ValueError, "state dict, .*unknown option 'momentum'", id="unknown option"
    ),
    pytest.param(
        lambda saved: _drop("param_groups", len(saved["param_groups"]) - 1, "lr")(saved),
        ValueError,
        "state dict, .*the option 'lr' is missing",
        id="no lr",
    ),
]


@functools.cache
def saved_elsewhere(layout: str, backend: str) -> dict[str, Any]:
    """Return a state dict that differs everywhere, so that taking over any part of it would show."""
    other = Bench(layout, backend, maximize=True)
    other.good_step(5)
    return other.opt.state_dict()


@pytest.mark.parametrize(("edit", "error", "match"), BAD_STATES)
def test_bad_state_dict(backend: str, edit: Callable[[Any], Any], error: Any, match: str) -> None:
    for bench in each_layout(backend, ["packed", "groups", "named"]):
        saved = edit(copy.deepcopy(saved_elsewhere(bench.layout, backend)))
        options = [dict(group) for group in bench.opt.param_groups]
        with refused(bench.opt, error, match):
            bench.opt.load_state_dict(saved)
        for group, before in zip(bench.opt.param_groups, options, strict=True):
            assert all(group[key] is before[key] for key in before)
        assert_goes_on(bench)


def test_amsgrad_state_without_running_maximum(backend: str) -> None:
    for bench in each_layout(backend, ["in place", "packed", "named"]):
        saved = Bench(bench.layout, backend).opt.state_dict()
        saved["param_groups"][0]["amsgrad"] = True
        with refused(bench.opt, ValueError, "amsgrad is on, but entry 0 has no max_exp_avg_sq"):
            bench.opt.load_state_dict(saved)
        saved = Bench(bench.layout, backend, amsgrad=True).opt.state_dict()
        del saved["state"][2]["max_exp_avg_sq"]
        with refused(bench.opt, ValueError, "amsgrad is on, but entry 2 has no max_exp_avg_sq"):
            bench.opt.load_state_dict(saved)
        assert not bench.opt.param_groups[0]["amsgrad"]
        assert_goes_on(bench)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        pytest.param(["w", "b", "gain"], r"missing \['scale'\], unexpected \['gain'\]", id="another name"),
        pytest.param(["w", "b"], "names", id="a name less"),
        pytest.param(["w", "b", "scale", "more"], "names", id="a name more"),
        pytest.param(["w", "b", "b"], "names differ: missing", id="a name twice"),
        pytest.param(None, "names", id="None"),
        pytest.param(3, "names", id="number"),
        pytest.param([["w"], ["b"], ["scale"]], "names", id="lists"),
    ],
)
def test_state_dict_with_other_names(backend: str, names: Any, match: str) -> None:
    for bench in each_layout(backend, ["named", "packed and named"]):
        other = Bench(bench.layout, backend)
        other.good_step(5)
        saved = other.opt.state_dict()
        saved["param_groups"][0]["param_names"] = names
        with refused(bench.opt, (TypeError, ValueError), "state dict, .*" + match):
            bench.opt.load_state_dict(saved)
        assert_goes_on(bench)


def test_state_dict_that_lists_one_entry_twice(backend: str) -> None:
    opt = fastadam.Adam([np.ones(2), np.ones(2)], backend=backend)
    opt.step([np.ones(2), None])
    saved = opt.state_dict()
    saved["param_groups"][0]["params"] = [0, 0]
    with refused(opt, ValueError, "the entry 0 appears twice"):
        opt.load_state_dict(saved)


def test_state_dict_over_the_live_state(backend: str) -> None:
    """The saved moments are views of those that are written: they must be read before."""
    opt = fastadam.Adam([np.ones(2), np.ones(2)], backend=backend)
    opt.step([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    before = snapshot(opt)
    saved = {"state": opt.state, "param_groups": opt.state_dict()["param_groups"]}
    saved["param_groups"][0]["params"] = [1, 0]
    opt.load_state_dict(saved)
    for name in ("exp_avg", "exp_avg_sq"):
        assert_same_bits(opt.state[0][name], before[f"{name} 0.1"])
        assert_same_bits(opt.state[1][name], before[f"{name} 0.0"])


# -------------------- parameters changed afterwards


def test_parameter_made_read_only_afterwards(backend: str) -> None:
    for bench in each_layout(backend):
        for at in (0, 2):
            bench.arrays[at].flags.writeable = False
            with refused(bench.opt, ValueError, rf"parameter ({at}|'{NAMES[at]}') is read-only"):
                bench.good_step(9)
            bench.arrays[at].flags.writeable = True
        assert_goes_on(bench)


def test_subclass_made_read_only_afterwards(backend: str) -> None:
    w = np.ones(3).view(Subclass)
    opt = fastadam.Adam([np.ones(2), w], backend=backend)
    opt.step([np.ones(2), np.ones(3)])
    w.flags.writeable = False
    with refused(opt, ValueError, "parameter 1 is read-only"):
        opt.step([np.ones(2), np.ones(3)])


def test_packed_buffer_made_read_only_afterwards(backend: str) -> None:
    bench = take("packed", backend)
    bench.flat.grad[...] = 1
    bench.flat.param.flags.writeable = False
    with refused(bench.opt, ValueError, "parameter 0 .*is read-only"):
        bench.opt.step()
    bench.flat.param.flags.writeable = True
    assert_goes_on(bench)


PULL_AWAY = """
import warnings

import numpy as np

import fastadam

warnings.simplefilter("ignore")  # some of these ways are deprecated


class Subclass(np.ndarray):
    pass


def bench(make):
    w = np.ones((2, 4))
    if make == "array":
        params = [w]
    elif make == "subclass":
        w = w.view(Subclass)
        params = [w]
    elif make == "memory-mapped":
        w = np.memmap(sys.argv[2], float, "w+", shape=(2, 4))
        w[...] = 1
        params = [w]
    elif make == "Parameter":
        params = [fastadam.Parameter(w)]
        w = params[0].data
    elif make == "mapping":
        params = {"w": w}
    else:
        params = fastadam.pack([w])
        w = params.params[0] if make == "packed" else params.param
    opt = fastadam.Adam(params, backend=sys.argv[1])
    opt.step([np.full((2, 4), 2.0)] if make != "mapping" else {"w": np.full((2, 4), 2.0)})
    return w, opt


def step(w, opt, make):
    grad = np.full(w.shape, 2.0, w.dtype)
    opt.step({"w": grad} if make == "mapping" else grad)


def other_dtype(w, dtype):
    w.dtype = dtype


def other_shape(w):
    w.shape = (4, 2)


PULLS = {
    "larger": lambda w, opt: w.resize(1 << 20, refcheck=False),
    "smaller": lambda w, opt: w.resize(0, refcheck=False),
    "moment": lambda w, opt: opt.state[0]["exp_avg"].resize(1 << 20, refcheck=False),
    "set state": lambda w, opt: w.__setstate__((1, w.shape, w.dtype, False, w.tobytes())),
    "set longer state": lambda w, opt: w.__setstate__((1, (9, 9), w.dtype, False, np.ones((9, 9)).tobytes())),
    "narrower dtype": lambda w, opt: other_dtype(w, np.float32),
    "wider dtype": lambda w, opt: other_dtype(w, np.complex128),
    "dtype of the same size": lambda w, opt: other_dtype(w, np.complex64),
    "shape": lambda w, opt: other_shape(w),
}
for make in ("array", "subclass", "memory-mapped", "Parameter", "mapping", "packed", "packed, whole"):
    for name, pull in PULLS.items():
        w, opt = bench(make)
        expected = np.ones((2, 4))
        control = fastadam.Adam([expected], backend=sys.argv[1])
        for _ in range(2):
            control.step([np.full((2, 4), 2.0)])
        try:
            pull(w, opt)
        except (AttributeError, BufferError, TypeError, ValueError):
            pass  # NumPy refuses
        rubbish = [np.full(8, 7.0) for _ in range(1000)]  # takes up what was freed
        dtype = w.dtype
        try:
            step(w, opt, make)
        except (TypeError, ValueError) as error:
            assert "parameter" in str(error), (make, name, error)
            assert opt._groups[0].steps.tolist() == [1], (make, name)
        else:
            assert dtype == float, (make, name, "the dtype is another one")
            assert w.tobytes() == expected.tobytes(), (make, name, w)
        assert all((one == 7).all() for one in rubbish), (make, name, "wrote into other memory")
print("done")
"""


def test_memory_cannot_be_pulled_away(backend: str, tmp_path: Any) -> None:
    """Whatever is done to the array, a step raises or goes on as if nothing had happened."""
    command = [sys.executable, "-c", "import sys" + PULL_AWAY, backend, str(tmp_path / "param")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_parameter_data_cannot_be_exchanged(backend: str) -> None:
    bench = take("objects", backend)
    one = bench.objects[0]
    with refused(bench.opt, AttributeError, r"Parameter.data cannot be exchanged .*p.data\[...\] = value"):
        one.data = one.data.copy()
    with refused(bench.opt, AttributeError, "cannot be exchanged"):
        one.data = one.data[:]
    with refused(bench.opt, AttributeError, "data"):
        del one.data
    with refused(bench.opt, AttributeError, "gradient"):
        one.gradient = np.ones((3, 4), np.float32)
    before = one.data.copy()
    one.data -= 1  # works in place, and assigns the same array
    assert_same_bits(one.data, before - np.float32(1))
    one.data[...] = before
    assert_goes_on(bench)


PACKED_EDITS = [
    pytest.param(lambda flat: setattr(flat, "grad", flat.grad + 1), id="grad"),
    pytest.param(lambda flat: setattr(flat, "param", flat.param + 1), id="param"),
    pytest.param(lambda flat: setattr(flat, "grads", None), id="grads"),
    pytest.param(lambda flat: flat.grads.__setitem__("w", np.ones((3, 4), np.float32)), id="grads['w']"),
    pytest.param(lambda flat: flat.params.__setitem__("w", np.ones((3, 4), np.float32)), id="params['w']"),
]


@pytest.mark.parametrize("edit", PACKED_EDITS)
def test_arrays_of_a_packed_buffer_cannot_be_exchanged(backend: str, edit: Callable[[Any], Any]) -> None:
    """The optimizer would not see another array: ``flat.grads["w"] = g`` must not be lost in silence."""
    bench = take("packed and named", backend)
    with refused(bench.opt, (AttributeError, TypeError), "packed|exchanged|no setter|can't set attribute"):
        edit(bench.flat)
    bench.flat.grad += 1  # work in place, and assign the same array
    bench.flat.param += 0
    bench.flat.grads["w"] += 1
    bench.flat.params["w"] += 0
    assert_goes_on(bench)


# -------------------- good input that looks bad


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


def test_good_options_that_look_bad(backend: str) -> None:
    """Integers, fractions and NumPy numbers are numbers; lists are pairs."""
    expected, actual = (Bench("in place", backend, lr=0.5, betas=(0.5, 0.75), weight_decay=1.0) for _ in range(2))
    group = actual.opt.param_groups[0]
    group["lr"] = np.float32(0.5)
    group["betas"] = [Fraction(1, 2), np.float64(0.75)]
    group["weight_decay"] = np.int64(1)
    group["maximize"] = np.False_
    for bench in (actual, expected):
        bench.good_step(9)
    assert_same_state(snapshot(actual.opt), snapshot(expected.opt))
    group["betas"] = (0, 0.0)
    group["lr"] = group["eps"] = group["weight_decay"] = 0
    before = [array.copy() for array in actual.arrays]
    actual.good_step(10)
    for array, old in zip(actual.arrays, before, strict=True):
        assert_same_bits(array, old)


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
