"""Options that mean nothing are refused: in constructors, groups, edits and schedules."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bench import (
    Ambiguous,
    Bench,
    assert_goes_on,
    each_layout,
    refused,
    take,
)
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot

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
    pytest.param(
        ZeroDivisionError("at 3"), ZeroDivisionError, r"lr\(3\) raised ZeroDivisionError: at 3", id="raises"
    ),
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
        {"params": np.ones(3), "lr": schedule},
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
    with refused(opt, TypeError, r"lr\(1\) raised TypeError: .*takes 0 positional arguments"):
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
        with refused(bench.opt, ValueError, f"param_groups has {n + 1} entries, the optimizer made {n}; put back"):
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
