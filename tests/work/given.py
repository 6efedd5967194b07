"""Parameters in the containers that somebody holds, and steps over them; shared by the tests beside it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_state, snapshot


class Layer(NamedTuple):
    w: Any
    b: Any


class Mine(list):  # type: ignore[type-arg]
    """A list that says of itself that it is like any other, and holds nothing."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    def __iter__(self) -> Any:
        return iter([self[0], self[1]])

    __hash__ = None  # type: ignore[assignment]


def arrays(*sizes: int) -> list[np.ndarray]:
    return [np.linspace(-1, 2, size) for size in sizes]


class Form(NamedTuple):
    """Parameters as they are given, the containers that somebody holds, and the places of the arrays in them."""

    params: Any
    places: list[tuple[Any, Any]]


def listed(w: Any, b: Any) -> Form:
    held = [w, b]
    return Form(held, [(held, 0), (held, 1)])


def named(w: Any, b: Any) -> Form:
    held = {"w": w, "b": b}
    return Form(held, [(held, "w"), (held, "b")])


def ordered(w: Any, b: Any) -> Form:
    held = OrderedDict(w=w, b=b)
    held.move_to_end("w")
    return Form(held, [(held, "b"), (held, "w")])


def default(w: Any, b: Any) -> Form:
    held = defaultdict(list, w=w, b=b)
    return Form(held, [(held, "w"), (held, "b")])


def subclassed(w: Any, b: Any) -> Form:
    held = Mine([w, b])
    return Form(held, [(held, 0), (held, 1)])


def values(w: Any, b: Any) -> Form:
    held = {"w": w, "b": b}
    return Form(held.values(), [(held, "w"), (held, "b")])


def items(w: Any, b: Any) -> Form:
    held = {"w": w, "b": b}
    return Form(held.items(), [(held, "w"), (held, "b")])


def nested(w: Any, b: Any) -> Form:
    held = {"trunk": [{"w": w}, {}], "head": (Layer({"b": b}, ()), 3)[:1]}
    return Form(held, [(held["trunk"][0], "w"), (held["head"][0].w, "b")])


def inner(w: Any, b: Any) -> Form:
    layers = [{"w": w}, {"b": b}]
    return Form([*layers], [(layers[0], "w"), (layers[1], "b")])


def grouped(w: Any, b: Any) -> Form:
    first, second = {"w": w}, {"b": b}
    return Form([{"params": first}, {"params": {"deeper": second}, "lr": 0.5}], [(first, "w"), (second, "b")])


def by_name(w: Any, b: Any) -> Form:
    held = {"w": w, "b": b}
    return Form([{"params": held, "lr": {"b": 0.5}}], [(held, "w"), (held, "b")])


def of_an_object(w: Any, b: Any) -> Form:
    class Model:
        pass

    model = Model()
    model.w, model.b = w, b  # type: ignore[attr-defined]
    return Form(vars(model), [(Attributes(model), "w"), (Attributes(model), "b")])


class Attributes:
    """The attributes of an object, as entries."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __getitem__(self, name: str) -> Any:
        return getattr(self.of, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.of, name, value)


FORMS = [
    *(listed, named, ordered, default, subclassed, values, items, nested, inner, grouped, by_name),
    of_an_object,
]


def step(optimizer: fastadam.Adam) -> None:
    params: Any = [each for group in optimizer.param_groups for each in group["params"]]
    if isinstance(params[0], fastadam.Parameter):
        for each in params:
            each.grad = np.ones_like(each.data)
        optimizer.step()
        return
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    grads = [np.ones_like(each) for each in params]
    optimizer.step(dict(zip(names, grads, strict=True)) if names else grads)


def values_of(optimizer: fastadam.Adam) -> list[np.ndarray]:
    return [np.array(getattr(each, "data", each)) for g in optimizer.param_groups for each in g["params"]]  # type: ignore[attr-defined]


def is_refused(optimizer: fastadam.Adam, match: str) -> str:
    before = snapshot(optimizer)
    for _ in range(2):  # again, as long as it is so
        with pytest.raises(ValueError, match=match) as refused:
            step(optimizer)
        assert_same_state(snapshot(optimizer), before)
    return str(refused.value)
