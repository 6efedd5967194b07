"""Nestings that are no parameters, or could be two things, are refused; what is said about it helps."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.processes import LONG


def _a(n: int = 3) -> np.ndarray:
    return np.ones(n)


@dataclasses.dataclass
class Fields:
    w: Any


def in_itself() -> list[Any]:
    given: list[Any] = [_a()]
    given.append({"again": given})
    return given


def doubling() -> Any:
    """Return a nesting that has more leaves than any memory, in few containers."""
    given: Any = [_a()]
    for _ in range(80):
        given = [given, given]
    return given


def twice() -> Any:
    inner = {"w": _a()}
    return {"one": inner, "two": [inner]}


BAD = [
    pytest.param(
        lambda: [{"params": _a()}, {"w": _a()}],
        ValueError,
        r"param_groups\[1\]: the group has no 'params'; it has \['w'\]. A list of dicts is one of group dicts, "
        r"each with 'params', or a nesting of arrays, in which no dict has 'params'",
        id="group, nesting",
    ),
    pytest.param(
        lambda: [{"w": _a()}, {"params": _a()}],
        ValueError,
        r"param_groups\[0\]: the group has no 'params'; it has \['w'\]. A list",
        id="nesting, group",
    ),
    pytest.param(
        lambda: [{"lr": 0.1}],
        ValueError,
        r"param_groups\[0\]: the group has no 'params'; it has \['lr'\]",
        id="lr",
    ),
    pytest.param(
        lambda: [[_a()], {"params": _a()}],
        TypeError,
        "params mixes group dicts and arrays; .* or, if it is a nesting of arrays, give the key 'params' another",
        id="list, group",
    ),
    pytest.param(
        lambda: [{"params": _a(), "bias": _a()}],
        ValueError,
        "unknown option 'bias'; known are params, .*, or, for a nesting of arrays, give the key 'params' another",
        id="a layer with 'params'",
    ),
    pytest.param(
        lambda: {"params": {"Dense_0": {"kernel": _a()}}},
        TypeError,
        r"params is a single dict with the key 'params'; put group dicts in a list, \[{'params': ...}\], at the "
        "top; or, if it is a nesting of arrays, give what is under the key",
        id="as flax has it",
    ),
    pytest.param(
        lambda: {"head": {"params": _a()}},
        TypeError,
        "params at 'head' is a dict with the key 'params', and an array under it; put group dicts in a list "
        "at the top; or, if it is a nesting of arrays, give the key another name",
        id="a leaf 'params'",
    ),
    pytest.param(
        lambda: {"head": {"params": [_a()], "lr": 0.1}},
        TypeError,
        "parameter 'head.lr' is a float, not a NumPy array",
        id="a group deep down",
    ),
    pytest.param(
        lambda: {"a.b": _a(), "a": {"b": _a()}},
        ValueError,
        r"the name 'a.b' would be that of params\['a.b'\] and of params\['a'\]\['b'\], as dots join the keys",
        id="paths that meet",
    ),
    pytest.param(
        lambda: [{"params": {"a": [_a()]}}, {"params": {"a": [_a()]}}],
        ValueError,
        "the name 'a.0' is given to parameters 0 and 1; give them names that differ, such as by a key around one",
        id="paths of two groups",
    ),
    pytest.param(
        in_itself, ValueError, "params at '1.again.1' is the same dict as at '1', which it is in", id="cycle"
    ),
    pytest.param(twice, ValueError, "params at 'two.0' is the same dict as at 'one'; give each", id="twice"),
    pytest.param(doubling, ValueError, "is the same list as", id="2 to the power of 80"),
    pytest.param(
        lambda: {"w": (w := _a()), "more": [w]},
        ValueError,
        "parameter 'w' and parameter 'more.0' share",
        id="array",
    ),
    pytest.param(
        lambda: [[], {}, ()], ValueError, "params is empty; a group needs at least one array", id="empty"
    ),
    pytest.param(lambda: {"a": {1: _a()}}, TypeError, "params at 'a' has the key 1; names must be str", id="key"),
    pytest.param(
        lambda: {"a": [_a(), None]},
        TypeError,
        "parameter 'a.1' is None, not a NumPy array; leave it out of the parameters and of the gradients",
        id="None",
    ),
    pytest.param(
        lambda: {"a": (_a() for _ in range(2))},
        TypeError,
        "parameter 'a' is a generator, not a NumPy array; make a list of it",
        id="generator",
    ),
    pytest.param(lambda: {"a": {1, 2}}, TypeError, "parameter 'a' is a set, not .*; make a list of it", id="set"),
    pytest.param(
        lambda: {"a": Fields(_a())},
        TypeError,
        "parameter 'a' is a .*Fields, not a NumPy array; give its fields as a dict: {field.name: getattr",
        id="dataclass",
    ),
    pytest.param(
        lambda: {"a": [fastadam.pack([_a()])]},
        TypeError,
        "parameter 'a.0' is a fastadam.Packed, .*give a packed buffer by itself",
        id="packed",
    ),
    pytest.param(lambda: {"a": [1.0, 2.0]}, TypeError, "parameter 'a' is a list, not a NumPy array", id="numbers"),
    pytest.param(lambda: {"a": "w"}, TypeError, "parameter 'a' is a str, not a NumPy array", id="string"),
    pytest.param(
        lambda: {"a": [_a(), ("w", _a())]}, TypeError, "parameter 'a.1.0' is a str, not a NumPy array", id="a pair"
    ),
    pytest.param(
        lambda: [("a", [_a()]), [_a()]], ValueError, r"params\[1\] has no name, others have", id="pair, list"
    ),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_bad_nesting(make: Callable[[], Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        fastadam.Adam(make())


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_bad_nesting_in_a_new_group(make: Callable[[], Any], error: Any, match: str) -> None:
    params = {"first": {"w": np.ones(2)}}
    optimizer = fastadam.Adam(params)
    with pytest.raises((TypeError, ValueError)):
        optimizer.add_param_group({"params": make()})
    optimizer.step({"first": {"w": np.ones(2)}})
    assert len(optimizer.param_groups) == 1
    assert optimizer.state["first.w"]["step"] == 1


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        pytest.param(in_itself, ValueError, "params at '1.again.1' is the same dict as at '1'", id="cycle"),
        pytest.param(twice, ValueError, "params at 'two.0' is the same dict as at 'one'", id="twice"),
        pytest.param(
            lambda: {"a": [_a(), 3]}, TypeError, r"params\['a'\]\[1\] is an int, not a NumPy", id="number"
        ),
        pytest.param(
            lambda: {"a": {"b": _a()}, "a.b": _a()}, ValueError, r"the name 'a.b' would be that of", id="meet"
        ),
        pytest.param(
            lambda: {"a": [_a()], "b": {"c": np.ones(2, np.float32)}},
            TypeError,
            r"params\['b'\]\['c'\] has dtype float32, params\['a'\]\[0\] has float64",
            id="dtype",
        ),
        pytest.param(lambda: {"a": [], "b": {}}, ValueError, "params is empty; pack needs", id="empty"),
        pytest.param(
            lambda: [("a", _a()), ("b", _a()), ("a", [_a()])],
            ValueError,
            "params has the name 'a' at 0 and at 2; give each name once",
            id="pairs with one name",
        ),
    ],
)
def test_bad_nesting_to_pack(make: Callable[[], Any], error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        fastadam.pack(make())


def test_a_container_called_params_deep_down_is_one_as_any_other() -> None:
    params = {"encoder": {"params": {"Dense_0": {"kernel": np.ones(2)}}}}
    optimizer = fastadam.Adam(params)
    assert optimizer.param_groups[0]["param_names"] == ("encoder.params.Dense_0.kernel",)


def test_parameters_may_be_called_like_options() -> None:
    optimizer = fastadam.Adam([{"lr": np.ones(2), "eps": [np.ones(1)]}])
    assert optimizer.param_groups[0]["param_names"] == ("0.lr", "0.eps.0")


def test_jax_arrays_are_refused_with_what_to_do() -> None:
    jax = pytest.importorskip("jax")
    params = {"layers": [{"w": jax.numpy.ones(3)}]}
    remedy = (
        r" is a JAX array, not a NumPy array, and cannot be updated in place; make NumPy arrays of all of them, "
    )
    remedy += r"params = jax.tree.map\(np.array, params\), and go on with these"
    for make, given, label in (
        (fastadam.Adam, params, "parameter 'layers.0.w'"),
        (fastadam.Adam, params["layers"][0]["w"], "params"),
        (fastadam.Adam, [params["layers"][0]["w"]], "parameter 0"),
        (fastadam.pack, params, r"params\['layers'\]\[0\]\['w'\]"),
        (fastadam.Parameter, params["layers"][0]["w"], "data"),
    ):
        with pytest.raises(TypeError, match=label + remedy):
            make(given)
    ours = jax.tree.map(np.array, params)
    optimizer = fastadam.Adam(ours, lr=0.5)
    optimizer.step(params)  # as gradients
    optimizer.step(jax.grad(lambda p: (p["layers"][0]["w"] ** 2).sum())(jax.tree.map(np.copy, ours)))
    assert ours["layers"][0]["w"].max() < 0.6


def test_deep_nestings_end_no_process() -> None:
    code = """
import numpy as np, fastadam
def nested(deep, wrap):
    found = [np.ones(2)]
    for _ in range(deep):
        found = wrap(found)
    return found
for deep in (1_000, 9_000, 200_000):
    for wrap in (lambda x: [x], lambda x: {"k": x}, lambda x: (x,)):
        for make in (fastadam.Adam, fastadam.pack):
            try:
                make(nested(deep, wrap))
                assert deep < 10_000
            except ValueError as error:
                assert "nested more than 10,000 deep" in str(error), error
        optimizer = fastadam.Adam(nested(1_000, wrap))
        try:
            optimizer.step(nested(deep, wrap))
            assert deep == 1_000
        except (TypeError, ValueError) as error:
            assert "grads at" in str(error) or "the gradient of" in str(error), error
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]
