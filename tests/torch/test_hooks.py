"""Hooks before and after a step: called once, whatever way it takes, and free to change all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")


import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    Parameter,
    Side,
    Twins,
    assert_same_snapshot,
    draw,
    give_grads,
    members,
    params,
    snapshot,
)

KINDS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: params(*FEW_SHAPES),
    "none with a gradient": lambda: params((0,)),
    "complex": lambda: params((3,), dtype=torch.complex64),
    "bfloat16": lambda: params((3,), dtype=torch.bfloat16),
    "strided": lambda: [Parameter(draw((3, 8))[:, ::2])],
    "meta": lambda: [Parameter(torch.ones(3, device="meta"))],
    "overlapping": lambda: [Parameter(base[:5]) for base in (draw((9,)),) for _ in range(2)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_called_once(name: str, kind: str, global_hooks: list[str]) -> None:
    """Whatever way the step takes, and also where torch's own classes have been patched already."""
    getattr(torch.optim, name)(params((2,)))
    optimizer = getattr(fastadam.torch, name)(KINDS[kind]())
    optimizer.register_step_pre_hook(lambda *_: global_hooks.append("pre"))
    optimizer.register_step_post_hook(lambda *_: global_hooks.append("post"))
    for _ in range(2):
        for param in members(optimizer):
            param.grad = torch.ones_like(param)
        if kind == "none with a gradient":
            members(optimizer)[0].grad = None
        global_hooks.clear()
        optimizer.step()
        assert global_hooks == ["global pre", "pre", "post", "global post"]


def test_what_hooks_are_given() -> None:
    calls: list[Any] = []

    def closure() -> float:
        return 5.0

    twins = Twins(lambda: params(*FEW_SHAPES))
    for side in (twins.ours, twins.theirs):
        calls.clear()
        side.optimizer.register_step_pre_hook(lambda *given: calls.append(given))
        handle = side.optimizer.register_step_post_hook(lambda *given: calls.append(given))
        give_grads(side.optimizer, 1)
        assert side.optimizer.step(closure) == 5.0
        handle.remove()
        assert side.optimizer.step() is None
        found = [(given[0] is side.optimizer, given[1:]) for given in calls]
        with_closure, without = ((side.optimizer, closure), {}), ((side.optimizer,), {})
        assert found == [(True, x) for x in (with_closure, with_closure, without)]
        calls.clear()
        assert side.optimizer.step(closure=closure) == 5.0
        ((given, args, kwargs),) = calls
        assert given is args[0] is side.optimizer
        assert [*args[1:], *kwargs.values()] == [closure]


def test_pre_hooks_can_change_all() -> None:
    """The step takes up what a hook does right before it: gradients, options, the closure."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):

        def hook(optimizer: Any, args: Any, kwargs: Any, side: Side = side) -> Any:
            for i, param in enumerate(side.params):
                param.grad = draw(param.shape, seed=90 + i)
            side.group["lr"] = 0.3
            side.params[0].data = torch.ones(7)
            side.state[side.params[1]]["exp_avg"] = torch.ones(3, 4)
            return (optimizer, lambda: 7.0), {}

        handle = side.optimizer.register_step_pre_hook(hook)
        assert side.optimizer.step() == 7.0
        handle.remove()
    twins.check()
    twins.steps(2).check()


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_hook_that_raises_leaves_a_step_not_begun_or_taken(when: str, backend: str) -> None:
    def make() -> tuple[Any, Any]:
        param = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = fastadam.torch.Adam([param], lr=0.1)
        optimizer.backend = backend
        return param, optimizer

    def raise_it(*_: Any) -> None:
        raise KeyboardInterrupt

    def step(param: Any, optimizer: Any, t: int) -> None:
        param.grad = torch.full((50,), t + 0.5)
        optimizer.step()

    (param, optimizer), (expected, reference) = make(), make()
    for t in range(2):
        step(param, optimizer, t)
        step(expected, reference, t)
    hook = getattr(optimizer, f"register_step_{when}_hook")(raise_it)
    with pytest.raises(KeyboardInterrupt):
        step(param, optimizer, 2)
    if when == "post":
        step(expected, reference, 2)
    assert torch.equal(param, expected)
    hook.remove()
    step(param, optimizer, 3)
    step(expected, reference, 3)
    assert torch.equal(param, expected)
    for name, tensor in reference.state[expected].items():
        assert torch.equal(optimizer.state[param][name], tensor), name


def test_a_pre_hook_that_returns_something_else() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        side.optimizer.register_step_pre_hook(lambda *_: 5)
        before = snapshot(side.optimizer)
        with pytest.raises(RuntimeError, match="must return None or a tuple"):
            side.optimizer.step()
        assert_same_snapshot(snapshot(side.optimizer), before)


def test_post_hooks_see_the_step_taken() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        before = [param.detach().clone() for param in side.params]
        seen: list[bool] = []

        def hook(*_: Any, side: Side = side, before: list[Any] = before, seen: list[bool] = seen) -> None:
            seen.extend(not torch.equal(a, b) for a, b in zip(side.params, before, strict=True))
            seen.append(float(side.state[side.params[0]]["step"]) == 2.0)

        side.optimizer.register_step_post_hook(hook)
        give_grads(side.optimizer, 2)
        side.optimizer.step()
        assert seen == [True] * 4


def test_hooks_of_state_dicts() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    calls: list[Any] = []
    for side in (twins.ours, twins.theirs):
        calls.clear()
        optimizer = side.optimizer
        optimizer.register_state_dict_pre_hook(lambda *given: calls.append(("pre", len(given))))
        optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "mine": 1})
        optimizer.register_load_state_dict_pre_hook(
            lambda o, saved: {**saved, "param_groups": [{**saved["param_groups"][0], "lr": 0.25}]}
        )
        optimizer.register_load_state_dict_post_hook(lambda *given: calls.append(("loaded", len(given))))
        saved = copy.deepcopy(optimizer.state_dict())
        assert saved["mine"] == 1
        optimizer.load_state_dict(saved)
        assert calls == [("pre", 1), ("loaded", 1)]
        assert side.group["lr"] == 0.25
    twins.steps(2).check()


def test_optimizers_in_backward() -> None:
    """One optimizer for each parameter, stepped as soon as its gradient is there."""
    twins = [Twins(lambda i=i: params((3, 3), seed=i)) for i in range(4)]
    for which in (0, 1):
        sides = [(pair.ours, pair.theirs)[which] for pair in twins]
        for side in sides:

            def hook(param: Any, side: Side = side) -> None:
                side.optimizer.step()
                side.optimizer.zero_grad()

            side.params[0].register_post_accumulate_grad_hook(hook)
    for step in range(4):
        for which in (0, 1):
            sides = [(pair.ours, pair.theirs)[which] for pair in twins]
            x = draw((2, 3), seed=step)
            for side in sides:
                x = torch.tanh(x @ side.params[0])
            x.square().sum().backward()
            assert all(side.params[0].grad is None for side in sides)
        for pair in twins:
            pair.check()
            pair.level()
