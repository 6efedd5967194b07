"""fastadam.torch in functions and beside models that torch compiles."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")


from tests.support.torch_cases import (  # noqa: E402
    Side,
    Twins,
    draw,
    give_grads,
    linear,
    members,
    params,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("warm", [False, True], ids=["from the first step", "after a step"])
def test_compiled_functions_that_step(warm: bool) -> None:
    """With a graph or without, with the right numbers."""
    dynamo = pytest.importorskip("torch._dynamo")
    twins = Twins(lambda: params((7,), (3, 4)), weight_decay=0.1)
    if warm:
        twins.steps(2)
    for side in (twins.ours, twins.theirs):
        dynamo.reset()

        def train(x: Any, side: Side = side) -> Any:
            loss = sum((param * x).sin().sum() for param in side.params)
            loss.backward()
            side.optimizer.step()
            side.optimizer.zero_grad()
            return loss.detach() * 2

        compiled = torch.compile(train, backend="eager")
        for step in range(4):
            result = compiled(draw((), seed=step))
            assert torch.isfinite(result)
    dynamo.reset()
    twins.check(rtol=1e-4, atol=1e-6)
    if not warm:
        twins.steps(2).check(rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step() -> None:
    dynamo = pytest.importorskip("torch._dynamo")
    twins = Twins(lambda: params((7,), (3, 4)), lr=0.01)
    for side in (twins.ours, twins.theirs):
        dynamo.reset()
        compiled = torch.compile(side.optimizer.step, backend="eager")
        for step in range(3):
            give_grads(side.optimizer, step)
            compiled()
        side.group["lr"] = 0.5
        give_grads(side.optimizer, 7)
        compiled()
        give_grads(side.optimizer, 8)
        side.optimizer.step()
    dynamo.reset()
    twins.check(rtol=1e-4, atol=1e-5)  # torch's, compiled, computes bias corrections in float32


def test_a_compiled_model() -> None:
    """Gradients come out of another engine; the optimizer is not compiled."""
    pytest.importorskip("torch._dynamo").reset()
    twins = Twins(linear())
    models = twins.each(lambda side: torch.compile(side.model, backend="eager"))
    for step in range(3):
        for side, model in zip((twins.ours, twins.theirs), models, strict=True):
            side.optimizer.zero_grad()
            model(draw((3, 4), seed=step)).square().sum().backward()
            side.optimizer.step()
        twins.check()
        twins.level()
    torch._dynamo.reset()


# Steps within compiled functions, that somebody has put something around: it runs once, and so does the step.


def compiled_step(optimizer: Any, counts: Any) -> Any:
    optimizer.step = torch.compile(optimizer.step, backend="eager")
    counts += 3
    return optimizer.step


def within(optimizer: Any) -> Any:
    def train(x: Any) -> Any:
        optimizer.step()
        return x + 1

    compiled = torch.compile(train, backend="eager")
    return lambda: compiled(torch.ones(2))


def wrapped_step(optimizer: Any, counts: Any) -> Any:
    step = optimizer.step

    def counting(*args: Any, **kwargs: Any) -> Any:
        counts.add_(1)
        return step(*args, **kwargs)

    optimizer.step = counting
    return within(optimizer)


def subclass(optimizer: Any, counts: Any) -> Any:
    class Counting(type(optimizer)):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            counts.add_(1)
            return super().step(closure)

    optimizer.__class__ = Counting
    return within(optimizer)


def hooked(optimizer: Any, counts: Any) -> Any:
    def count(*_: Any) -> None:
        counts.add_(1)

    optimizer.register_step_pre_hook(count)
    return within(optimizer)


def scheduled(optimizer: Any, counts: Any) -> Any:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def train(x: Any) -> Any:
        optimizer.step()
        scheduler.step()
        counts.add_(1)
        return x + 1

    compiled = torch.compile(train, backend="eager")
    return lambda: compiled(torch.ones(2))


def with_a_closure(optimizer: Any, counts: Any) -> Any:
    grads = [param.grad for param in members(optimizer)]

    def closure() -> Any:
        counts.add_(1)
        for param, grad in zip(members(optimizer), grads, strict=True):
            param.grad = grad
        return counts

    def train(x: Any) -> Any:
        optimizer.step(closure)
        return x + 1

    compiled = torch.compile(train, backend="eager")
    return lambda: compiled(torch.ones(2))


def an_edited_option(optimizer: Any, counts: Any) -> Any:
    """Torch marks such groups as capturable, even on the CPU, and leaves them so."""

    def train(x: Any) -> Any:
        counts.add_(1)
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        optimizer.step()
        return x + 1

    compiled = torch.compile(train, backend="eager")
    return lambda: compiled(torch.ones(2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend_name", ["auto", "numpy"])
@pytest.mark.parametrize(
    "way", [compiled_step, wrapped_step, subclass, hooked, scheduled, with_a_closure, an_edited_option]
)
def test_what_is_around_a_step_runs_once(way: Any, backend_name: str) -> None:
    dynamo = pytest.importorskip("torch._dynamo")
    twins = Twins(lambda: params((7,), (3, 4)), lr=0.01)
    twins.ours.optimizer.backend = backend_name
    for side in (twins.ours, twins.theirs):
        dynamo.reset()
        counts = torch.zeros(())
        give_grads(side.optimizer, 1)
        step = way(side.optimizer, counts)
        for _ in range(3):
            step()
        assert counts == 3
        assert {float(state["step"]) for state in side.state.values()} == {3.0}
    assert twins.ours.optimizer.last_step == "fastadam"
    assert twins.ours.group["capturable"] is False, "or torch's step, not compiled, would be next"
    twins.theirs.group["capturable"] = False
    dynamo.reset()
    twins.check(rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_copy_made_in_a_compiled_function() -> None:
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    twins = Twins(lambda: params((7,), (3, 4))).steps(2)
    twins.ours.optimizer.threads = 2
    for side in (twins.ours, twins.theirs):

        def train(x: Any, optimizer: Any = side.optimizer) -> Any:
            return x + 1, copy.deepcopy(optimizer)

        for _ in range(2):
            _, copied = torch.compile(train, backend="eager")(torch.ones(2))
        assert copied is not side.optimizer
        side.optimizer = copied
    dynamo.reset()
    assert twins.ours.optimizer.threads == 2
    twins.steps(2).check()
