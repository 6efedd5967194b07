"""Entries of the dicts and lists that parameters were given in, exchanged for others: noticed before a write."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from fastadam.backends import c
from fastadam.memory import container_words
from tests.support.bits import assert_same_bits, assert_same_state, snapshot
from tests.support.strategies import examples
from tests.work.given import (
    FORMS,
    Attributes,
    Form,
    arrays,
    by_name,
    grouped,
    inner,
    is_refused,
    items,
    listed,
    named,
    nested,
    of_an_object,
    step,
    subclassed,
    values,
    values_of,
)


@pytest.fixture(params=["as it is", "no versions of dicts", "no words"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compare in each of the ways that there are."""
    if request.param != "as it is":
        monkeypatch.setattr(container_words, "_dicts_have_versions", lambda: False)
    if request.param == "no words":
        monkeypatch.setattr(container_words, "_lists_have_tables", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("sizes", [(4, 3), (1, 1)])
@pytest.mark.parametrize("form", FORMS)
def test_an_array_that_is_exchanged_is_refused_and_the_remedy_works(
    form: Callable[[Any, Any], Form], sizes: tuple[int, int], which: int, steps: int
) -> None:
    """Also where the other array has the same numbers, as when there was nothing to clip."""
    made, straight = form(*arrays(*sizes)), form(*arrays(*sizes))
    optimizer, twin = fastadam.Adam(made.params, lr=0.25), fastadam.Adam(straight.params, lr=0.25)
    for _ in range(steps):
        step(optimizer)
        step(twin)
    held, key = made.places[which]
    other = np.clip(held[key], -10, 10)
    held[key] = other
    said = is_refused(optimizer, "was exchanged: params.* is another array now")
    remedy = said.partition("the one that it was given, ")[2].partition("; write into that one, ")
    names: dict[str, Any] = {"optimizer": optimizer, "values": other * 2, "np": np, "params": made.params}
    exec(remedy[0], names)
    first, _, second = remedy[2].partition(" or ")
    second, _, back = second.partition(", and put it back, ")
    exec(first, names)
    assert_same_bits(names["p"], other * 2)
    exec(second, names)
    twin_held, twin_key = straight.places[which]
    twin_held[twin_key][...] = other * 2
    np.clip(twin_held[twin_key], 0, 1, out=twin_held[twin_key])
    if form in (values, items, inner, grouped, by_name, of_an_object, subclassed):
        held[key] = names["p"]  # `params` of the message is not what this test has under the name
    else:
        exec(back, names)
    assert held[key] is names["p"]
    step(optimizer)
    step(twin)
    assert_same_state(snapshot(optimizer), snapshot(twin))


@pytest.mark.parametrize("form", [listed, named, nested])
@pytest.mark.parametrize("other", [fastadam.Parameter(np.ones(4)), 3.0, np.float64(1.0), [1.0, 2.0], "w"])
def test_a_parameter_that_becomes_anything_else_is_refused(form: Callable[[Any, Any], Form], other: Any) -> None:
    w, b = (fastadam.Parameter(each) for each in arrays(4, 3))
    made = form(w, b)
    optimizer = fastadam.Adam(made.params)
    step(optimizer)
    held, key = made.places[0]
    held[key] = other
    what = "another Parameter" if isinstance(other, fastadam.Parameter) else rf"of type .*{type(other).__name__}"
    said = is_refused(optimizer, rf"is {what} now.*np\.clip\(p\.data")
    assert "p.data[...] = values" in said
    held[key] = w
    step(optimizer)


def test_a_number_in_the_place_of_an_array_without_dimensions_is_refused() -> None:
    """Which is what arithmetic makes of one."""
    params = {"scale": np.array(2.0)}
    optimizer = fastadam.Adam(params)
    step(optimizer)
    params["scale"] = np.clip(params["scale"], 0, 1)
    is_refused(optimizer, "'scale' was exchanged.*is of type .*float64 now")


def test_exchanged_places_are_refused() -> None:
    """Gradients would go to the wrong ones."""
    layers = arrays(3, 3)
    optimizer = fastadam.Adam(layers)
    step(optimizer)
    layers.reverse()
    is_refused(optimizer, "parameter . was exchanged")
    layers.reverse()
    step(optimizer)
    del layers[0]
    is_refused(optimizer, "parameter 0 was exchanged")


@pytest.mark.parametrize("form", FORMS)
def test_what_works_in_place_goes_on(form: Callable[[Any, Any], Form]) -> None:
    made = form(*arrays(4, 1))
    optimizer = fastadam.Adam(made.params)
    for _ in range(4):
        step(optimizer)
        for held, key in made.places:
            held[key] -= 0.5
            np.clip(held[key], 0, 1, out=held[key])
            held[key] = held[key]
    for (held, key), value in zip(made.places, values_of(optimizer), strict=True):
        assert_same_bits(held[key], value)


@pytest.mark.parametrize("form", FORMS)
def test_a_container_that_was_emptied_is_free(form: Callable[[Any, Any], Form]) -> None:
    made = form(*arrays(4, 3))
    optimizer = fastadam.Adam(made.params)
    step(optimizer)
    for held, _ in made.places:
        getattr(held, "of", held).__dict__.clear() if isinstance(held, Attributes) else held.clear()
    step(optimizer)
    for held, key in made.places:
        if not isinstance(held, list):
            held[key] = np.ones(5)
    step(optimizer)


def test_entries_can_go() -> None:
    params: dict[str, Any] = {"w": np.ones(3), "b": np.ones(2), "deep": [np.ones(1), np.ones(4)]}
    optimizer = fastadam.Adam(params)
    step(optimizer)
    del params["b"]
    params["w"] = None
    params["deep"].pop()
    step(optimizer)
    params["deep"][0] = np.ones(1)
    is_refused(optimizer, r"'deep.0' was exchanged: params\['deep'\]\[0\]")


@pytest.mark.parametrize("new", [np.ones(5), fastadam.Parameter(np.ones(5)), [np.ones(5)], {"x": (np.ones(5),)}])
@pytest.mark.parametrize("deep", [False, True])
def test_an_array_that_nobody_would_train_is_refused_until_it_is_added(deep: bool, new: Any) -> None:
    params: dict[str, Any] = {"w": np.ones(3), "deep": {"b": np.ones(2)}}
    optimizer = fastadam.Adam(params)
    step(optimizer)
    where = params["deep"] if deep else params
    where["new"] = new
    is_refused(optimizer, r"\['new'\].* that the optimizer does not have, and would not step; add it")
    del where["new"]
    step(optimizer)
    where["new"] = new
    optimizer.add_param_group({"params": {"new": new}})
    if not isinstance(new, fastadam.Parameter):
        step(optimizer)


@pytest.mark.parametrize("new", [3, "name", None, [1, 2], {"lr": 0.1}, np.float64(3), object()])
def test_what_is_no_array_can_be_kept_beside_parameters(new: Any) -> None:
    params: dict[str, Any] = {"w": np.ones(3), "deep": [np.ones(2)]}
    optimizer = fastadam.Adam(params)
    step(optimizer)
    params["note"] = new
    params["deep"].append(new)
    for _ in range(2):
        step(optimizer)


def test_a_container_within_another_can_be_exchanged_for_one_that_holds_the_same() -> None:
    """From then on that one is looked at."""
    for size in (1, 3):
        tree: dict[str, Any] = {"layers": [{"w": np.ones(size)}, {"w": np.zeros(2)}]}
        optimizer = fastadam.Adam(tree)
        step(optimizer)
        tree["layers"] = [dict(layer) for layer in tree["layers"]]
        step(optimizer)
        tree["layers"][0] = {"w": tree["layers"][0]["w"]}
        step(optimizer)
        tree["layers"][0]["w"] = tree["layers"][0]["w"].copy()
        is_refused(optimizer, r"'layers.0.w' was exchanged: params\['layers'\]\[0\]\['w'\]")


def test_entries_within_themselves_end() -> None:
    params: dict[str, Any] = {"w": np.ones(3)}
    optimizer = fastadam.Adam(params)
    step(optimizer)
    params["self"] = params
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep, None]
    params["deep"] = deep
    step(optimizer)
    params["w"] = np.ones(3)
    is_refused(optimizer, "'w' was exchanged")


