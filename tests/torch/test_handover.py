"""Steps that our kernels do not serve are taken by torch's own code, over the same state."""

from __future__ import annotations

import fractions
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.strategies import examples  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    Twins,
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    error_of,
    give_grads,
    members,
    params,
    snapshot,
)


def both(name: str) -> tuple[Any, Any]:
    return getattr(fastadam.torch, name), getattr(torch.optim, name)


def ways(twins: Twins, n: int = 1, **options: Any) -> list[str]:
    """Take steps with both after an edit of the first group; return which way ours went."""
    found = []
    for _ in range(n):
        twins.each(lambda side: side.group.update(options))
        twins.steps()
        found.append(twins.ours.optimizer.last_step)
    return found


# Options.

BEYOND: dict[str, dict[str, Any]] = {
    "negative lr": {"lr": -1e-6},
    "infinite lr": {"lr": float("inf")},
    "NaN lr": {"lr": float("nan")},
    "tensor of a negative lr": {"lr": torch.tensor(-1e-3, dtype=torch.float64)},
    "negative weight decay": {"weight_decay": -0.1},
    "negative eps": {"eps": -1e-8},
    "beta1 beyond one": {"betas": (1.000001, 0.999)},
    "negative beta1": {"betas": (-1e-6, 0.999)},
    "beta2 of one": {"betas": (0.9, 1.0)},
    "negative beta2": {"betas": (0.9, -0.01)},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", BEYOND)
def test_options_out_of_our_range(name: str, what: str) -> None:
    """From the first step on or later, for a while."""
    for warm in (0, 2):
        twins = Twins(lambda: params(*FEW_SHAPES), name).steps(warm)
        twins.level() if warm else None
        before = dict(twins.ours.group)
        (first, second) = ways(twins, 2, **BEYOND[what])
        assert first == second
        assert first.startswith(f"torch: param_groups[0]: {next(iter(BEYOND[what]))}")
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_same_bits(a, b, "torch's own code has torch's own bits")
        back = {key: value for key, value in before.items() if key != "params"}
        if what == "infinite lr":  # an infinite parameter is NaN after our decay, which is part of the update
            for param in (*twins.ours.params, *twins.theirs.params):
                param.data.masked_fill_(~param.isfinite(), torch.nan)
        assert ways(twins, 2, **back) == ["fastadam", "fastadam"]
        twins.check()


NUMBERS = st.one_of(
    st.floats(-0.1, 1.1),
    st.floats(-0.1, 1.1).map(np.float32),
    st.floats(-0.1, 1.1).map(np.array),
    st.fractions(0, 1, max_denominator=100),
    st.integers(-1, 1),
    st.booleans(),
    st.floats(-0.1, 1.1).map(lambda value: torch.tensor(value, dtype=torch.float64)),
)
REST = st.floats(-0.1, 1.1)


@examples(15)
@given(
    st.lists(
        st.one_of(
            st.fixed_dictionaries({"lr": NUMBERS}),
            st.fixed_dictionaries({"weight_decay": REST}),
            st.fixed_dictionaries({"eps": REST}),
            st.fixed_dictionaries({"betas": st.tuples(REST, REST)}),
            st.fixed_dictionaries({"amsgrad": st.booleans()}),
        ),
        max_size=6,
    )
)
def test_any_edits(edits: list[dict[str, Any]]) -> None:
    """What torch steps with, ours steps with; what torch fails with, ours refuses before it writes anything."""
    twins = Twins(lambda: params((5,)), lr=0.01, amsgrad=True).steps(1)
    sides = (twins.ours, twins.theirs)
    for edit in edits:
        twins.level()
        before = [dict(side.group) for side in sides]
        errors = []
        for side in sides:
            side.group.update(edit)
            give_grads(side.optimizer, 3)
            if side is twins.ours:
                untouched = snapshot(side.optimizer)
            errors.append(error_of(side.optimizer.step))
        assert (errors[0] is None) == (errors[1] is None), (edit, errors)
        if errors[0] is None:
            for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
                assert_close(a, b, str(edit), rtol=1e-3, atol=1e-5)
        else:
            assert_same_snapshot(snapshot(twins.ours.optimizer), untouched)
            for side, options in zip(sides, before, strict=True):
                side.group.update(options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.5)], ids=str)
