"""State dicts that do not fit are refused, and change nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bench import (
    Bench,
    assert_goes_on,
    each_layout,
    refused,
)
from tests.support.bits import assert_same_bits, snapshot


def _set(*path: Any) -> Callable[[Any], Callable[[dict[str, Any]], Any]]:
    """Return a function of a value that returns an edit: put the value there in the state dict."""

    def to(value: Any) -> Callable[[dict[str, Any]], Any]:
        def edit(saved: dict[str, Any]) -> dict[str, Any]:
            at: Any = saved
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value(at.get(path[-1])) if callable(value) else value
            return saved

        return edit

    return to


def _drop(*path: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(saved: dict[str, Any]) -> dict[str, Any]:
        at: Any = saved
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        return saved

    return edit


def _group(key: str) -> Any:
    def to(value: Any) -> Callable[[dict[str, Any]], Any]:
        def edit(saved: dict[str, Any]) -> dict[str, Any]:
            saved["param_groups"][-1][key] = value
            return saved

        return edit

    return to


LAST = 2  # position of the last parameter: whatever came before it must not have been taken over
step_of = _set("state", LAST, "step")
exp_avg_of = _set("state", LAST, "exp_avg")
STEP = "step must be a whole number of at least 0, got "
LABEL = r"state dict, parameter (2|'scale'): "
BAD_STATES = [
    pytest.param(
        lambda saved: None,
        ValueError,
        "must be a mapping with the keys 'state' and 'param_groups'",
        id="None",
    ),
    pytest.param(lambda saved: [saved], ValueError, "must be a mapping with the keys", id="list"),
    pytest.param(lambda saved: {}, ValueError, "must be a mapping with the keys", id="empty"),
    pytest.param(lambda saved: saved["state"], ValueError, "must be a mapping with the keys", id="only the state"),
    pytest.param(_drop("state"), ValueError, "must be a mapping with the keys 'state'", id="no state"),
    pytest.param(_drop("param_groups"), ValueError, "must be a mapping with the keys", id="no groups"),
    pytest.param(_set("state")([1]), TypeError, "'state' must be a mapping", id="state is a list"),
    pytest.param(_set("state")(None), TypeError, "'state' must be a mapping", id="state is None"),
    pytest.param(_set("param_groups")(None), TypeError, "'param_groups' a list", id="groups are None"),
    pytest.param(_set("param_groups")({}), TypeError, "'param_groups' a list", id="groups are a mapping"),
    pytest.param(_set("param_groups")([]), ValueError, "has 0 parameter groups, the optimizer has", id="no group"),
    pytest.param(
        _set("param_groups")(lambda groups: groups * 2),
        ValueError,
        r"has \d parameter groups, the",
        id="more groups",
    ),
    pytest.param(
        _set("param_groups")(lambda groups: [*groups[:-1], [1, 2]]),
        ValueError,
        "must be a mapping with the key 'params'",
        id="group is a list",
    ),
    pytest.param(
        lambda saved: _drop("param_groups", len(saved["param_groups"]) - 1, "params")(saved),
        ValueError,
        "must be a mapping with the key 'params'",
        id="group without params",
    ),
    pytest.param(_group("params")([0]), ValueError, "it has 1 parameter, the optimizer's group has", id="too few"),
    pytest.param(_group("params")([0, 1, 2, 3]), ValueError, "it has 4 parameters, the", id="too many"),
    pytest.param(_group("params")([]), ValueError, "it has 0 parameters", id="no parameters"),
    pytest.param(_group("params")(None), (TypeError, ValueError), "state dict.*params", id="params is None"),
    pytest.param(_group("params")(2), (TypeError, ValueError), "state dict.*params", id="params is a number"),
    pytest.param(
        lambda saved: _group("params")([[key] for key in saved["param_groups"][-1]["params"]])(saved),
        (TypeError, ValueError),
        "state dict.*(params|parameter)",
        id="params of lists",
    ),
    pytest.param(
        lambda saved: _group("params")([LAST] * len(saved["param_groups"][-1]["params"]))(saved),
        ValueError,
        "state dict.*(twice|which no parameter group lists)",
        id="one parameter for all",
    ),
    pytest.param(step_of(-1), ValueError, LABEL + STEP + "-1", id="negative step"),
    pytest.param(step_of(1.5), ValueError, LABEL + STEP + "1.5", id="fractional step"),
    pytest.param(step_of(float("nan")), ValueError, LABEL + STEP + "nan", id="NaN step"),
    pytest.param(step_of(float("inf")), ValueError, LABEL + STEP + "inf", id="infinite step"),
    pytest.param(step_of(2**62), ValueError, LABEL + STEP, id="huge step"),
    pytest.param(step_of(10**30), ValueError, LABEL + STEP, id="huger step"),
    pytest.param(step_of("2"), ValueError, LABEL + STEP + "'2'", id="string step"),
    pytest.param(step_of(None), ValueError, LABEL + STEP + "None", id="step is None"),
    pytest.param(step_of(2j), ValueError, LABEL + STEP + "2j", id="complex step"),
    pytest.param(step_of(True), ValueError, LABEL + STEP + "True", id="bool step"),
    pytest.param(step_of(np.ones(2)), ValueError, LABEL + STEP + "array", id="two steps"),
    pytest.param(step_of(np.ones(0)), ValueError, LABEL + STEP + "array", id="empty step"),
    pytest.param(exp_avg_of(np.ones(2, np.float32)), ValueError, LABEL + r"exp_avg has shape \(2,\)", id="shape"),
    pytest.param(exp_avg_of(np.ones(())), TypeError, LABEL + "exp_avg has dtype float64, the", id="dtype"),
    pytest.param(
        exp_avg_of(np.ones((), np.complex64)), TypeError, LABEL + "exp_avg has dtype complex64", id="complex"
    ),
    pytest.param(exp_avg_of(np.ones((), object)), TypeError, LABEL + "exp_avg has dtype object", id="object"),
    pytest.param(exp_avg_of("abc"), TypeError, LABEL + "exp_avg is a str, not an array of numbers", id="string"),
    pytest.param(exp_avg_of(None), TypeError, LABEL + "exp_avg is None, not an array", id="None as moment"),
    pytest.param(
        _set("state", 0, "exp_avg_sq")(lambda array: array.T),
        ValueError,
        r"exp_avg_sq has shape \(4, 3\), the parameter",
        id="transposed",
    ),
    pytest.param(_drop("state", LAST, "step"), ValueError, LABEL + "its state has no 'step'", id="no step"),
    pytest.param(
        _drop("state", LAST, "exp_avg"), ValueError, LABEL + "its state has no 'exp_avg'", id="no exp_avg"
    ),
    pytest.param(
        _drop("state", LAST, "exp_avg_sq"), ValueError, LABEL + "its state has no 'exp_avg_sq'", id="no sq"
    ),
    pytest.param(
        _set("state", LAST, "momentum")(0),
        ValueError,
        LABEL + "its state has the unknown key 'momentum'",
        id="momentum",
    ),
    pytest.param(
        _set("state", LAST)([1, 2]),
        TypeError,
        LABEL + "its state must be a mapping, got list",
        id="entry list",
    ),
    pytest.param(
        _set("state", LAST)(None),
        TypeError,
        LABEL + "its state must be a mapping, got NoneType",
        id="entry None",
    ),
    pytest.param(
        lambda saved: _set("state", 7)(saved["state"][0])(saved),
        ValueError,
        r"has state for \[7\], which no parameter group lists",
        id="extra entry",
    ),
    pytest.param(_set("state", "w")({}), ValueError, r"has state for \['w'\], which no", id="entry under a name"),
    pytest.param(
        _group("lr")(-1), ValueError, r"state dict, param_groups\[.\]: lr must be finite", id="negative lr"
    ),
    pytest.param(
        _group("lr")("0.1"), TypeError, "state dict, .*lr must be a real number, got '0.1'", id="lr string"
    ),
    pytest.param(_group("betas")((0.9, 1.0)), ValueError, r"state dict, .*betas\[1\] must be in", id="betas"),
    pytest.param(_group("eps")(float("nan")), ValueError, "state dict, .*eps must be finite", id="eps"),
    pytest.param(
        _group("weight_decay")(None), TypeError, "state dict, .*weight_decay must be a", id="weight_decay"
    ),
    pytest.param(
        _group("maximize")("no"), TypeError, "state dict, .*maximize must be True or False", id="maximize"
    ),
    pytest.param(
        _group("momentum")(0.9), ValueError, "state dict, .*unknown option 'momentum'", id="unknown option"
    ),
    pytest.param(
        lambda saved: _drop("param_groups", len(saved["param_groups"]) - 1, "lr")(saved),
        ValueError,
        "state dict, .*the option 'lr' is missing",
        id="no lr",
    ),
]


@functools.cache
def saved_elsewhere(layout: str, backend: str) -> dict[str, Any]:
    """Return a state dict that differs everywhere, so that taking over any part of it would show."""
    other = Bench(layout, backend, maximize=True)
    other.good_step(5)
    return other.opt.state_dict()


@pytest.mark.parametrize(("edit", "error", "match"), BAD_STATES)
def test_bad_state_dict(backend: str, edit: Callable[[Any], Any], error: Any, match: str) -> None:
    for bench in each_layout(backend, ["packed", "groups", "named"]):
        saved = edit(copy.deepcopy(saved_elsewhere(bench.layout, backend)))
        options = [dict(group) for group in bench.opt.param_groups]
        with refused(bench.opt, error, match):
            bench.opt.load_state_dict(saved)
        for group, before in zip(bench.opt.param_groups, options, strict=True):
            assert all(group[key] is before[key] for key in before)
        assert_goes_on(bench)


def test_amsgrad_state_without_running_maximum(backend: str) -> None:
    for bench in each_layout(backend, ["in place", "packed", "named"]):
        saved = Bench(bench.layout, backend).opt.state_dict()
        saved["param_groups"][0]["amsgrad"] = True
        with refused(bench.opt, ValueError, "amsgrad is on, but entry 0 has no max_exp_avg_sq"):
            bench.opt.load_state_dict(saved)
        saved = Bench(bench.layout, backend, amsgrad=True).opt.state_dict()
        del saved["state"][2]["max_exp_avg_sq"]
        with refused(bench.opt, ValueError, "amsgrad is on, but entry 2 has no max_exp_avg_sq"):
            bench.opt.load_state_dict(saved)
        assert not bench.opt.param_groups[0]["amsgrad"]
        assert_goes_on(bench)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        pytest.param(["w", "b", "gain"], r"missing \['scale'\], unexpected \['gain'\]", id="another name"),
        pytest.param(["w", "b"], "names", id="a name less"),
        pytest.param(["w", "b", "scale", "more"], "names", id="a name more"),
        pytest.param(["w", "b", "b"], "names differ: missing", id="a name twice"),
        pytest.param(None, "names", id="None"),
        pytest.param(3, "names", id="number"),
        pytest.param([["w"], ["b"], ["scale"]], "names", id="lists"),
    ],
)
def test_state_dict_with_other_names(backend: str, names: Any, match: str) -> None:
    for bench in each_layout(backend, ["named", "packed and named"]):
        other = Bench(bench.layout, backend)
        other.good_step(5)
        saved = other.opt.state_dict()
        saved["param_groups"][0]["param_names"] = names
        with refused(bench.opt, (TypeError, ValueError), "state dict, .*" + match):
            bench.opt.load_state_dict(saved)
        assert_goes_on(bench)


def test_state_dict_that_lists_one_entry_twice(backend: str) -> None:
    opt = fastadam.Adam([np.ones(2), np.ones(2)], backend=backend)
    opt.step([np.ones(2), None])
    saved = opt.state_dict()
    saved["param_groups"][0]["params"] = [0, 0]
    with refused(opt, ValueError, "the entry 0 appears twice"):
        opt.load_state_dict(saved)


def test_state_dict_over_the_live_state(backend: str) -> None:
    """The saved moments are views of those that are written: they must be read before."""
    opt = fastadam.Adam([np.ones(2), np.ones(2)], backend=backend)
    opt.step([np.array([1.0, 2.0]), np.array([3.0, 4.0])])
    before = snapshot(opt)
    saved = {"state": opt.state, "param_groups": opt.state_dict()["param_groups"]}
    saved["param_groups"][0]["params"] = [1, 0]
    opt.load_state_dict(saved)
    for name in ("exp_avg", "exp_avg_sq"):
        assert_same_bits(opt.state[0][name], before[f"{name} 0.1"])
        assert_same_bits(opt.state[1][name], before[f"{name} 0.0"])
