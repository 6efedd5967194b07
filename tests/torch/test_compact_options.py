"""The options of compact state in groups and state dicts, and states that are loaded into other formats."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402 - it needs torch
from tests.support.torch_cases import assert_same_bits, draw, params  # noqa: E402
from tests.torch.test_compact import EACH, assert_same_states, step  # noqa: E402

KEYS = ("state_dtype", "master_weights", "rounding", "seed")
SHAPES: list[tuple[int, ...]] = [(7,), (33, 5), ()]


def trained(dtype: Any = torch.float32, steps: int = 3, **options: Any) -> Any:
    optimizer = fastadam.torch.Adam(params(*SHAPES, dtype=dtype), **options)
    optimizer.backend = "c"
    for seed in range(steps):
        step(optimizer, seed)
    return optimizer


def beside(source: Any, kind: Any = fastadam.torch.Adam, dtype: Any = None, **options: Any) -> Any:
    """Return an optimizer over copies of another one's parameters."""
    made = kind(
        [torch.nn.Parameter(param.detach().to(dtype or param.dtype, copy=True)) for param in source._params],
        **options,
    )
    if hasattr(made, "backend"):
        made.backend = "c"
    return made


def test_defaults_leave_no_trace() -> None:
    given = {"state_dtype": None, "master_weights": False, "rounding": "nearest", "seed": 0}
    optimizer = trained(**given)
    assert optimizer.state_dict().keys() == {"state", "param_groups"}
    assert not any(key in optimizer.param_groups[0] or key in optimizer.defaults for key in KEYS)
    assert {name: getattr(optimizer, name) for name in KEYS} == given


@pytest.mark.parametrize("kind", [fastadam.torch.Adam, fastadam.torch.AdamW])
def test_groups_have_them_where_one_is_given(kind: Any) -> None:
    first, second, third = params((3,), (4,), (5,))
    optimizer = kind([{"params": [first]}, {"params": [second], "state_dtype": "bfloat16"}], state_dtype="int8")
    optimizer.add_param_group({"params": [third]})
    assert [group["state_dtype"] for group in optimizer.param_groups] == ["int8", "bfloat16", "int8"]
    assert all(group["seed"] == 0 and group["rounding"] == "nearest" for group in optimizer.param_groups)
    with pytest.raises(AttributeError, match="state_dtype differs between groups"):
        _ = optimizer.state_dtype
    assert optimizer.seed == 0


def test_a_group_of_its_own_format() -> None:
    first, second = params((3,), (4,))
    optimizer = fastadam.torch.Adam([first])
    optimizer.backend = "c"
    optimizer.add_param_group({"params": [second], "state_dtype": "int8"})
    assert "state_dtype" not in optimizer.param_groups[0]
    step(optimizer, 0)
    assert [optimizer.state[param]["exp_avg"].dtype for param in (first, second)] == [torch.float32, torch.int8]


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        (
            {"state_dtype": "int4"},
            ValueError,
            "state_dtype must be None, 'float32', 'bfloat16' or 'int8', got 'int4'",
        ),
        ({"state_dtype": torch.int8}, TypeError, "state_dtype must be None"),
        ({"master_weights": 1}, TypeError, "master_weights must be True or False"),
        ({"rounding": "up"}, ValueError, "rounding must be 'nearest' or 'stochastic'"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number"),
    ],
)
def test_wrong_options(option: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        fastadam.torch.Adam(params((3,)), **option)
    optimizer = trained(steps=1)
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": params((4,)), **option})
    assert len(optimizer.param_groups) == 1
    ((name, value),) = option.items()
    if name in ("rounding", "seed"):
        with pytest.raises(error, match=message):
            setattr(optimizer, name, value)
    optimizer.param_groups[0].update(option)
    with pytest.raises(error, match=message):
        step(optimizer, 1)


@pytest.mark.parametrize(
    ("before", "edit"),
    [
        ({}, {"state_dtype": "int8"}),
        ({"state_dtype": "int8"}, {"state_dtype": None}),
        ({"state_dtype": "int8"}, {"state_dtype": "bfloat16"}),
        ({"dtype": torch.bfloat16}, {"master_weights": True}),
        ({"dtype": torch.bfloat16, "state_dtype": "int8"}, {"master_weights": True}),
        ({"dtype": torch.bfloat16, "master_weights": True, "state_dtype": "int8"}, {"master_weights": False}),
    ],
)
def test_formats_of_a_live_group_are_fixed(before: dict[str, Any], edit: dict[str, Any]) -> None:
    optimizer, same = trained(**before), trained(**before)
    optimizer.param_groups[0].update(edit)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"new\.load_state_dict\(old\.state_dict\(\)\)"):
            step(optimizer, 3)
    assert_same_states(optimizer, same)
    ((name, value),) = edit.items()
    with pytest.raises(ValueError, match=f"{name} is fixed once there is state"):
        setattr(same, name, value)
    # The remedy.
    options = {name: value for name, value in {**before, **edit}.items() if name != "dtype"}
    made = beside(optimizer, **options)
    made.load_state_dict(same.state_dict())
    step(made, 3)


