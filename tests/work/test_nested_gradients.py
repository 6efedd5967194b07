"""How nested gradients are read: in native code or in Python, the same ones, and the same refusals."""

from __future__ import annotations

import copy
import gc
import sys
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.work.nested import Way
from tests.support.bench import refused
from tests.support.bits import assert_same_bits
from tests.support.nestings import Layer

OTHER = namedtuple("OTHER", ["b", "w"])


def model(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "layers": [{"w": rng.standard_normal((2, 2)), "b": rng.standard_normal(2)} for _ in range(3)],
        "head": Layer(rng.standard_normal(2), rng.standard_normal(1)),
        "pair": (rng.standard_normal(2), {"x": rng.standard_normal(1)}),
    }


def native(optimizer: fastadam.Adam) -> bool:
    """Whether gradients can be read by native code here."""
    way = optimizer._planner.reader._by_key
    return way is not None and way._read_native is not None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each try of native code has read the gradients."""
    found: list[bool] = []
    original = Way.try_native

    def try_native(self: Way, grads: Any) -> Any:
        read = original(self, grads)
        found.append(read is not None)
        return read

    monkeypatch.setattr(Way, "try_native", try_native)
    return found


def reordered(tree: Any) -> Any:
    """Return the same tree with dicts in reverse order, under keys that are other objects."""
    if isinstance(tree, dict):
        return {"".join([*key]): reordered(value) for key, value in reversed(tree.items())}
    if isinstance(tree, list):
        return [reordered(value) for value in tree]
    return tuple(map(reordered, tree)) if type(tree) is tuple else tree


def test_native_code_reads_what_is_nested_alike(seen: list[bool], backend: str) -> None:
    params, expected = model(), model()
    optimizer, other = (fastadam.Adam(each, backend=backend) for each in (params, expected))
    if not native(optimizer):
        pytest.skip("there is no C extension here")
    optimizer.step(model(1))  # finds out which class the named tuple has
    seen.clear()
    forms: list[Callable[[Any], Any]] = [
        lambda grads: grads,
        reordered,
        lambda grads: {**grads, "layers": None},
        lambda grads: {**grads, "layers": tuple(grads["layers"]), "pair": list(grads["pair"])},
        lambda grads: {**grads, "head": [None, grads["head"].b]},
        reordered,
        lambda grads: grads,
    ]
    for i, form in enumerate(forms):
        optimizer.step(form(model(i)))
    assert seen == [True] * len(forms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Way, "try_native", lambda self, grads: None)
        other.step(model(1))
        for i, form in enumerate(forms):
            other.step(form(model(i)))
    for one, two in zip(optimizer._groups.members, other._groups.members, strict=True):
        assert_same_bits(one.array, two.array, one.label)
        assert optimizer.state[one.name]["step"] == other.state[one.name]["step"]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 18, 40])
@pytest.mark.parametrize("shift", [0, 1, 16, 17, -1])
def test_keys_in_any_order(n: int, shift: int, seen: list[bool]) -> None:
    params = {f"p{i}": np.zeros(2) for i in range(n)}
    optimizer = fastadam.Adam({"all": params}, lr=0.1)
    names = list(params)
    names = names[shift % n :] + names[: shift % n]
    for turn in range(3):
        optimizer.step({"all": {f"{name}": np.full(2, float(name[1:]) + 1) for name in names}})
        names.reverse()
        for i in range(n):
            assert_same_bits(optimizer.state[f"all.p{i}"]["exp_avg"], optimizer.state[f"all.p{i}"]["exp_avg"])
            expected = (1 - 0.9 ** (turn + 1)) * (i + 1)
            assert abs(optimizer.state[f"all.p{i}"]["exp_avg"] - expected).max() < 1e-12 * (i + 1)
    if native(optimizer):
        assert seen == [True] * 3


class Lying(Mapping[str, Any]):
    """A mapping that runs a function whenever something is asked of it."""

    def __init__(self, items: dict[str, Any], act: Callable[[], object]) -> None:
        self._items, self._act = items, act

    def __getitem__(self, key: str) -> Any:
        self._act()
        return self._items[key]

    def __iter__(self) -> Any:
        self._act()
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "OrderedDict": OrderedDict,
    "defaultdict": lambda items: defaultdict(lambda: np.ones(2), items),
    "UserDict": UserDict,
    "proxy": MappingProxyType,
    "a class of one's own": lambda items: Lying(items, lambda: None),
    "subclass": type("Subclass", (dict,), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mapping_can_hold_gradients(kind: str, backend: str) -> None:
    params, expected = model(), model()
    fastadam.Adam(expected, backend=backend).step(model(1))
    grads = model(1)
    grads["layers"] = [KINDS[kind](layer) for layer in grads["layers"]]
    fastadam.Adam(params, backend=backend).step(KINDS[kind](grads))
    for one, two in zip(params["layers"], expected["layers"], strict=True):
        assert_same_bits(one["w"], two["w"])


def test_a_defaultdict_makes_up_no_gradient(backend: str) -> None:
    optimizer = fastadam.Adam(model(), backend=backend)
    grads = model(1)
    grads["layers"][1] = defaultdict(lambda: np.ones(2), w=np.ones((2, 2)))
    with refused(
        optimizer, ValueError, r"grads at 'layers.1' has other names than the parameters there: missing \['b'"
    ):
        optimizer.step(grads)
    assert list(grads["layers"][1]) == ["w"]


def without(tree: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


BAD: list[Any] = [
    pytest.param(
        lambda g: without(g, "head"),
        ValueError,
        r"grads has other names than the parameters: missing \['head'\], unexpected \[\]; use None for",
        id="top",
    ),
    pytest.param(
        lambda g: {**g, "more": 1}, ValueError, r"missing \[\], unexpected \['more'\]", id="more at the top"
    ),
    pytest.param(
        lambda g: {**g, "layers": [*g["layers"][:2], without(g["layers"][2], "b")]},
        ValueError,
        r"grads at 'layers.2' has other names than the parameters there: missing \['b'\], unexpected \[\]",
        id="deep down",
    ),
    pytest.param(
        lambda g: {**g, "layers": g["layers"][:2]},
        ValueError,
        "grads at 'layers' has 2 items, and the parameters there have 3; nest gradients as the parameters are",
        id="too short",
    ),
    pytest.param(
        lambda g: {**g, "layers": g["layers"] * 2}, ValueError, "'layers' has 6 items, .* have 3", id="too long"
    ),
    pytest.param(
        lambda g: {**g, "layers": g["layers"][0]},
        TypeError,
        "grads at 'layers' is a dict, and the parameters there are a list or tuple of 3",
        id="dict for list",
    ),
    pytest.param(
        lambda g: {**g, "layers": [[1, 2], *g["layers"][1:]]},
        TypeError,
        "grads at 'layers.0' is a list, and the parameters there are a mapping with 'w', 'b'",
        id="list for dict",
    ),
    pytest.param(
        lambda g: {**g, "layers": np.ones((3, 2))},
        TypeError,
        "grads at 'layers' is a numpy.ndarray, and the parameters there are a list or tuple of 3",
        id="array for list",
    ),
    pytest.param(
        lambda g: {**g, "layers": (layer for layer in g["layers"])},
        TypeError,
        "grads at 'layers' is a generator, and the parameters there are a list",
        id="generator",
    ),
    pytest.param(
        lambda g: {**g, "head": OTHER(g["head"].b, g["head"].w)},
        ValueError,
        r"grads at 'head' is a .*OTHER with the fields \('b', 'w'\), and the parameters there have \('w', 'b'\)",
        id="another named tuple",
    ),
    pytest.param(
        lambda g: {**g, "head": {"w": g["head"].w, "b": g["head"].b}},
        TypeError,
        "grads at 'head' is a dict, and the parameters there are a list or tuple of 2",
        id="dict for a named tuple",
    ),
    pytest.param(
        lambda g: {**g, "pair": (g["pair"][0], g["pair"][0])},
        TypeError,
        "grads at 'pair.1' is a numpy.ndarray, and the parameters there are a mapping with 'x'",
        id="array for dict",
    ),
    pytest.param(
        lambda g: {**g, "pair": ([g["pair"][0]], g["pair"][1])},
        TypeError,
        "the gradient of parameter 'pair.0' is a list, not a NumPy array",
        id="list for array",
    ),
    pytest.param(
        lambda g: {**g, "pair": ({}, g["pair"][1])},
        TypeError,
        "the gradient of parameter 'pair.0' is a dict, not a NumPy array",
        id="dict for array",
    ),
    pytest.param(lambda g: [g], ValueError, "grads has 1 item, but there are 10 parameters", id="in a list"),
    pytest.param(
        lambda g: {**g, "head": Layer(np.ones(3), g["head"].b)},
        ValueError,
        r"the gradient of parameter 'head.w' has shape \(3,\), its parameter has \(2,\)",
        id="shape",
    ),
]


@pytest.mark.parametrize(("spoil", "error", "match"), BAD)
@pytest.mark.parametrize("in_python", [False, True])
def test_gradients_that_are_nested_otherwise(
    spoil: Callable[[Any], Any], error: Any, match: str, in_python: bool, backend: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if in_python:
            patch.setattr(Way, "try_native", lambda self, grads: None)
        optimizer = fastadam.Adam(model(), backend=backend)
        packed = fastadam.Adam(fastadam.pack(model()), backend=backend)
        for _ in range(2):
            optimizer.step(model(1))
            with refused(optimizer, error, match):
                optimizer.step(spoil(model(2)))
            with refused(packed, error, match):
                packed.step(spoil(model(2)))


def test_lists_for_lists_in_a_list(backend: str) -> None:
    optimizer = fastadam.Adam([[np.ones(2), np.ones(1)], {"x": np.ones(3)}], backend=backend)
    for bad, match in (
        ([[np.ones(2)], {"x": np.ones(3)}], "grads at '0' has 1 item, and the parameters there have 2"),
        ([np.ones(2), {"x": np.ones(3)}], "grads at '0' is a numpy.ndarray, and the parameters there are a list"),
        ([np.ones(2), np.ones(1)], "grads at '0' is a numpy.ndarray"),
        ([[np.ones(2), np.ones(1)]], "grads has 1 item, and the parameters have 2"),
        ({"0": [np.ones(2), np.ones(1)], "1": {"x": np.ones(3)}}, r"missing \['0.0', '0.1', '1.x'\]"),
    ):
        with refused(optimizer, (TypeError, ValueError), match):
            optimizer.step(bad)
    optimizer.step([np.ones(2), np.ones(1), np.ones(3)])
    optimizer.step([None, {"x": None}])
    assert [int(optimizer.state[i]["step"]) for i in range(3)] == [1, 1, 1]


def test_code_that_runs_while_gradients_are_read_changes_nothing_behind_the_checks(backend: str) -> None:
    """Whatever a mapping does: the step is refused as a whole, or taken with arrays as they are at the end."""
    params = {"layers": [{"w": np.ones(4)}, {"w": np.ones(4)}]}
    optimizer = fastadam.Adam(params, backend=backend)
    grads = [{"w": np.full(4, 2.0)}, {"w": np.full(4, -1.0)}]
    first = params["layers"][0]["w"]
    acts: list[tuple[Callable[[], object], str | None]] = [
        (lambda: optimizer.step({"layers": grads}), "step"),
        (lambda: optimizer.add_param_group({"params": {"more": np.ones(1)}}), "add_param_group"),
        (lambda: optimizer.load_state_dict(optimizer.state_dict()), "state_dict"),
        (lambda: setattr(first, "shape", (2, 2)), "has shape"),
        (lambda: setattr(first, "shape", (4,)), None),
        (lambda: setattr(first.flags, "writeable", False), "read-only"),
        (lambda: setattr(first.flags, "writeable", True), None),
        (lambda: grads[0].update(w=np.ones(3)), "has shape"),
        (lambda: grads[0].update(w=np.full(4, 2.0)), None),
        (lambda: grads.clear(), None),
    ]
    for act, match in acts:
        given = {"layers": [Lying(grads[0], act), dict(grads[1])]}
        if match is None:
            optimizer.step(given)
        else:
            with refused(optimizer, Exception, match):
                optimizer.step(given)
    assert optimizer.state["layers.1.w"]["step"] == 4


def test_what_was_read_is_let_go(backend: str) -> None:
    optimizer = fastadam.Adam(model(), backend=backend)
    optimizer.step(model(1))
    grads = model(2)
    layers, first = grads["layers"], grads["layers"][0]["w"]
    watched = [grads, layers, layers[0], first, grads["head"], grads["pair"], None]
    before = [sys.getrefcount(each) for each in watched[:-1]]
    for _ in range(50):
        optimizer.step(grads)
        with pytest.raises(ValueError, match="other names"):
            optimizer.step({**grads, "layers": [{}, *layers[1:]]})
        with pytest.raises(ValueError, match="other names"):
            optimizer.step({**grads, "layers": [layers[0], {"w": first}, layers[1]]})
    gc.collect()
    assert [sys.getrefcount(each) for each in watched[:-1]] == before
    del watched


def test_steps_of_copies_go_the_same_way(seen: list[bool], backend: str) -> None:
    optimizer = fastadam.Adam(model(), backend=backend)
    if not native(optimizer):
        pytest.skip("there is no C extension here")
    twin = copy.deepcopy(optimizer)
    for each in (optimizer, twin):
        each.step(model(1))
        seen.clear()
        each.step(model(2))
        assert seen == [True]
    for one, two in zip(optimizer._groups.members, twin._groups.members, strict=True):
        assert_same_bits(one.array, two.array)
