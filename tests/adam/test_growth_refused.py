"""Changes of parameters that are refused, and what was there before one: a clear word, and nothing is changed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.memory.host import Host
from tests.adam.growing import (
    LAYOUTS,
    anew,
    hold,
    numbers,
    same,
    small,
    values_of,
)
from tests.support.bits import assert_same_bits


def test_what_was_there_before_is_refused_with_a_word(backend: str) -> None:
    params = {"w": np.ones((4, 2)), "b": np.ones(3)}
    optimizer = fastadam.Adam(params, backend=backend)
    old, grads = params["w"], {"w": np.ones((4, 2)), "b": np.ones(3)}
    optimizer.step(grads)
    new = optimizer.resize("w", grow=1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"params\['w'\] = optimizer.param_groups\[0\]\['params'\]\[0\]"):
        optimizer.step(grads)
    for act in (lambda: optimizer.state[old], lambda: optimizer.resize(old), lambda: optimizer.reset(old)):
        with pytest.raises(KeyError, match="was resized"):
            act()
    params["w"] = np.ones((5, 2))
    with pytest.raises(ValueError, match="was resized"):
        optimizer.step(grads)
    params["w"] = optimizer.param_groups[0]["params"][0]  # the remedy
    assert params["w"] is new
    with pytest.raises(ValueError, match="as its parameter had before it was resized"):
        optimizer.step(grads)
    params["other"] = old
    with pytest.raises(ValueError, match="does not have"):
        optimizer.step({**grads, "w": np.ones((5, 2))})
    del params["other"]
    with pytest.raises(ValueError, match=r"has shape \(9, 2\), its parameter"):
        optimizer.step({**grads, "w": np.ones((9, 2))})
    for name, value in before["state"][0].items():
        assert_same_bits(np.asarray(optimizer.state["w"][name]), np.asarray(value))
    newer = optimizer.resize(new, keep=[0])
    with pytest.raises(KeyError, match="was resized"):
        optimizer.state[old]
    params["w"] = newer
    optimizer.step({**grads, "w": np.ones((1, 2))})
    params["w"] = newer.copy()
    with pytest.raises(ValueError, match="was exchanged"):
        optimizer.step({**grads, "w": np.ones((1, 2))})


def test_a_container_that_nobody_has_any_more_stops_no_step() -> None:
    def make() -> fastadam.Adam:
        params = {"a": [np.ones((4, 2))], "b": np.ones(3)}
        optimizer = fastadam.Adam(params)
        optimizer.step({"a": [np.ones((4, 2))], "b": np.ones(3)})  # from here on it is watched
        return optimizer

    optimizer = make()
    optimizer.resize("a.0", grow=1)
    optimizer.step({"a": [np.ones((5, 2))], "b": np.ones(3)})
    kept = [np.ones((4, 2))]
    optimizer = fastadam.Adam({"a": kept, "b": np.ones(3)})  # of these, one is held by others
    optimizer.resize("a.0", grow=1)
    grads = {"a": [np.ones((5, 2))], "b": np.ones(3)}
    for _ in range(2):
        with pytest.raises(ValueError, match="was resized"):
            optimizer.step(grads)
    kept[0] = optimizer.param_groups[0]["params"][0]
    optimizer.step(grads)
    kept[0] = np.ones((5, 2))
    with pytest.raises(ValueError, match="was exchanged"):
        optimizer.step(grads)


def test_a_buffer_from_before_is_empty_and_its_views_are_read_only() -> None:
    flat = fastadam.pack({"w": np.ones((4, 2)), "b": np.ones(3)})
    optimizer = fastadam.Adam(flat, ema_decay=0.5)
    view, whole = flat.grads["w"], flat.param
    optimizer.step()
    new = optimizer.resize("w", keep=[0, 1])
    for name in ("param", "grad", "params", "grads"):
        with pytest.raises(ValueError, match="was resized"):
            getattr(flat, name)
    for act in (lambda: fastadam.Adam(flat), lambda: copy.deepcopy(flat), lambda: pickle.dumps(flat)):
        with pytest.raises(ValueError, match="was resized"):
            act()
    with pytest.raises(KeyError, match="was resized"):
        optimizer.ema[flat]
    with pytest.raises(KeyError, match="was resized"):
        optimizer.ema[whole]
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 1
    assert "resized" in repr(flat)
    assert list(new.params) == ["w", "b"]
    assert optimizer.ema[new].shape == new.param.shape == (7,)
    assert not hasattr(new, "gard")
    optimizer.step(np.ones(7))
    assert optimizer.resize(new.params["b"], keep=[]).params["b"].shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("w", [4]), ValueError, "keep has the row 4, and parameter 'w' has the rows 0 to 3"),
        (("w", [0, -1]), ValueError, "keep has the row -1"),
        (("w", np.array([2**63], np.uint64)), ValueError, "keep has the row 9223372036854775808"),
        (("w", [0.0]), TypeError, r"convert it: np.asarray\(keep, np.int64\)"),
        (("w", [[0]]), ValueError, r"shape \(1, 1\)"),
        (("w", [True]), ValueError, "1 boolean, and parameter 'w' has 4 rows"),
        (("w", np.zeros((4, 2), bool)), ValueError, r"shape \(4, 2\)"),
        (("w", np.ma.masked_array([0, 1], [True, False])), TypeError, "keep is a masked array"),
        (("w", 3), TypeError, r"range\(3\)"),
        (("w", "abc"), TypeError, "keep must be"),
        (("w", object()), TypeError, "keep must be"),
        (("w", None, -1), ValueError, r"at least 0, got -1.*keep=range\(3\)"),
        (("w", None, 1.0), TypeError, "grow must be"),
        (("w", None, True), (TypeError, ValueError), "grow must be"),
        (("w", None, None), TypeError, "leave it out"),
        (("w", None, [4]), ValueError, "grow has the row 4"),
        (("w", None, [-1]), ValueError, "grow has the row -1"),
        (("w", None, [True] * 4), TypeError, "np.flatnonzero"),
        (("w", None, [0.5]), TypeError, "grow must be"),
        (("w", None, 2**62), MemoryError, "larger than any memory"),
        (("w", None, 2**52), (MemoryError, ValueError, OSError), "."),
        (("s", [0]), ValueError, "has no rows"),
        (("v",), KeyError, "no parameter has this name; there are w, s"),
        ((2,), KeyError, "there are the parameters 0 to 1"),
        ((np.ones((4, 2)),), KeyError, "not one of the optimizer's"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(arguments: Any, error: Any, words: str) -> None:
    optimizer = small()
    before, params = optimizer.state_dict(), optimizer.param_groups[0]["params"]
    with pytest.raises(error, match=words):
        optimizer.resize(*arguments)
    assert optimizer.param_groups[0]["params"] is params
    same(optimizer, anew(optimizer, "auto", values_of(optimizer), before))


def test_a_parameter_of_no_rows_has_none_to_keep() -> None:
    optimizer = fastadam.Adam([np.ones((0, 3))])
    with pytest.raises(ValueError, match="has no rows"):
        optimizer.resize(0, grow=[0])
    assert optimizer.resize(0, grow=2).shape == (2, 3)


def test_a_parameter_that_was_tampered_with_is_refused() -> None:
    array = np.ones((4, 2))
    optimizer = fastadam.Adam([array])
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.resize(0, grow=1)
    array.flags.writeable = True
    array.shape = (2, 4)
    with pytest.raises(ValueError, match=r"had the shape \(4, 2\)"):
        optimizer.resize(0, grow=1)
    array.shape = (4, 2)
    assert optimizer.resize(0, grow=1).shape == (5, 2)


def test_no_change_is_made_while_a_step_is_under_way() -> None:
    caught: list[int] = []

    def schedule(step: int) -> float:
        for act in (lambda: optimizer.resize(0, grow=1), optimizer.reset, lambda: optimizer.remove_param_group(0)):
            with pytest.raises(RuntimeError, match="while a step of this optimizer is under way"):
                act()
            caught.append(step)
        return 0.1

    optimizer = fastadam.Adam([np.ones(3)], lr=schedule, ema_decay=0.5)
    optimizer.step([np.ones(3)])
    assert len(caught) >= 3
    with optimizer.averaged(), pytest.raises(RuntimeError, match="averaged"):
        optimizer.resize(0, grow=1)


def test_what_cannot_be_reset_is_refused() -> None:
    optimizer = small()
    before = optimizer.state_dict()
    for keys, error in ((["w", "v"], KeyError), (5, KeyError), ({"w": 1}, TypeError), (3.5, KeyError)):
        with pytest.raises(error):
            optimizer.reset(keys)
    optimizer.reset([])
    same(optimizer, anew(optimizer, "auto", values_of(optimizer), before))
    optimizer.reset("s")
    assert list(optimizer.state) == [0]


@pytest.mark.parametrize(
    ("index", "error"), [(2, ValueError), (-1, ValueError), (0.0, TypeError), (True, TypeError)]
)
def test_what_is_no_group_cannot_be_removed(index: Any, error: type[Exception]) -> None:
    optimizer = fastadam.Adam([{"params": [np.ones(2)]}, {"params": [np.ones(3)]}])
    with pytest.raises(error, match="index must be the number of a group"):
        optimizer.remove_param_group(index)
    assert len(optimizer.param_groups) == 2
    optimizer.param_groups = tuple(optimizer.param_groups)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="must be the list"):
        optimizer.remove_param_group(0)
    assert len(optimizer.param_groups) == len(optimizer._groups) == 2


def test_labels_tell_the_positions_that_there_are() -> None:
    optimizer = fastadam.Adam(
        [{"params": [np.ones(2)]}, {"params": [np.ones(3)]}, {"params": fastadam.pack([np.ones(4)])}]
    )
    optimizer.remove_param_group(0)
    with pytest.raises(ValueError, match="the gradient of parameter 0 has shape"):
        optimizer.step([np.ones(2), np.ones(4)])
    optimizer.param_groups[1]["lr"] = -1
    with pytest.raises(ValueError, match=r"param_groups\[1\]: "):
        optimizer.step([np.ones(3), np.ones(4)])


def test_edits_that_are_wrong_are_refused_before() -> None:
    optimizer = small()
    optimizer.param_groups[0]["lr"] = -1
    for act in (lambda: optimizer.resize("w", grow=1), lambda: optimizer.remove_param_group(0)):
        with pytest.raises(ValueError, match="lr"):
            act()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.resize("w", grow=1)
    assert optimizer.lr == 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_too_little_memory_changes_nothing(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    held = hold(layout, [numbers(rng, (4, 3), np.float32) for _ in range(2)])
    optimizer = fastadam.Adam(held, ema_decay=0.5, state_dtype="int8")
    grads = [numbers(rng, (4, 3), np.float32) for _ in range(2)]
    names = optimizer.param_groups[0].get("param_names")
    optimizer.step(dict(zip(names, grads, strict=True)) if names else grads)
    expected = anew(optimizer, "auto", values_of(optimizer), optimizer.state_dict())
    zeros, given = Host.zeros, optimizer.param_groups[0]["params"]
    for failing in range(1, 100):
        calls: list[str] = []

        def few(*arguments: Any, failing: int = failing, calls: list[str] = calls) -> Any:
            calls.append(arguments[-1])
            if len(calls) == failing:
                raise MemoryError
            return zeros(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Host, "zeros", few)
            try:
                optimizer.resize(1, keep=[2, 0], grow=1)
            except MemoryError:
                same(optimizer, expected)
                assert optimizer.param_groups[0]["params"] is given
            else:
                break
    assert failing > 6  # the parameter, moments, scales and averages
    assert optimizer.param_groups[0]["params"] is not given
