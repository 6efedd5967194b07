"""fastadam.torch in functions and beside models that torch compiles."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")


from tests.support.torch_cases import (  # noqa: E402
    Side,
    Twins,
    draw,
    give_grads,
    linear,
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