def test_what_torchs_step_fails_with_is_refused_before_any_write(name: str, betas: tuple[float, float]) -> None:
    ours, theirs = (adam(params((3,))) for adam in both(name))
    for optimizer in (ours, theirs):
        give_grads(optimizer, 1)
        optimizer.param_groups[0]["betas"] = betas
    before = snapshot(ours)
    assert error_of(theirs.step) is not None
    with pytest.raises(ValueError, match=r"param_groups\[0\]: betas\[[01]\] must be in \[0, 1\)"):
        ours.step()
    assert_same_snapshot(snapshot(ours), before)
    assert ours.last_step is None


def test_a_schedule_that_overshoots() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES), lr=0.1)
    schedules = twins.each(lambda side: torch.optim.lr_scheduler.LambdaLR(side.optimizer, lambda i: 1 - i / 5))
    seen = []
    for _ in range(8):
        twins.steps().check()
        seen.append(twins.ours.optimizer.last_step.partition(":")[0])
        for schedule in schedules:
            schedule.step()
    assert seen == ["fastadam"] * 6 + ["torch"] * 2


# The constructor.

GIVEN: dict[str, dict[str, Any]] = {
    "an array without dimensions": {"lr": np.array(0.1)},
    "an array of one element": {"lr": np.array([0.1])},
    "NumPy's numbers": {"lr": np.float32(0.1), "eps": np.float64(1e-3), "weight_decay": np.int64(1)},
    "a fraction": {"lr": fractions.Fraction(1, 10)},
    "a truth value": {"lr": True},
    "infinity": {"lr": float("inf")},
    "a str": {"lr": "0.1"},
    "None": {"lr": None},
    "a function": {"lr": lambda step: 0.1},
    "flags that are numbers": {"amsgrad": 1, "maximize": 0},
    "a weight decay that is a tensor": {"weight_decay": torch.tensor(0.1)},
    "differentiable": {"differentiable": True},
    "differentiable and fused": {"differentiable": True, "fused": True},
    "NumPy's betas": {"betas": (np.float32(0.9), np.float32(0.9))},
    "doubles of NumPy as betas": {"betas": (np.float64(0.9), np.float64(0.9))},
    "a list of betas": {"betas": [0.9, 0.99]},
    "three betas": {"betas": (0.9, 0.99, 0.999)},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["for all", "in a group"])