def test_what_nobody_else_holds_is_let_go() -> None:
    w, b = arrays(4, 3)

    class Weak(dict):  # type: ignore[type-arg]
        """Can be referred to weakly."""

    temporary, held = Weak(w=w), Weak(b=b)
    dropped, kept = weakref.ref(temporary), weakref.ref(held)
    optimizer = fastadam.Adam([temporary, held])
    del temporary
    step(optimizer)
    gc.collect()
    assert dropped() is None
    held["b"] = np.ones(3)
    is_refused(optimizer, "'1.b' was exchanged")
    held.clear()
    step(optimizer)
    del held
    gc.collect()  # the traceback above
    assert kept() is None


def test_a_list_that_was_only_for_the_constructor_is_not_compared() -> None:
    optimizer = fastadam.Adam([array for array in arrays(4, 3)])  # noqa: C416
    step(optimizer)
    assert optimizer._planner.containers.are_same is None
    for params in (fastadam.pack(arrays(4, 3)), iter(arrays(4, 3)), tuple(arrays(4, 3)), np.ones(3)):
        optimizer = fastadam.Adam(params)
        step(optimizer)
        assert optimizer._planner.containers.are_same is None


def test_groups_that_are_added_are_looked_at() -> None:
    more = {"v": np.ones(2)}
    optimizer = fastadam.Adam({"w": np.ones(3)})
    step(optimizer)
    optimizer.add_param_group({"params": more})
    step(optimizer)
    more["v"] = np.ones(2)
    is_refused(optimizer, "'v' was exchanged.*param_groups\\[1\\]\\['params'\\]\\[0\\]")


