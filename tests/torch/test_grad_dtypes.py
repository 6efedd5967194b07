"""Gradients of another dtype than their parameters."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402 - it needs torch
from fastadam.torch import careful  # noqa: E402
from tests.support.torch_cases import assert_same_bits, draw, params, take_care  # noqa: E402

SHAPES: list[tuple[int, ...]] = [(7,), (33, 5), (), (2, 3, 4, 5)]
SHORT = (torch.bfloat16, torch.float16)
PAIRS = (
    [(torch.float32, each) for each in SHORT] + [(each, torch.float32) for each in SHORT] + [SHORT, SHORT[::-1]]
)

pytestmark = pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no grad_dtype")


def of(dtype: Any, grad: Any, backend: str, **options: Any) -> Any:
    members = params(*SHAPES, dtype=torch.float32)
    members = [torch.nn.Parameter(each.detach().to(dtype)) for each in members]
    members[-1] = torch.nn.Parameter(members[-1].detach().contiguous(memory_format=torch.channels_last))
    for param in members:
        param.grad_dtype = grad
    optimizer = fastadam.torch.Adam(members, **options)
    optimizer.backend = backend
    return optimizer


def step(optimizer: Any, seed: int, grad: Any, wide: Any = None, **how: Any) -> None:
    for i, param in enumerate(optimizer._params):
        made = torch.empty_like(param, dtype=grad).copy_(draw(param.shape, torch.float32, 100 * seed + i))
        param.grad = made if wide is None else made.to(wide)
    optimizer.step(**how)


@pytest.mark.parametrize(
    ("backend", "dtype", "grad"),
    [*(("c", *pair) for pair in PAIRS), *((name, *pair) for name in ("numba", "numpy") for pair in PAIRS[1:3])],
    ids=str,
)
def test_they_count_as_what_they_are(
    backend: str, dtype: Any, grad: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend not in fastadam.available_backends():
        pytest.skip(f"{backend} is not available")
    options: dict[str, Any] = {"max_grad_norm": 1.0, "weight_decay": 0.1, "amsgrad": True}
    ours, expected = of(dtype, grad, backend, **options), of(dtype, torch.float32, "c", **options)
    for seed in range(3):
        take_care(ours, way)
        step(ours, seed, grad, zero_grad=seed == 1)
        if seed == 1:
            assert all(param.grad.dtype == grad and not param.grad.count_nonzero() for param in ours._params)
        step(expected, seed, grad, torch.float32)
        assert ours.grad_norm == expected.grad_norm
    for param, other in zip(ours._params, expected._params, strict=True):
        assert_same_bits(param, other)
        for key, value in expected.state[other].items():
            assert_same_bits(ours.state[param][key], value, key)
    taken = []
    monkeypatch.setattr(careful.CarefulStep, "take", lambda self: taken.append(self) or "fastadam")
    take_care(ours, way)
    step(ours, 3, grad)
    assert len(taken) == (way == "with care")


def test_they_may_change(way: str) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.bfloat16, torch.float16, torch.float32]
    ours, expected = of(torch.float32, None, "c"), of(torch.float32, torch.float32, "c")
    for seed, grad in enumerate(dtypes):
        take_care(ours, way)
        step(ours, seed, grad)
        step(expected, seed, grad, torch.float32)
    for pair in zip(ours._params, expected._params, strict=True):
        assert_same_bits(*pair)


def test_with_masters_and_compact_state(way: str) -> None:
    options = {"master_weights": True, "state_dtype": "int8"}
    ours = of(torch.bfloat16, torch.float32, "c", **options)
    exact = [torch.nn.Parameter(each.detach().float()) for each in ours._params]
    expected = fastadam.torch.Adam(exact, state_dtype="int8")
    expected.backend = "c"
    for seed in range(4):
        take_care(ours, way)
        step(ours, seed, torch.float32)
        step(expected, seed, torch.float32)
    for param, other in zip(ours._params, exact, strict=True):
        assert_same_bits(ours.decoded_state(param)["master_param"], other)


def test_odd_layouts(way: str) -> None:
    ours, expected = of(torch.float32, torch.bfloat16, "c"), of(torch.float32, torch.float32, "c")
    for seed in range(3):
        take_care(ours, way)
        for i, (param, other) in enumerate(zip(ours._params, expected._params, strict=True)):
            made = draw(param.shape[::-1], torch.float32, 10 * seed + i).bfloat16()
            param.grad = made.permute(tuple(reversed(range(made.dim()))))
            other.grad = param.grad.float()
        ours.step()
        expected.step()
    for pair in zip(ours._params, expected._params, strict=True):
        assert_same_bits(*pair)


def test_others_are_refused() -> None:
    optimizer = of(torch.float32, torch.float64, "c")
    with pytest.raises(RuntimeError, match=r"dtype torch\.float64, its parameter has torch\.float32"):
        step(optimizer, 0, torch.float64)