@pytest.mark.parametrize("what", GIVEN)
def test_the_constructor_takes_what_torchs_takes(name: str, where: str, what: str) -> None:
    """And no less; then both step, or neither does."""
    made: list[Any] = []
    for adam in both(name):
        first = params((3,)) if where == "for all" else [{"params": params((3,)), **GIVEN[what]}]
        options = GIVEN[what] if where == "for all" else {}
        try:
            optimizer = adam(first, **options)
        except Exception as error:
            made.append(error)
        else:
            give_grads(optimizer, 1)
            made += [optimizer, error_of(optimizer.step)]
    ours, theirs = made[: len(made) // 2], made[len(made) // 2 :]
    assert len(ours) == len(theirs)
    if len(ours) == 1:
        assert type(ours[0]) is type(theirs[0])
        # What Python says of an operand, not torch of an argument, is said better.
        said = str(theirs[0])
        assert str(ours[0]) == said or "not supported between" in said or "not subscriptable" in said
        return
    assert (ours[1] is None) == (theirs[1] is None), (ours[1], theirs[1])
    if ours[1] is None and what != "infinity":
        assert_close(members(ours[0])[0], members(theirs[0])[0], what)


def test_edited_numbers_that_are_arrays_are_noticed() -> None:
    """An array can change and stay the same object."""
    lr = np.array(0.01)
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    twins.each(lambda side: side.group.update(lr=lr))
    twins.steps(2).check()
    lr[()] = 0.5
    twins.steps(2).check()
    assert twins.ours.optimizer.last_step == "fastadam"


# Differentiable and capturable.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_differentiable(name: str, amsgrad: bool) -> None:
    """Gradients with respect to the learning rate, the weights and their gradients go through steps."""
    found = []
    n = 1 if amsgrad else 2  # with amsgrad, torch's second step writes over what autograd has kept of the first
    for adam in both(name):
        lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        weight, slope = (draw((3,), torch.float64, seed=seed).requires_grad_() for seed in range(2))
        param = weight.clone()
        optimizer = adam([param], lr=lr, differentiable=True, amsgrad=amsgrad)
        calls: list[str] = []
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append("post"))

        def closure(param: Any = param, slope: Any = slope, calls: list[str] = calls) -> Any:
            calls.append("closure")
            param.grad = slope * 2
            return calls

        for _ in range(n):
            assert optimizer.step(closure) is calls
        assert calls == ["pre", "closure", "post"] * n
        found.append(torch.autograd.grad(param.sum(), (lr, weight, slope)))
    for ours, theirs in zip(*found, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("option", ["differentiable", "capturable"])
@pytest.mark.parametrize("way", ["constructor", "group", "edited", "loaded"])
def test_options_of_torch_alone(option: str, way: str) -> None:
    """Torch takes no capturable step on the CPU, and says so in an error: so does ours."""
    results = []
    for adam in both("Adam"):
        given = [{"params": params((3,)), option: True}] if way == "group" else params((3,))
        optimizer = adam(given, **({option: True} if way == "constructor" else {}))
        if way == "edited":
            optimizer.param_groups[0][option] = True
        if way == "loaded":
            saved = optimizer.state_dict()
            saved["param_groups"][0][option] = True
            optimizer.load_state_dict(saved)
        for param in members(optimizer):
            param.requires_grad_(False)  # torch's step writes in place, with or without autograd
        give_grads(optimizer, 1)
        error = error_of(optimizer.step)
        results.append((type(error), str(error), members(optimizer)[0]))
        if adam is fastadam.torch.Adam:
            assert optimizer.last_step == (f"torch: param_groups[0]: {option}=True" if error is None else None)
    assert results[0][:2] == results[1][:2]
    assert (results[0][0] is AssertionError) == (option == "capturable")
    assert_same_bits(results[0][2], results[1][2])


def test_state_goes_from_one_way_to_the_other() -> None:
    """Of ours, torch's takes numbers as counters, and an amsgrad that was switched on later."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    for state in twins.ours.state.values():
        state["step"] = int(state["step"])
    twins.ours.group.update(amsgrad=True, lr=-0.01)
    for state in twins.theirs.state.values():
        state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
    twins.theirs.group.update(amsgrad=True, lr=-0.01)
    twins.steps(1).check()
    assert twins.ours.optimizer.last_step.startswith("torch: ")


def test_ours_put_in_the_place_of_torchs_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed over goes to torch's own code all the same."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(1)
    twins.level()
    monkeypatch.setattr(torch.optim, "Adam", fastadam.torch.Adam)
    assert ways(twins, 2, lr=-0.1)[1].startswith("torch: ")
    assert_same_bits(twins.ours.params[0], twins.theirs.params[0])


def test_hooks_run_once(global_hooks: list[str]) -> None:
    optimizer = fastadam.torch.Adam(params((3,)))
    optimizer.param_groups[0]["lr"] = -0.1
    give_grads(optimizer, 1)
    optimizer.step()
    assert global_hooks == ["global pre", "global post"]


def test_the_way_of_each_step() -> None:
    optimizer = fastadam.torch.Adam(params((3,)))
    assert optimizer.last_step is None
    optimizer.step()
    assert optimizer.last_step == "fastadam", "a step without gradients is ours"
    optimizer.param_groups[0]["lr"] = -0.1
    give_grads(optimizer, 1)
    optimizer.step()
    way = optimizer.last_step
    assert way is not None
    assert way.startswith("torch: param_groups[0]: lr must be finite and at least 0, got -0.1")
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError):
        optimizer.step()
    assert optimizer.last_step == way, "a step that was refused does not count"
    with pytest.raises(AttributeError):
        optimizer.last_step = "mine"  # type: ignore[misc]


def test_nothing_is_asked_of_plain_tensors_twice() -> None:
    """Steps that are ours are remembered after one that was handed over."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    ways(twins, 1, lr=-1.0)
    ways(twins, 2, lr=1e-3)
    assert twins.ours.optimizer._memo.attempts is not None
