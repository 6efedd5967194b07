"""Errors of fastadam.torch come before any write."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    NAMES,
    SHAPES,
    assert_same_snapshot,
    finish,
    give_grads,
    members,
    params,
    snapshot,
)

# Errors before any write.


def put(**options: Any) -> Callable[[Any], object]:
    return lambda optimizer: optimizer.param_groups[1].update(options)


def state_of_last(**entries: Any) -> Callable[[Any], object]:
    return lambda optimizer: optimizer.state[members(optimizer)[-1]].update(entries)


def last_grad(make: Callable[[Any], Any]) -> Callable[[Any], object]:
    def set_grad(optimizer: Any) -> None:
        last = members(optimizer)[-1]
        last.grad = make(last)

    return set_grad


def last_data(make: Callable[[Any], Any]) -> Callable[[Any], object]:
    def set_data(optimizer: Any) -> None:
        last = members(optimizer)[-1]
        last.data = make(last)

    return set_data


nan = float("nan")
# What is wrong -> how it comes about, the errors it may raise, and what the message names.
WRONG: dict[str, tuple[Callable[[Any], object], tuple[type[Exception], ...], str]] = {
    "lr that is a tensor of two": (put(lr=torch.ones(2)), (ValueError, TypeError, RuntimeError), "lr"),
    "lr that is None": (put(lr=None), (ValueError, TypeError), "lr"),
    "lr that is a str": (put(lr="0.1"), (ValueError, TypeError), "lr"),
    "lr that is a function": (put(lr=lambda step: 0.1), (TypeError,), "lr"),
    "lr that is complex": (put(lr=1j), (TypeError,), "lr"),
    "betas that are a str": (put(betas="0.9"), (TypeError,), "beta"),
    "betas that are a number": (put(betas=0.9), (TypeError,), "beta"),
    "beta1 of one": (put(betas=(1.0, 0.9)), (ValueError,), "beta"),
    "beta2 beyond one": (put(betas=(0.9, 1.1)), (ValueError,), "beta"),
    "one beta": (put(betas=(0.9,)), (ValueError, TypeError), "beta"),
    "eps that is a str": (put(eps="small"), (TypeError,), "eps"),
    "a missing option": (lambda o: o.param_groups[1].pop("eps"), (KeyError, ValueError, TypeError), "eps"),
    "a sparse gradient": (last_grad(lambda last: last.grad.to_sparse()), (RuntimeError,), "sparse"),
    "a moment of another shape": (
        state_of_last(exp_avg=torch.zeros(4, 3)),
        (RuntimeError, ValueError),
        "exp_avg",
    ),
    "a moment that is too small": (
        state_of_last(exp_avg_sq=torch.zeros(3)),
        (RuntimeError, ValueError),
        "exp_avg_sq",
    ),
    "a moment of another dtype": (
        state_of_last(exp_avg=torch.zeros(3, 4, dtype=torch.float64)),
        (RuntimeError, ValueError, TypeError),
        "exp_avg",
    ),
    "a maximum of another shape": (
        state_of_last(max_exp_avg_sq=torch.zeros(2)),
        (RuntimeError, ValueError),
        "max_exp_avg_sq",
    ),
    "a parameter of another dtype": (
        last_data(lambda last: last.data.double()),
        (RuntimeError, ValueError, TypeError),
        "",
    ),
    "a parameter of another shape": (
        last_data(lambda last: torch.zeros(5, 5)),
        (RuntimeError, ValueError, TypeError),
        "",
    ),
    "a step that is a str": (state_of_last(step="5"), (RuntimeError, ValueError, TypeError), "step"),
    "a step that is NaN": (state_of_last(step=torch.tensor(nan)), (RuntimeError, ValueError, TypeError), "step"),
    "a step below zero": (state_of_last(step=torch.tensor(-5.0)), (RuntimeError, ValueError, TypeError), "step"),
    "a step that is infinite": (state_of_last(step=torch.tensor(math.inf)), (RuntimeError, ValueError), "step"),
    "no number of a parameter": (
        lambda o: o.param_groups[1]["params"].append(5),
        (RuntimeError, ValueError, TypeError, AttributeError),
        "",
    ),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", NAMES)
def test_errors_come_before_any_write(name: str, what: str) -> None:
    """In the last parameter of the last group, over a state that is there and over one that is not."""
    spoil, errors, named = WRONG[what]
    for warm in (0, 2):
        groups = [{"params": params(*SHAPES)}, {"params": params((7,), (3, 4), seed=1), "amsgrad": True}]
        optimizer = finish(getattr(fastadam.torch, name)(groups), give_grads, warm)
        give_grads(optimizer, 5)
        state_needed = spoil.__qualname__.startswith("state_of_last")
        if state_needed and not warm:
            continue
        if not warm and what.startswith("a parameter of another"):
            continue
        spoil(optimizer)
        tensors = [param for param in members(optimizer) if isinstance(param, torch.Tensor)]
        before = snapshot_of(optimizer, tensors)
        with pytest.raises(errors) as raised:
            optimizer.step()
        assert named in str(raised.value)
        assert_same_snapshot(snapshot_of(optimizer, tensors), before)


def snapshot_of(optimizer: Any, tensors: list[Any]) -> dict[str, Any]:
    """Return what `snapshot` does, of given tensors, and their version counters."""

    class Only:
        param_groups = ({"params": tensors},)
        state = optimizer.state

    versions = {f"version {i}": tensor._version for i, tensor in enumerate(tensors)}
    return {**snapshot(Only), **versions, "states": len(optimizer.state)}  # type: ignore[arg-type]


@pytest.mark.parametrize("backend_name", ["c", "numba", "numpy"])
def test_errors_come_before_any_write_on_each_backend(backend_name: str) -> None:
    if fastadam.available_backends()[backend_name] != "available":
        pytest.skip(backend_name)
    optimizer = fastadam.torch.Adam(params(*SHAPES))
    optimizer.backend = backend_name
    finish(optimizer, give_grads, 2)
    give_grads(optimizer, 3)
    optimizer.state[members(optimizer)[-1]]["exp_avg"] = torch.zeros(5)
    before = snapshot(optimizer)
    with pytest.raises((RuntimeError, ValueError), match="exp_avg"):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)
