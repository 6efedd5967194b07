"""Gradients that cannot be read where they lie: copies of them are stepped, in one call as all others."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from fastadam.torch import plain_copies  # noqa: E402
from tests.conftest import AVAILABLE  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    Tensor,
    assert_same_snapshot,
    draw,
    grad_for,
    members,
    params,
    snapshot,
    take_care,
)

SHAPE = (4, 6)


def misaligned(like: Tensor) -> Tensor:
    """Return the same numbers at an address that is no multiple of their size."""
    size = like.element_size()
    room = torch.empty(size * (like.numel() + 1), dtype=torch.uint8)
    raw = room.numpy()[1 : 1 + size * like.numel()]
    found = torch.frombuffer(raw.data, dtype=like.dtype, count=like.numel()).view(like.shape)
    return found.copy_(like)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda grad: grad.t().contiguous().t(),
    "expanded": lambda grad: grad[:1].expand(SHAPE),
    "every other": lambda grad: torch.stack([grad, grad], dim=-1)[..., 1],
    "negated": lambda grad: torch._neg_view(-grad),
    "misaligned": misaligned,
}
COMPLEX = {"conjugated": lambda grad: grad.conj().resolve_conj().conj()}


def pair(dtype: Any, n: int = 3, **settings: Any) -> list[Any]:
    return [fastadam.torch.Adam(params(*[SHAPE] * n, (5,), dtype=dtype), lr=0.1, **settings) for _ in range(2)]


def give(optimizers: list[Any], odd: Callable[[Tensor], Tensor], which: Any, seed: int) -> None:
    """Give the first optimizer odd gradients, and the second the same numbers as they lie in their parameters."""
    for number, optimizer in enumerate(optimizers):
        for i, param in enumerate(members(optimizer)):
            param.grad = grad_for(param, 97 * seed + i)
            if i in which:
                found = odd(param.grad)
                param.grad = found if number == 0 else found.resolve_conj().resolve_neg().contiguous().clone()


def snapshot_without_grads(optimizer: Any) -> dict[str, Any]:
    kept = [param.grad for param in members(optimizer)]
    try:
        for param in members(optimizer):
            param.grad = None
        return snapshot(optimizer)
    finally:
        for param, grad in zip(members(optimizer), kept, strict=True):
            param.grad = grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("kind", [*KINDS, *COMPLEX])
@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.5, "ema_decay": 0.9}], ids=["plain", "all"])
def test_the_same_bits_as_of_a_copy(kind: str, dtype: Any, settings: dict[str, Any], way: str) -> None:
    if kind in COMPLEX and not dtype.is_complex:
        pytest.skip("real numbers are not conjugated")
    odd = {**KINDS, **COMPLEX}[kind]
    optimizers = pair(dtype, **settings)
    for seed in range(4):
        give(optimizers, odd, (1,), seed)
        take_care(optimizers[0], way)
        known = optimizers[0]._memo.attempts
        for optimizer in optimizers:
            optimizer.step()
        if known is not None:
            assert optimizers[0]._memo.attempts is known
        assert_same_snapshot(*map(snapshot_without_grads, optimizers))


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("n", [3, 2 * plain_copies.MOST_ODD], ids=["few", "many"])
def test_many(n: int, backend: str) -> None:
    optimizers = pair(torch.float32, n)
    for optimizer in optimizers:
        optimizer.backend = backend
    for seed in range(3):
        give(optimizers, KINDS["transposed"], range(n), seed)
        known = optimizers[0]._memo.attempts
        for optimizer in optimizers:
            optimizer.step()
        if known is not None:
            assert optimizers[0]._memo.attempts is known
        assert_same_snapshot(*map(snapshot_without_grads, optimizers))


def test_gradients_are_only_read(way: str) -> None:
    optimizer = pair(torch.float32)[0]
    for seed in range(3):
        give([optimizer], KINDS["transposed"], (0, 1, 2), seed)
        grads = [param.grad for param in members(optimizer)]
        copies = [grad.clone() for grad in grads]
        take_care(optimizer, way)
        optimizer.step()
        gc.collect()
        for param, grad, copy in zip(members(optimizer), grads, copies, strict=True):
            assert param.grad is grad
            assert torch.equal(grad, copy)


def test_gradients_that_are_to_be_zero_are_the_users_own(way: str) -> None:
    optimizer = pair(torch.float32)[0]
    for seed in range(3):
        give([optimizer], KINDS["transposed"], (0, 2), seed)
        take_care(optimizer, way)
        optimizer.step(zero_grad=True)
        assert not any(param.grad.any() for param in members(optimizer))


def test_a_gradient_in_memory_that_is_written(way: str) -> None:
    """It is read as it was before the step."""
    optimizers = [fastadam.torch.Adam(params((4, 4), (4, 4)), lr=0.1) for _ in range(2)]
    for seed in range(3):
        for number, optimizer in enumerate(optimizers):
            first, second = members(optimizer)
            written = second.detach().t()
            first.grad = written if number == 0 else written.contiguous().clone()
            second.grad = grad_for(second, seed)
        take_care(optimizers[0], way)
        for optimizer in optimizers:
            optimizer.step()
        assert_same_snapshot(*map(snapshot_without_grads, optimizers))


@pytest.mark.parametrize("bad", ["sparse", "freed"])
def test_what_is_refused_is_refused_after_odd_ones_too(bad: str, way: str) -> None:
    optimizer = pair(torch.float32)[0]
    give([optimizer], KINDS["transposed"], (0,), 0)
    optimizer.step()
    give([optimizer], KINDS["transposed"], (0,), 1)
    param = members(optimizer)[1]
    if bad == "sparse":
        param.grad = param.grad.to_sparse()
    else:
        param.grad = param.grad.t().contiguous().t()
        param.grad.untyped_storage().resize_(8)
    before = snapshot_without_grads(optimizer)
    take_care(optimizer, way)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert_same_snapshot(snapshot_without_grads(optimizer), before)


def test_draws_are_what_they_seem() -> None:
    grad = Parameter(draw(SHAPE)).detach()
    for kind, odd in KINDS.items():
        found = odd(grad)
        expected = grad[:1].expand(SHAPE) if kind == "expanded" else grad
        assert torch.equal(found, expected)
        assert found.stride() != grad.stride() or found.is_neg() or found.data_ptr() % 4