def test_they_can_be_edited_before_the_first_step() -> None:
    optimizer = trained(steps=0)
    optimizer.param_groups[0]["state_dtype"] = "int8"
    step(optimizer, 0)
    assert optimizer.state[optimizer._params[0]]["exp_avg"].dtype == torch.int8


def test_seed_and_rounding_can_be_edited() -> None:
    edited, other = trained(torch.bfloat16), trained(torch.bfloat16)
    edited.param_groups[0]["rounding"] = "stochastic"  # one that is not there is noticed, too
    other.rounding = "stochastic"
    for optimizer in (edited, other):
        step(optimizer, 3)
    assert_same_states(edited, other)
    edited.param_groups[0]["seed"] = 4
    other.seed = 5
    for optimizer in (edited, other):
        step(optimizer, 4)
    assert any(not torch.equal(*pair) for pair in zip(edited._params, other._params, strict=True))


@pytest.mark.parametrize("name", list(EACH))
def test_state_dicts_go_on_with_the_same_bits(name: str) -> None:
    dtype, options = EACH[name]
    optimizer = trained(dtype, **options)
    loaded = beside(optimizer, **options)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same_states(loaded, optimizer)
    for seed in range(3, 5):
        step(loaded, seed)
        step(optimizer, seed)
    assert_same_states(loaded, optimizer)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
@pytest.mark.parametrize("name", ["int8", "masters and int8"])
def test_copies_go_on_with_the_same_bits(name: str, duplicate: Any) -> None:
    dtype, options = EACH[name]
    optimizer = trained(dtype, seed=2, **options)
    made = duplicate(optimizer)
    for each in (made, optimizer):
        step(each, 3)
    assert_same_states(made, optimizer)


def test_what_is_loaded_is_a_copy() -> None:
    optimizer = trained(state_dtype="int8")
    loaded, same = beside(optimizer, state_dtype="int8"), beside(optimizer, state_dtype="int8")
    for each in (loaded, same):
        each.load_state_dict(optimizer.state_dict())
    step(optimizer, 3)
    assert_same_states(loaded, same)


