"""What an optimizer holds on to, and what it lets go."""

from __future__ import annotations

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    Twins,
    canaries,
    give_grads,
    params,
)
from tests.torch.changes import SHAPES  # noqa: E402


def test_a_state_dict_is_taken_over_without_a_copy() -> None:
    """Torch's `load_state_dict` takes the tensors themselves where nothing has to be converted."""
    first, second = (Twins(lambda: params(*SHAPES), amsgrad=True) for _ in range(2))
    first.steps(2)
    for a, b in ((first.ours, second.ours), (first.theirs, second.theirs)):
        b.optimizer.load_state_dict(a.optimizer.state_dict())
    for _ in range(3):
        first.steps(1).check()
        second.steps(1).check()


def test_parameters_freed_while_they_have_no_gradient() -> None:
    """Storages of no bytes behind parameters of a shape, as sharded training leaves them."""
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):
        side.watched["kept"] = side.params[7].detach().clone()
        side.params[7].untyped_storage().resize_(0)
    tweeting = list(canaries([1200]))
    for side in (twins.ours, twins.theirs):
        for step in range(3):
            give_grads(side.optimizer, step, lambda step, i: i == 7)
            side.optimizer.step()
        side.params[7].untyped_storage().resize_(1200)
        side.params[7].data.copy_(side.watched["kept"])
    assert all(bool((canary == 7).all()) for canary in tweeting)
    twins.steps(2).check()


def test_old_tensors_are_let_go() -> None:
    """No cache keeps what was replaced: parameters, gradients or moments."""
    side = Twins(lambda: params(*SHAPES)).steps(2).ours
    gone = {
        "parameter": weakref.ref(side.params[1]),
        "its gradient": weakref.ref(side.params[1].grad),
        "its moment": weakref.ref(side.state[side.params[1]]["exp_avg"]),
        "a replaced moment": weakref.ref(side.state[side.params[0]]["exp_avg_sq"]),
        "a replaced gradient": weakref.ref(side.params[2].grad),
    }
    side.state[side.params[0]]["exp_avg_sq"] = torch.ones(7)
    side.state.pop(side.group["params"].pop(1))
    side.optimizer.zero_grad()
    give_grads(side.optimizer, 1)
    side.optimizer.step()
    gc.collect()
    assert [what for what, reference in gone.items() if reference() is not None] == []


def test_an_optimizer_is_let_go() -> None:
    side = Twins(lambda: params(*SHAPES)).steps(2).ours
    gone = [
        weakref.ref(side.optimizer),
        weakref.ref(side.params[0]),
        weakref.ref(side.state[side.params[0]]["exp_avg"]),
    ]
    del side
    gc.collect()
    assert [reference() is None for reference in gone] == [True] * 3
