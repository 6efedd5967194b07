"""Refusals and lies leave an optimizer whole, edits reach it, and what cannot be changed says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

SHAPES: list[tuple[int, ...]] = [(3,), (4,)]


def make(backend: str) -> fastadam.Adam:
    return fastadam.Adam(random_arrays(SHAPES, np.float64, 0), backend=backend)


def grads(seed: int) -> list[Any]:
    return list(random_arrays(SHAPES, np.float64, seed))


def test_a_schedule_cannot_change_its_optimizer_in_the_middle_of_a_step(backend: str) -> None:
    saved = make(backend).state_dict()
    attempts: list[Callable[[], object]] = [
        lambda: optimizer.step(grads(1)),
        lambda: optimizer.load_state_dict(saved),
        lambda: optimizer.add_param_group({"params": np.ones(1)}),
        lambda: optimizer.state_dict(),
        lambda: copy.deepcopy(optimizer),
    ]

    def schedule(step: int) -> float:
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way"):
                attempt()
        return 1e-3

    optimizer = make(backend)
    expected = make("numpy")
    optimizer.param_groups[0]["lr"] = schedule
    optimizer.step(grads(1))
    expected.step(grads(1))
    assert_same_state(snapshot(optimizer), snapshot(expected))
    optimizer.state_dict()


def test_edits_reach_the_work_lists_of_steps_with_none(backend: str) -> None:
    optimizer, alone = make(backend), fastadam.Adam(random_arrays(SHAPES, np.float64, 0)[0], backend="numpy")
    for seed, eps in ((1, 1e-8), (2, 0.5), (3, 0.25)):
        optimizer.param_groups[0]["eps"] = alone.param_groups[0]["eps"] = eps
        optimizer.step([grads(seed)[0], None])
        alone.step(grads(seed)[0])
    assert_same_bits(optimizer.param_groups[0]["params"][0], alone.param_groups[0]["params"][0])


@pytest.mark.parametrize("start", [0, 4, 9, 14])
def test_a_gradient_that_runs_into_its_parameter_from_either_side_is_refused(backend: str, start: int) -> None:
    base = np.zeros(30)
    optimizer = fastadam.Adam(base[10:15], backend=backend)
    grad = base[start : start + 5]
    if start in (9, 14):
        with pytest.raises(ValueError, match="shares memory with parameter 0"):
            optimizer.step(grad)
        assert len(optimizer.state) == 0
    else:
        optimizer.step(grad)


class Liar(np.ndarray):
    """A subclass that claims to be larger than it is."""

    shape = property(lambda self: (8,))  # type: ignore[assignment]
    size = property(lambda self: 8)  # type: ignore[assignment]


def test_subclasses_have_no_say_in_shapes(backend: str) -> None:
    optimizer = fastadam.Adam([np.zeros(8)], backend=backend)
    with pytest.raises(ValueError, match=r"has shape \(2,\)"):
        optimizer.step([np.ones(2).view(Liar)])
    short = fastadam.Adam([np.zeros(2).view(Liar)], backend=backend)
    short.step([np.ones(2)])
    assert short.state[0]["exp_avg"].shape == (2,)


MUTATIONS: dict[str, Callable[[Any, np.ndarray], object]] = {
    "append": lambda views, array: views.append(array),
    "extend": lambda views, array: views.extend([array]),
    "insert": lambda views, array: views.insert(0, array),
    "pop": lambda views, array: views.pop(),
    "reverse": lambda views, array: views.reverse(),
    "slice": lambda views, array: views.__setitem__(slice(0, 1), [array]),
    "in-place add": lambda views, array: views.__iadd__([array]),
    "item": lambda views, array: views.__setitem__(0, array),
    "del": lambda views, array: views.__delitem__(0),
}
NAMED_MUTATIONS: dict[str, Callable[[Any, np.ndarray], object]] = {
    "update": lambda views, array: views.update(w=array),
    "in-place or": lambda views, array: views.__ior__({"w": array}),
    "setdefault": lambda views, array: views.setdefault("x", array),
    "pop": lambda views, array: views.pop("w"),
    "clear": lambda views, array: views.clear(),
    "item": lambda views, array: views.__setitem__("w", array),
    "new item": lambda views, array: views.__setitem__("x", array),
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_lists_of_packed_views_cannot_be_changed(mutation: Callable[[Any, np.ndarray], object]) -> None:
    flat = fastadam.pack([np.ones(3), np.ones(3)])
    with pytest.raises(AttributeError, match="cannot be exchanged"):
        mutation(flat.grads, np.ones(3))
    assert len(flat.grads) == 2
    assert copy.deepcopy(flat.grads)[1].shape == (3,)


@pytest.mark.parametrize("mutation", NAMED_MUTATIONS.values(), ids=NAMED_MUTATIONS.keys())
def test_dicts_of_packed_views_cannot_be_changed(mutation: Callable[[Any, np.ndarray], object]) -> None:
    flat = fastadam.pack({"w": np.ones(3)})
    with pytest.raises(AttributeError, match="cannot be exchanged"):
        mutation(flat.grads, np.ones(3))
    assert list(flat.grads) == ["w"]
    assert list(copy.deepcopy(flat.grads)) == ["w"]


@pytest.mark.parametrize("name", ["state", "ema", "grad_norm", "skipped_steps"])
def test_what_cannot_be_changed_says_so(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(make("numpy"), name, 1)


def test_the_counter_in_the_state_cannot_be_assigned() -> None:
    optimizer = make("numpy")
    optimizer.step(grads(1))
    with pytest.raises(TypeError):
        optimizer.state[0]["step"] = 5  # type: ignore[index]


def test_an_empty_array_given_twice_is_refused() -> None:
    empty = np.zeros(0)
    with pytest.raises(ValueError, match="parameter 1 is the same array as parameter 0"):
        fastadam.Adam([empty, empty])


class Counting(fastadam.AdamW):
    """An optimizer with an attribute of its own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.extra = {"calls": 3}


def test_subclasses_keep_their_attributes_when_copied() -> None:
    assert copy.deepcopy(Counting(np.ones(2))).extra == {"calls": 3}


def test_an_optimizer_is_freed_with_its_last_reference(backend: str) -> None:
    """No cycle keeps parameters and moments alive until the garbage collector runs."""
    import gc
    import weakref

    gc.disable()
    try:
        param = np.ones(3)
        alive = weakref.ref(param)
        optimizer = fastadam.Adam(param, backend=backend)
        optimizer.step(np.ones(3))
        del param, optimizer
        assert alive() is None
    finally:
        gc.enable()