def test_own_formats_stay_and_the_seed_is_loaded() -> None:
    optimizer = trained(state_dtype="int8", seed=7, lr=0.5)
    loaded = beside(optimizer, state_dtype="bfloat16", rounding="stochastic")
    loaded.load_state_dict(optimizer.state_dict())
    (group,) = loaded.param_groups
    assert {name: group[name] for name in KEYS} == {
        "state_dtype": "bfloat16",
        "master_weights": False,
        "rounding": "stochastic",
        "seed": 7,
    }
    assert group["lr"] == 0.5
    for ours, theirs in zip(loaded._params, optimizer._params, strict=True):
        found, expected = loaded.decoded_state(ours), optimizer.decoded_state(theirs)
        assert float(found["step"]) == float(expected["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(found[key], expected[key].bfloat16().float())


def test_into_torchs_adam_and_back() -> None:
    optimizer = trained(state_dtype="int8", amsgrad=True)
    plain = beside(optimizer, amsgrad=True)
    plain.load_state_dict(optimizer.state_dict())
    assert not any(key in plain.param_groups[0] for key in KEYS)
    theirs = beside(optimizer, torch.optim.Adam)
    theirs.load_state_dict(plain.state_dict())
    members = theirs.param_groups[0]["params"]
    for param, theirs_param in zip(optimizer._params, members, strict=True):
        for key, value in optimizer.decoded_state(param).items():
            assert_same_bits(theirs.state[theirs_param][key], value, key)
    back = beside(optimizer, state_dtype="int8", amsgrad=True)
    back.load_state_dict(theirs.state_dict())
    assert_same_states(back, optimizer)  # codes of decoded numbers are what they were
    step(back, 3)


def test_masters_come_and_go() -> None:
    optimizer = trained(torch.bfloat16, master_weights=True)
    without = beside(optimizer, state_dtype="float32")
    without.load_state_dict(optimizer.state_dict())
    assert all("master_param" not in without.state[param] for param in without._params)
    again = beside(optimizer, master_weights=True)
    again.load_state_dict(without.state_dict())
    for param in again._params:
        assert_same_bits(again.decoded_state(param)["master_param"], param.float())
    step(again, 3)
    # Of float16, which lie beside as they are, where they round to the weight.
    whole = trained(torch.float16, master_weights=True)
    saved = copy.deepcopy(whole.state_dict())
    short = beside(whole, dtype=torch.bfloat16, master_weights=True)
    for param, source in zip(short._params, whole._params, strict=True):
        param.data = whole.state[source]["master_param"].bfloat16()
    short.load_state_dict(saved)
    for param, source in zip(short._params, whole._params, strict=True):
        assert_same_bits(short.decoded_state(param)["master_param"], whole.state[source]["master_param"])


def test_what_does_not_fit_is_refused() -> None:
    optimizer = trained(state_dtype="int8")
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][1]["exp_avg_scale"]
    same = trained(state_dtype="int8")
    with pytest.raises(ValueError, match="exp_avg_scale must have a scale for each"):
        optimizer.load_state_dict(saved)
    saved = copy.deepcopy(same.state_dict())
    saved["state"][0], saved["state"][1] = saved["state"][1], saved["state"][0]
    with pytest.raises(ValueError, match=r"exp_avg has shape \(33, 5\), its parameter has \(7,\)"):
        optimizer.load_state_dict(saved)
    assert_same_states(optimizer, same)
    del optimizer.state[optimizer._params[1]]["exp_avg_scale"]
    with pytest.raises(RuntimeError, match="the state of parameter 1 has no 'exp_avg_scale'"):
        step(optimizer, 3)


def test_amsgrad_can_be_switched_on() -> None:
    optimizer = trained(state_dtype="int8")
    optimizer.amsgrad = True
    step(optimizer, 3)
    entry = optimizer.state[optimizer._params[0]]
    assert entry["max_exp_avg_sq"].dtype == torch.uint8
    assert entry["max_exp_avg_sq_scale"].shape == entry["exp_avg_sq_scale"].shape


def test_decoded_states_are_copies() -> None:
    optimizer = trained(torch.complex64, state_dtype="int8")
    (param, *_) = optimizer._params
    found = optimizer.decoded_state(param)
    assert list(found) == ["step", "exp_avg", "exp_avg_sq"]
    assert found["exp_avg"].dtype == torch.complex64
    assert found["exp_avg"].shape == param.shape
    for value in found.values():
        value.zero_()
    assert optimizer.decoded_state(param)["exp_avg"].count_nonzero()
    assert optimizer.decoded_state(draw((3,)).requires_grad_()) == {}
