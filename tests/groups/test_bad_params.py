"""Parameters that cannot be stepped are refused: their arrays, what holds them, memory that they share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bench import (
    FIVE,
    FLOAT32,
    OnDevice,
    Subclass,
    Tensor,
    assert_goes_on,
    each_layout,
    read_only,
    refused,
    take,
    unaligned,
)
from tests.support.bits import assert_same_bits, random_arrays

needs_longdouble = pytest.mark.skipif(
    np.dtype(np.longdouble) == np.dtype(np.float64), reason="longdouble is float64 here"
)

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
    pytest.param(lambda: np.ones(5, "V2"), TypeError, r"has dtype \|V2; .* bits of bfloat16", id="bits"),
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
    pytest.param(lambda: None, TypeError, "is None, not a NumPy array", id="None"),
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


@pytest.mark.parametrize(
    "make",
    [
        lambda w: ([w, w], "[0]", "[1]"),
        lambda w: ({"a": w, "b": [np.ones(2), {"c": w}]}, "['a']", "['b'][1]['c']"),
        lambda w: ([w.reshape(2, 3), w], "[0]", "[1]"),
        lambda w: ([w.reshape(2, 3).T, np.ones(2), w.reshape(2, 3)], "[0]", "[2]"),
        lambda w: ([w, w[::-1]], "[0]", "[1]"),
        lambda w: ([w[:0], w, w[:0][:]], None, None),
        lambda w: ([empty := w[:0], empty], "[0]", "[1]"),
        lambda w: ([w[:3], w[3:]], None, None),
        lambda w: ([w[::2], w[1::2]], None, None),
        lambda w: ([w, w.copy()], None, None),
    ],
)
def test_an_array_is_packed_once(make: Callable[[Any], Any]) -> None:
    """Its copies would go different ways. Both places are named; the remedy is one view in both."""
    params, first, second = make(np.arange(6.0))
    if first is None:
        fastadam.pack(params)
        return
    with pytest.raises(
        ValueError, match=re.escape(f"params{second} is the same array as params{first}; pack copies")
    ):
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
    pytest.param(
        lambda: [(1, _a())], TypeError, "parameter '0.0' is an int, not a NumPy array", id="number in pair"
    ),
    pytest.param(
        lambda: {"params": _a()}, TypeError, "single dict with the key 'params'; put group", id="bare group"
    ),
    pytest.param(
        lambda: {"params": _a(), "lr": 0.1}, TypeError, "single dict with the key 'params'", id="bare with lr"
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
        lambda w: [{"params": (flat := fastadam.pack([w, w + 1]))}, {"params": flat.params[1]}],
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
    pytest.param(
        {"params": [{"params": np.ones(2)}]},
        TypeError,
        r"params\[0\] is a single dict with the key 'params'",
        id="nested",
    ),
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
