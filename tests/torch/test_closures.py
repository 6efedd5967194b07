"""Closures of fastadam.torch: what they change counts, and one that raises or steps does no harm."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")


from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    Side,
    Twins,
    assert_close,
    assert_same_snapshot,
    give_grads,
    params,
    snapshot,
)

# Closures.


@pytest.mark.parametrize("outside", ["enable_grad", "no_grad"])
@pytest.mark.parametrize("name", NAMES)
def test_closures(name: str, outside: str) -> None:
    twins = Twins(lambda: params((7,), (3, 4)), name, lr=0.1)
    for _ in range(5):
        losses = []
        for side in (twins.ours, twins.theirs):

            def closure(side: Side = side) -> Any:
                assert torch.is_grad_enabled()
                side.optimizer.zero_grad()
                loss = sum((param - 1).square().sum() for param in side.params)
                loss.backward()
                return loss

            with getattr(torch, outside)():
                losses.append(side.optimizer.step(closure))
            assert losses[-1].requires_grad
        assert_close(losses[0], losses[1], "loss")
    twins.check()


def test_what_a_closure_changes_counts() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):

        def closure(side: Side = side) -> str:
            give_grads(side.optimizer, 9, lambda step, i: i == 2)
            side.group["lr"] = 0.5
            side.params[0].data = torch.ones(7)
            side.optimizer.add_param_group({"params": params((2,), seed=8)})
            side.params[-1].grad = torch.ones(2)
            return "done"

        assert side.optimizer.step(closure) == "done"
    twins.check()


def test_a_closure_that_raises() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(1)

    def closure() -> None:
        raise KeyError("mine")

    for side in (twins.ours, twins.theirs):
        before = snapshot(side.optimizer)
        with torch.no_grad(), pytest.raises(KeyError, match="mine"):
            side.optimizer.step(closure)
        assert torch.is_grad_enabled()
        assert_same_snapshot(snapshot(side.optimizer), before)
    twins.steps(1).check()


def test_a_closure_that_steps() -> None:
    """The inner step is taken first."""
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 4)
        side.optimizer.step(side.optimizer.step)
    twins.check()