@pytest.mark.parametrize("send", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_step_whatever_becomes_of_the_containers(send: Callable[[Any], Any]) -> None:
    """They are made of arrays, and know no containers."""
    params = {"w": np.ones(3), "deep": [np.ones(2)]}
    both = [params, fastadam.Adam(params)]
    step(both[1])  # type: ignore[arg-type]
    twin_params, twin = send(both)
    step(twin)
    assert_same_bits(twin_params["w"], values_of(twin)[0])
    twin_params["w"] = np.ones(3)
    step(twin)
    params["w"] = np.ones(3)
    is_refused(both[1], "'w' was exchanged")  # type: ignore[arg-type]


def test_the_same_list_can_be_given_to_two_optimizers() -> None:
    layers = arrays(4, 3)
    first, second = fastadam.Adam(layers), fastadam.Adam(layers)
    for optimizer in (first, second, first):
        step(optimizer)
    layers[1] = layers[1].copy()
    is_refused(first, "parameter 1 was exchanged")
    is_refused(second, "parameter 1 was exchanged")


def test_without_native_code_all_containers_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"w": np.ones(3), "deep": [np.ones(2)]}
    monkeypatch.setattr(c, "why_missing", lambda: "not here")
    optimizer = fastadam.Adam(tree, backend="numpy")
    for _ in range(2):
        step(optimizer)
    tree["deep"][0] = np.ones(2)  # type: ignore[index]
    is_refused(optimizer, "'deep.0' was exchanged")


@pytest.mark.usefixtures("without_collection")
def test_what_a_signals_handler_raises_is_not_lost() -> None:
    class Stop(Exception):  # noqa: N818
        pass

    is_armed = False

    def handler(*_: object) -> None:
        if is_armed:
            raise Stop

    params = {"w": np.ones(3)}
    optimizer = fastadam.Adam(params)
    step(optimizer)
    before = signal.signal(signal.SIGALRM, handler)
    stopped = 0
    try:
        for delay in np.linspace(1e-5, 4e-3, 60):
            try:
                is_armed = True
                # Again and again, until one of them comes where it can be raised.
                signal.setitimer(signal.ITIMER_REAL, delay, 0.05)
                while True:
                    optimizer._planner.containers.are_same()  # type: ignore[misc]
            except Stop:  # noqa: PERF203 - each time
                is_armed = False
                stopped += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped == 60
    step(optimizer)


@examples(60)
@given(data=st.data())
def test_whatever_is_edited_steps_move_what_the_containers_hold(data: st.DataObject) -> None:
    """Edits of a tree in any order: a step moves each array that is in it, or is refused and moves none."""
    tree: dict[str, Any] = {"a": np.ones(1), "b": [np.ones(3), {"c": np.ones(2)}], "d": {"e": np.ones(1)}}
    optimizer = fastadam.Adam(tree)
    original = copy.copy(optimizer.param_groups[0]["params"])
    places = [(tree, "a"), (tree["b"], 0), (tree["b"][1], "c"), (tree["d"], "e")]
    for _ in range(data.draw(st.integers(1, 6))):
        which = data.draw(st.integers(0, 3))
        held, key = places[which]
        match data.draw(st.sampled_from(["copy", "restore", "same", "step", "rewrap"])):
            case "copy":
                held[key] = held[key].copy()
            case "restore":
                held[key] = original[which]
            case "same":
                held[key] *= 0.5
            case "rewrap":
                tree["d"] = dict(tree["d"])
                places[3] = (tree["d"], "e")
            case "step":
                pass
        exchanged = [held[key] is not mine for (held, key), mine in zip(places, original, strict=True)]
        before = [held[key].copy() for held, key in places]
        if any(exchanged):
            is_refused(optimizer, "was exchanged")
        else:
            step(optimizer)
        for (held, key), old in zip(places, before, strict=True):
            assert (held[key] != old).all() == (not any(exchanged))
