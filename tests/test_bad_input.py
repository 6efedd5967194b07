"""Bad input gets a clear error before anything is written; input that only looks bad gives the same bits."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

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
        arrays = random_arrays(SHAPES, FLOAT32, seed=1)
        self.flat: Any = None
        self.objects: list[Any] = []
        params: Any = arrays
        if layout.startswith("packed"):
            params = self.flat = fastadam.pack(dict(zip(NAMES, arrays, strict=True)) if "named" in layout else arrays)
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


@contextlib.contextmanager
def refused(opt: fastadam.Adam, error: Any, match: str) -> Iterator[None]:
    """Expect an error that leaves parameters, moments, step counts and groups as they were."""
    before, groups = snapshot(opt), len(opt.param_groups)
    with pytest.raises(error, match=match):
        yield
    assert_same_state(snapshot(opt), before)
    assert len(opt.param_groups) == groups


def assert_goes_on(bench: Bench, layout: str, backend: str, **options: Any) -> None:
    """Take one more good step; the bits are those of an optimizer that never met anything bad."""
    innocent = Bench(layout, backend, **options)
    for each in (bench, innocent):
        each.good_step(4)
    assert_same_state(snapshot(bench.opt), snapshot(innocent.opt))


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def unaligned(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy at an odd address."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    copy = raw[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def flat_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)


# ---------------------------------------------------------------------------------------------------- gradients

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
    pytest.param(np.ones(5, np.longdouble), TypeError, _dtype(r"(float|longdouble)"), id="longdouble"),
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
    pytest.param(np.ma.array(FIVE, mask=[1, 0, 0, 0, 0]), TypeError, _kind(r"masked array.*filled\(0\)"), id="masked"),
    pytest.param(lambda bench: bench.arrays[1], ValueError, _shares("parameter (1|'b')"), id="its own parameter"),
    pytest.param(
        lambda bench: bench.arrays[1][::-1], ValueError, _shares("parameter (1|'b')"), id="its own, reversed"
    ),
    pytest.param(
        lambda bench: bench.arrays[1].view(Subclass), ValueError, _shares("parameter (1|'b')"), id="its own, subclass"
    ),
    pytest.param(
        lambda bench: read_only_view(bench.arrays[1]), ValueError, _shares("parameter (1|'b')"), id="its own, read-only"
    ),
    pytest.param(
        lambda bench: np.broadcast_to(bench.arrays[1][2], 5),
        ValueError,
        _shares("parameter (1|'b')"),
        id="its own, broadcast",
    ),
    pytest.param(
        lambda bench: flat_of(bench.arrays[0])[:5], ValueError, _shares("parameter (0|'w')"), id="another parameter"
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
        lambda bench: bench.opt.state[1]["exp_avg"], ValueError, _shares("exp_avg of"), id="its own first moment"
    ),
    pytest.param(
        lambda bench: bench.opt.state[1]["exp_avg_sq"], ValueError, _shares("exp_avg_sq of"), id="its second moment"
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
def test_bad_gradient(backend: str, layout: str, bad: Any, error: Any, match: str) -> None:
    bench = Bench(layout, backend)
    grads: list[Any] = random_arrays(SHAPES, FLOAT32, 9)
    grads[1] = bad(bench) if callable(bad) else bad
    with refused(bench.opt, error, match):
        bench.step(grads)
    assert_goes_on(bench, layout, backend)


def test_running_maximum_as_gradient(backend: str) -> None:
    bench = Bench("groups", backend)
    grads = random_arrays(SHAPES, FLOAT32, 9)
    grads[1] = bench.opt.state[1]["max_exp_avg_sq"]
    with refused(bench.opt, ValueError, _shares("max_exp_avg_sq of parameter 1 and its group")):
        bench.step(grads)
    assert_goes_on(bench, "groups", backend)


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
    with refused(opt, TypeError, rf"the gradient of parameter {position} has dtype float32, its parameter has float64"):
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
    pytest.param(lambda: [], ValueError, "grads has 0 items, but there are 3 parameters", id="none"),
    pytest.param(lambda: _grads(2), ValueError, "grads has 2 items, but there are 3 parameters", id="too few"),
    pytest.param(lambda: _grads(4), ValueError, "grads has 4 items, but there are 3 parameters", id="too many"),
    pytest.param(lambda: tuple(_grads(2)), ValueError, "grads has 2 items", id="tuple"),
    pytest.param(lambda: (g for g in _grads(2)), ValueError, "grads has 2 items", id="generator"),
    pytest.param(failing, ZeroDivisionError, "the generator failed", id="failing generator"),
    pytest.param(lambda: np.ones((3, 4), np.float32), TypeError, "grads is one array, but there are", id="one array"),
    pytest.param(lambda: "abc", TypeError, NOT_A_LIST + "'abc'", id="string"),
    pytest.param(lambda: b"abc", TypeError, NOT_A_LIST + "b'abc'", id="bytes"),
    pytest.param(lambda: {1, 2, 3}, TypeError, NOT_A_LIST + r"\{1, 2, 3\}", id="set"),
    pytest.param(lambda: 1.0, TypeError, NOT_A_LIST + "1.0", id="float"),
    pytest.param(lambda: 0, TypeError, NOT_A_LIST + "0", id="zero"),
    pytest.param(lambda: abs, TypeError, NOT_A_LIST + "<built-in function abs>", id="closure as grads"),
    pytest.param(lambda: fastadam.pack([FIVE]), TypeError, "grads is a packed buffer", id="packed"),
    pytest.param(lambda: fastadam.Parameter(FIVE), TypeError, NOT_A_LIST + "Parameter", id="Parameter"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD_GRADIENT_LISTS)
def test_bad_gradient_list(backend: str, layout: str, make: Callable[[], Any], error: Any, match: str) -> None:
    bench = Bench(layout, backend)
    with refused(bench.opt, error, match):
        bench.opt.step(make())
    assert_goes_on(bench, layout, backend)


@pytest.mark.parametrize("layout", ["in place", "packed", "objects", "groups"])
def test_mapping_of_gradients_for_unnamed_parameters(backend: str, layout: str) -> None:
    bench = Bench(layout, backend)
    with refused(bench.opt, TypeError, "grads is a mapping, but the parameters have no names; pass a list"):
        bench.opt.step(dict(enumerate(_grads(3))))


BAD_NAMES = [
    pytest.param(("w", "b"), r"missing \['scale'\], unexpected \[\]", id="missing"),
    pytest.param(("w", "b", "scale", "more"), r"missing \[\], unexpected \['more'\]", id="unexpected"),
    pytest.param(("w", "b", "Scale"), r"missing \['scale'\], unexpected \['Scale'\]", id="misspelled"),
    pytest.param((0, 1, 2), r"missing \['w', 'b', 'scale'\], unexpected \[0, 1, 2\]", id="positions"),
    pytest.param((), r"missing \['w', 'b', 'scale'\], unexpected \[\]", id="empty"),
]


@pytest.mark.parametrize("layout", ["named", "packed and named"])
@pytest.mark.parametrize(("names", "match"), BAD_NAMES)
def test_bad_gradient_names(backend: str, layout: str, names: tuple[Any, ...], match: str) -> None:
    bench = Bench(layout, backend)
    with refused(bench.opt, ValueError, match):
        bench.opt.step(dict(zip(names, _grads(4), strict=False)))
    assert_goes_on(bench, layout, backend)


@pytest.mark.parametrize(
    ("layout", "label"), [("in place", "parameter 0"), ("groups", "parameter 0"), ("named", "parameter 'w'")]
)
def test_step_without_gradients_for_plain_arrays(backend: str, layout: str, label: str) -> None:
    bench = Bench(layout, backend)
    with refused(bench.opt, ValueError, rf"step\(\) found no gradient for {label}.*step\(grads\).*Parameter.*pack"):
        bench.opt.step()
    assert_goes_on(bench, layout, backend)


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
    bench = Bench("packed", backend)
    with refused(bench.opt, error, match):
        bench.opt.step(bad)
    with refused(bench.opt, ValueError, "shares memory with parameter 0"):
        bench.opt.step(bench.flat.param)
    with refused(bench.opt, ValueError, "shares memory with parameter 0"):
        bench.opt.step(bench.flat.param[::-1])
    assert_goes_on(bench, "packed", backend)


@pytest.mark.parametrize("closure", [3, "loss", np.ones(3)])
def test_closure_that_cannot_be_called(backend: str, closure: Any) -> None:
    bench = Bench("objects", backend)
    with refused(bench.opt, TypeError, "closure"):
        bench.opt.step(closure=closure)


def test_closure_that_raises(backend: str, layout: str) -> None:
    bench = Bench(layout, backend)

    def closure() -> float:
        for one in bench.objects:
            one.grad = np.ones_like(one.data)
        raise ZeroDivisionError("no loss")

    with refused(bench.opt, ZeroDivisionError, "no loss"):
        bench.opt.step(closure=closure)
    with refused(bench.opt, ZeroDivisionError, "no loss"):
        bench.opt.step(_grads(3), closure=closure)
    assert_goes_on(bench, layout, backend)


# ---------------------------------------------------------------------------------------------------- parameters

BAD_ARRAYS = [
    pytest.param(lambda: read_only(FIVE), ValueError, "is read-only; .*pass a writable copy", id="read-only"),
    pytest.param(lambda: np.broadcast_to(FIVE, (2, 5)), ValueError, "is read-only", id="broadcast"),
    pytest.param(lambda: np.ones(9)[::2], ValueError, r"\(5,\) is not C-contiguous \(strides \(16,\)\)", id="strided"),
    pytest.param(lambda: np.ones(5)[::-1], ValueError, r"is not C-contiguous \(strides \(-8,\)\)", id="reversed"),
    pytest.param(lambda: np.ones((2, 3)).T, ValueError, r"of shape \(3, 2\) is not C-contig", id="transposed"),
    pytest.param(lambda: np.ones((2, 3), order="F"), ValueError, "is not C-contiguous.*ascontig", id="Fortran order"),
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
        lambda: np.ones(5, np.longdouble), TypeError, "has dtype float", marks=needs_longdouble, id="longdouble"
    ),
    pytest.param(
        lambda: np.ones(5, np.clongdouble), TypeError, "has dtype complex", marks=needs_longdouble, id="clongdouble"
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
    pytest.param(Tensor, TypeError, r"is a torch.Tensor, not a NumPy array; tensor.detach", id="torch tensor"),
    pytest.param(OnDevice, TypeError, "OnDevice on a CUDA device", id="on a device"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD_ARRAYS)
def test_bad_parameter(backend: str, make: Callable[[], Any], error: Any, match: str) -> None:
    good = random_arrays([(3,)], np.float64, 1)[0]
    before = good.copy()
    label = r"parameter 1 ([^0-9]|.)*"
    for params in ([good, make()], iter([good, make()]), [{"params": [good, make()]}], [{"params": good}, make()]):
        if isinstance(params, list) and params[0].__class__ is dict and len(params) == 2:
            continue  # mixes groups and arrays: refused for another reason, tested below
        with pytest.raises(error, match=label + match if match[0] == "h" else match):
            fastadam.Adam(params, backend=backend)
    with pytest.raises(error, match="parameter 'b' .*" + match):
        fastadam.Adam({"w": good, "b": make()}, backend=backend)
    with pytest.raises(error, match="parameter 'b' .*" + match):
        fastadam.Adam([("w", good), ("b", make())], backend=backend)
    with pytest.raises(error, match="^data .*" + match):
        fastadam.Parameter(make())
    assert_same_bits(good, before)
