"""`step(zero_grad=True)` of fastadam.torch."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.conftest import AVAILABLE  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    SHORT,
    Parameter,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    dtype_name,
    give_grads,
    members,
    params,
    snapshot,
    take_care,
)

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (9000,), (0,)]


def pair(shapes: Any = tuple(SHAPES), dtype: Any = torch.float32, **settings: Any) -> tuple[Any, Any]:
    ours, theirs = (fastadam.torch.Adam(params(*shapes, dtype=dtype), lr=0.1, **settings) for _ in range(2))
    return ours, theirs


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("dtype", [*DTYPES, *SHORT], ids=dtype_name)
@pytest.mark.parametrize("shapes", [SHAPES, [(20_000,)]], ids=["several", "one"])
@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9, "max_grad_norm": 0.5}], ids=["plain", "with more"])
def test_the_step_and_then_zeros(backend: str, dtype: Any, shapes: Any, settings: Any, way: str) -> None:
    ours, theirs = pair(shapes, dtype, **settings)
    ours.backend = backend
    for step in range(4):
        for optimizer in (ours, theirs):
            give_grads(optimizer, step, lambda step, i: step == 2 and i == 1)
        grads = [param.grad for param in members(ours)]
        versions = [None if grad is None else grad._version for grad in grads]
        take_care(ours, way)
        ours.step(zero_grad=step != 3)
        theirs.step()
        for a, b in zip(members(ours), members(theirs), strict=True):
            assert_same_bits(a, b, "parameter")
        for param, grad, version in zip(members(ours), grads, versions, strict=True):
            assert param.grad is grad
            if grad is not None and step != 3:
                assert not grad.any()
                assert grad._version > version
            elif grad is not None and grad.numel():
                assert grad.any(), "only where it is asked for"


def test_a_gradient_of_two_parameters(way: str) -> None:
    """Becomes zero when both have read it."""
    ours, theirs = pair(((5000,), (5000,)))
    for step in range(3):
        for optimizer in (ours, theirs):
            grad = draw((5000,), seed=step)
            for param in members(optimizer):
                param.grad = grad
        take_care(ours, way)
        ours.step(zero_grad=True)
        theirs.step()
        for a, b in zip(members(ours), members(theirs), strict=True):
            assert_same_bits(a, b, "parameter")
        assert not members(ours)[0].grad.any()


def test_steps_that_are_left_out(way: str) -> None:
    """What is not finite would be added to the gradients that come next."""
    ours, _ = pair(skip_nonfinite=True)
    for step in range(4):
        give_grads(ours, step)
        if step in (0, 2):
            members(ours)[1].grad[0] = math.inf
        take_care(ours, way)
        ours.step(zero_grad=True)
        assert not any(param.grad.any() for param in members(ours))
    assert ours.skipped_steps == 2
    give_grads(ours, 5)
    ours.found_inf = 1.0
    ours.step(zero_grad=True)
    assert not any(param.grad.any() for param in members(ours))


def test_a_step_that_is_refused_leaves_them() -> None:
    ours, _ = pair(error_if_nonfinite=True)
    give_grads(ours, 0)
    members(ours)[1].grad[0] = math.inf
    before = snapshot(ours)
    with pytest.raises(RuntimeError, match="not finite"):
        ours.step(zero_grad=True)
    assert_same_snapshot(snapshot(ours), before)


def test_steps_that_are_torchs_own() -> None:
    ours, theirs = pair(max_grad_norm=0.5)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"] = -0.1
        give_grads(optimizer, 1)
    ours.step(zero_grad=True)
    theirs.step()
    assert ours.last_step.startswith("torch: ")
    for a, b in zip(members(ours), members(theirs), strict=True):
        assert_same_bits(a, b, "parameter")
        assert not a.grad.any()
        assert b.grad.any() or not b.numel()


@pytest.mark.parametrize("lr", [0.1, -0.1], ids=["ours", "torch's"])
def test_gradients_that_cannot_be_written(lr: float) -> None:
    with torch.inference_mode():
        made = torch.ones(7)
    for grad, why in ((torch.ones(1).expand(7), "several elements in one place"), (made, "inference mode")):
        optimizer = fastadam.torch.Adam([Parameter(draw((7,))), Parameter(draw((4,)))], lr=0.1)
        optimizer.param_groups[0]["lr"] = lr
        give_grads(optimizer, 0)
        members(optimizer)[0].grad = grad
        before = snapshot(optimizer)
        with pytest.raises(RuntimeError, match=f"zero_grad=True: the gradient of parameter 0 .*{why}"):
            optimizer.step(zero_grad=True)
        assert_same_snapshot(snapshot(optimizer), before)
        optimizer.step(zero_grad=False)  # the remedy of the message
        optimizer.zero_grad()


def test_any_layout() -> None:
    start = draw((40, 60))
    ours, theirs = (fastadam.torch.Adam([Parameter(start.clone())]) for _ in range(2))
    for step, layout in enumerate((lambda g: g.t().contiguous().t(), lambda g: torch.stack([g, g], -1)[..., 0])):
        for optimizer in (ours, theirs):
            members(optimizer)[0].grad = layout(draw((40, 60), seed=step))
        ours.step(zero_grad=True)
        theirs.step()
        assert_same_bits(members(ours)[0], members(theirs)[0])
        assert not members(ours)[0].grad.any()


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_what_is_no_flag(value: Any) -> None:
    ours, _ = pair()
    give_grads(ours, 0)
    before = snapshot(ours)
    with pytest.raises(TypeError, match="zero_grad"):
        ours.step(zero_grad=value)
    assert_same_snapshot(snapshot(ours), before)
