"""Changes that torch does not survive: an error and nothing written, or the same result as by another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    SETTINGS,
    Side,
    Twins,
    assert_close,
    assert_same_snapshot,
    draw,
    error_of,
    give_grads,
    grad_for,
    params,
    snapshot,
)
from tests.torch.changes import SHAPES  # noqa: E402


# Changes that torch does not survive, or in which fastadam may do better: an error, and nothing written, or the
# same result as by another way. Each returns what to do instead for the second side, or None where there must be
# an error.
def refused_or_same(
    spoil: Callable[[Side], object], alternative: Callable[[Side], object] | None, setting: str = "default"
) -> None:
    twins = Twins(lambda: params(*SHAPES), **SETTINGS[setting]).steps(3)
    ours, theirs = twins.ours, twins.theirs
    spoil(ours)
    give_missing_grads(ours)
    before = snapshot(ours.optimizer)
    try:
        ours.optimizer.step()
    except (RuntimeError, ValueError, TypeError, KeyError):
        assert_same_snapshot(snapshot(ours.optimizer), before)
        return
    assert alternative is not None, "there was no error"
    alternative(theirs)
    give_missing_grads(theirs)
    theirs.optimizer.step()
    for i, (a, b) in enumerate(zip(ours.params, theirs.params, strict=True)):
        assert_close(a, b, f"parameter {i}")
        assert_close(ours.state[a]["exp_avg"], theirs.state[b]["exp_avg"], f"parameter {i}, exp_avg")
        assert float(ours.state[a]["step"]) == float(theirs.state[b]["step"])


def give_missing_grads(side: Side) -> None:
    for i, param in enumerate(side.params):
        if param.grad is None or param.grad.shape != param.shape or param.grad.dtype != param.dtype:
            param.grad = None
            param.grad = grad_for(param, i)


def with_maximum(side: Side) -> None:
    side.group["amsgrad"] = True
    for state in side.state.values():
        state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg_sq"])


def step_as(value: Any) -> Callable[[Side], object]:
    def set_step(side: Side) -> None:
        side.state[side.params[1]]["step"] = value

    return set_step


def shrink_or_grow(side: Side, shape: tuple[int, ...], i: int = 1) -> None:
    side.params[i].data = draw(shape)
    side.params[i].grad = None


def data_of_a_gradient(side: Side, tensor: Any) -> None:
    side.params[1].grad.data = tensor


SPOILED: dict[str, tuple[Callable[[Side], object], Callable[[Side], object] | None]] = {
    "amsgrad switched on": (lambda side: side.group.update(amsgrad=True), with_maximum),
    "step is an int": (step_as(9), step_as(torch.tensor(9.0))),
    "step is a float": (step_as(9.0), step_as(torch.tensor(9.0))),
    "step is a tensor of two": (step_as(torch.ones(2)), None),
    "step is None": (step_as(None), None),
    "step is missing": (lambda side: side.state[side.params[1]].pop("step"), None),
    "a moment is missing": (lambda side: side.state[side.params[1]].pop("exp_avg"), None),
    "another moment is missing": (lambda side: side.state[side.params[1]].pop("exp_avg_sq"), None),
    "a moment is None": (lambda side: side.state[side.params[1]].update(exp_avg=None), None),
    "a moment is a number": (lambda side: side.state[side.params[1]].update(exp_avg=0.0), None),
    "a moment is too small": (lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(2, 4)), None),
    "a moment is too large": (lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(6, 4)), None),
    "a moment is transposed": (lambda side: side.state[side.params[1]].update(exp_avg_sq=torch.zeros(4, 3)), None),
    "a moment is float64": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(3, 4, dtype=torch.float64)),
        None,
    ),
    "a moment is int32": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(3, 4, dtype=torch.int32)),
        None,
    ),
    "a moment is sparse": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(3, 4).to_sparse()),
        None,
    ),
    "a moment is expanded": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(1).expand(3, 4)),
        None,
    ),
    "a moment overlaps itself": (
        lambda side: side.state[side.params[1]].update(exp_avg=torch.zeros(20).as_strided((3, 4), (1, 1))),
        None,
    ),
    "a parameter overlaps itself": (
        lambda side: setattr(side.params[1], "data", torch.zeros(20).as_strided((3, 4), (1, 1))),
        None,
    ),
    "a parameter is expanded": (lambda side: setattr(side.params[0], "data", torch.zeros(1).expand(7)), None),
    "a parameter grew": (lambda side: shrink_or_grow(side, (6, 4)), None),
    "a parameter shrank": (lambda side: shrink_or_grow(side, (2, 4)), None),
    "a parameter has another shape of the same size": (lambda side: shrink_or_grow(side, (2, 6)), None),
    "a parameter turned to float64": (
        lambda side: setattr(side.params[1], "data", side.params[1].data.double()),
        None,
    ),
    "a parameter turned to bfloat16": (
        lambda side: setattr(side.params[1], "data", side.params[1].data.bfloat16()),
        None,
    ),
    "a parameter turned to int32": (lambda side: setattr(side.params[6], "data", side.params[6].data.int()), None),
}


@pytest.mark.parametrize("what", SPOILED)
def test_refused_before_anything_is_written(what: str) -> None:
    if what == "a parameter turned to int32":
        pytest.skip("gradients of integers do not exist")
    refused_or_same(*SPOILED[what])


SPOILED_GRADS: dict[str, Callable[[Any], Any]] = {
    "too small": lambda param: torch.ones(2, 4),
    "too large": lambda param: torch.ones(6, 4),
    "transposed": lambda param: torch.ones(4, 3),
    "float64": lambda param: torch.ones(3, 4, dtype=torch.float64),
    "bfloat16": lambda param: torch.ones(3, 4, dtype=torch.bfloat16),
    "to be broadcast": lambda param: torch.ones(4),
}


@pytest.mark.parametrize("what", SPOILED_GRADS)
def test_a_gradient_that_does_not_fit_any_more(what: str) -> None:
    """Which torch's setter refuses; it gets there by its data, its dtype, or the parameter's data."""
    grad = SPOILED_GRADS[what](None)
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    param = twins.ours.params[1]
    param.grad_dtype = None
    old = param.data
    param.data = torch.zeros(grad.shape)
    param.grad = grad
    param.data = old
    before = snapshot(twins.ours.optimizer)
    try:
        twins.ours.optimizer.step()
    except (RuntimeError, ValueError, TypeError):
        assert_same_snapshot(snapshot(twins.ours.optimizer), before)
    else:
        other = twins.theirs.params[1]
        other.grad = grad.to(other.dtype).expand(other.shape).clone()
        twins.theirs.optimizer.step()
        twins.check()


@pytest.mark.parametrize("what", list(SPOILED)[:12:3] + list(SPOILED)[-4:-1])
def test_a_refused_step_can_be_taken_again(what: str) -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(3)
    ours = twins.ours
    kept = [param.data for param in ours.params], {k: dict(v) for k, v in ours.state.items()}
    options = dict(ours.group)
    SPOILED[what][0](ours)
    give_missing_grads(ours)
    try:
        ours.optimizer.step()
    except (RuntimeError, ValueError, TypeError, KeyError):
        for param, data in zip(ours.params, kept[0], strict=True):
            param.grad = None
            param.data = data
        for param, state in kept[1].items():
            ours.state[param] = state
        ours.group.update(options)
        twins.steps(3).check()


MANY = (2, 1, 3, 1, 2, 2, 2)


def strides_in_place(dims: int) -> Callable[[Any], object]:
    def restride(tensor: Any) -> None:
        shape = tensor.shape
        order = sorted(range(dims), key=lambda i: (shape[i], i))  # any order but the usual one
        strides, reach = [0] * dims, 1
        for i in order:
            strides[i], reach = reach, reach * shape[i]
        tensor.as_strided_(shape, strides)

    return restride


@pytest.mark.parametrize("what", ["parameter", "moment", "data", "gradient"])
@pytest.mark.parametrize("dims", range(2, 8))
def test_strides_that_change_in_place(dims: int, what: str) -> None:
    """The memory, the shape and the tensors stay; of many dimensions, torch keeps the strides elsewhere."""
    twins = Twins(lambda: params(MANY[-dims:], (3,)), amsgrad=True).steps(3)
    for side in (twins.ours, twins.theirs):
        first = side.params[0]
        with torch.no_grad():
            if what == "parameter":
                strides_in_place(dims)(first)
            elif what == "moment":
                strides_in_place(dims)(side.state[first]["exp_avg_sq"])
            elif what == "data":
                copied = first.data.clone()
                strides_in_place(dims)(copied)
                first.data = copied
            else:
                give_grads(side.optimizer, 50)
                strides_in_place(dims)(first.grad)
                side.optimizer.step()
    twins.check()
    twins.steps(3).check()


@pytest.mark.parametrize("dims", range(2, 8))
def test_shapes_that_change_in_place(dims: int) -> None:
    """To as many elements with other lengths: refused, as the moments keep theirs."""
    twins = Twins(lambda: [draw(MANY[-dims:]), draw((3,))]).steps(3)
    for side in (twins.ours, twins.theirs):
        first = side.params[0]
        first.resize_(tuple(reversed(first.shape)))
        first.grad = None
        give_grads(side.optimizer, 5)
        before = snapshot(side.optimizer)
        error = error_of(side.optimizer.step)
        if tuple(reversed(MANY[-dims:])) == MANY[-dims:]:
            assert error is None
        else:
            assert isinstance(error, RuntimeError)
            if side is twins.ours:
                assert_same_snapshot(snapshot(side.optimizer), before)


def test_a_freed_parameter_with_a_gradient_is_refused() -> None:
    """Where torch ends the process."""
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    give_grads(twins.ours.optimizer, 5)
    twins.ours.params[7].untyped_storage().resize_(0)
    with pytest.raises((RuntimeError, ValueError)):
        twins.ours.optimizer.step()
