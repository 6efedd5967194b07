"""``flat.params`` and ``flat.grads``: like a list or a dict of the arrays, in which none can be exchanged."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_bits

COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda views: pickle.loads(pickle.dumps(views)),
    lambda views: views.copy(),
]


def test_views_by_position_are_like_a_list() -> None:
    flat = fastadam.pack([np.ones(2), np.ones(3)])
    views, plain = flat.params, flat.param_views
    assert isinstance(views, Sequence)
    assert len(views) == 2
    assert list(views) == plain
    assert list(reversed(views)) == plain[::-1]
    assert views[-1] is plain[1]
    assert views[:1] == plain[:1]
    assert plain[1] in views[1:]
    assert_same_bits(np.concatenate(views), flat.param)
    assert repr(views) == repr(plain)


def test_views_by_name_are_like_a_dict() -> None:
    flat = fastadam.pack({"w": np.ones(2), "b": np.ones(3)})
    views, plain = flat.params, dict(zip(["w", "b"], flat.param_views, strict=True))
    assert isinstance(views, Mapping)
    assert len(views) == 2
    assert list(views) == ["w", "b"]
    assert views["b"] is plain["b"]
    assert views.get("x") is None
    assert "x" not in views
    assert views.keys() == plain.keys()
    assert list(views.items()) == list(plain.items())
    assert list(views.values()) == list(plain.values())
    assert dict(**views) == plain
    assert repr(views) == repr(plain)
    for merged in (views | {"x": np.ones(1)}, {"x": np.ones(1)} | views):
        assert type(merged) is dict
        assert merged.keys() == {"w", "b", "x"}


@pytest.mark.parametrize("given", [[np.ones(2), np.ones(3)], {"w": np.ones(2), "b": np.ones(3)}])
def test_views_are_equal_to_what_holds_the_same_arrays(given: Any) -> None:
    flat = fastadam.pack(given)
    views = flat.grads
    assert views == flat.grads
    assert views == views.copy()
    assert views.copy() == views
    assert views != type(given)()
    assert views != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(views)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("given", [[np.ones(2), np.ones(3)], {"w": np.ones(2), "b": np.ones(3)}])
def test_copies_of_views_are_plain(given: Any, how: Callable[[Any], Any]) -> None:
    views = fastadam.pack(given).params
    twin = how(views)
    assert type(twin) is type(given)
    for key in given if isinstance(given, dict) else range(2):
        assert_same_bits(twin[key], views[key])


@pytest.mark.parametrize(
    ("given", "key"), [([np.ones(2), np.ones(3)], 0), ({"w": np.ones(2), "b": np.ones(3)}, "w")]
)
def test_elements_of_views_are_written_in_place(given: Any, key: Any) -> None:
    flat = fastadam.pack(given)
    flat.params[key] *= 3
    flat.grads[key] += 2
    flat.grads[key][...] -= 1
    assert flat.param.tolist() == [3, 3, 1, 1, 1]
    assert flat.grad.tolist() == [1, 1, 0, 0, 0]
    with pytest.raises(AttributeError, match="cannot be exchanged, added or taken away"):
        del flat.params[key]
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = flat.params.nonsense


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ([np.ones(2)], "[0]"),
        ({"w": np.ones(2)}, "['w']"),
        ([("w", np.ones(2))], "['w']"),
        ({"layers": [{"w": np.ones(2)}, [np.ones(3)]]}, "['layers'][0]['w']"),
        (([np.ones(1)], {"a.b": {"w": np.ones(2)}}), "[1]['a.b']['w']"),
    ],
)
@pytest.mark.parametrize("which", ["params", "grads"])
def test_what_is_said_of_exchanged_views_works(given: Any, place: str, which: str) -> None:
    flat = fastadam.pack(given)
    with pytest.raises(AttributeError, match="cannot be exchanged") as refused:
        exec(f"flat.{which}{place} = value", {"flat": flat, "value": np.zeros(2)})
    remedy = str(refused.value).partition("write its elements: ")[2]
    assert remedy == f"flat.{which}{place}[...] = value"
    exec(remedy, {"flat": flat, "value": 3.0})
    assert (eval(f"flat.{which}{place}", {"flat": flat}) == 3.0).all()


@pytest.mark.parametrize(
    "change",
    [
        "flat.params = {}",
        "flat.grads = {'w': flat.grads['w']}",
        "flat.params['new'] = flat.params['w']",
        "flat.params.update({})",
        "flat.grads.pop('w')",
        "flat.params['layers'].append(1)",
        "flat.params['layers'][0]['new'] = 1",
        "flat.params['layers'][0:1] = []",
        "flat.param = flat.param[:]",
        "flat.grad = None",
        "flat.gard = 1",
        "flat.grad_ = 1",
        "del flat.params['w']",
    ],
)
def test_nothing_assigned_to_a_packed_buffer_is_ignored(change: str) -> None:
    flat = fastadam.pack({"w": np.ones(2), "layers": [{"w": np.ones(2)}]})
    before = flat.param.copy()
    with pytest.raises(AttributeError, match=r"cannot be exchanged|no attribute 'g"):
        exec(change, {"flat": flat})
    assert_same_bits(flat.param, before)
    assert not hasattr(flat, "__dict__")
    exec("flat.params = flat.params; flat.grads = flat.grads; flat.grad += 1", {"flat": flat})
    fastadam.Adam(flat, lr=0.1).step()
    assert (flat.param < before).all()


def test_views_are_gradients_of_a_step() -> None:
    for given in ([np.ones(2), np.ones(3)], {"w": np.ones(2), "b": np.ones(3)}):
        flat, twin = fastadam.pack(given), fastadam.pack(given)
        for each in (flat, twin):
            each.grad += np.arange(5.0)
        fastadam.Adam(flat).step(flat.grads)
        fastadam.Adam(twin).step()
        assert_same_bits(flat.param, twin.param)
