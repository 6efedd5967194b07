"""However parameters and gradients lie in memory, fastadam.torch computes what torch.optim computes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    SETTINGS,
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    draw,
    dtype_name,
    members,
    params,
)


# How a parameter lies in memory: each takes a shape and returns a tensor of it, and the memory around it.
def contiguous(values: Any) -> tuple[Any, Any]:
    return values, values


def transposed(values: Any) -> tuple[Any, Any]:
    base = values.mT.contiguous() if values.dim() > 1 else values
    return (base.mT if values.dim() > 1 else base), base


def channels_last(values: Any) -> tuple[Any, Any]:
    base = values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values
    return base, base


def every_second(values: Any) -> tuple[Any, Any]:
    base = draw((*values.shape, 2), values.dtype, 1)
    base[..., 1] = values
    return base[..., 1], base


def rows_of_more(values: Any) -> tuple[Any, Any]:
    if values.dim() == 0:
        return every_second(values)
    base = draw((*values.shape[:-1], values.shape[-1] + 3), values.dtype, 1)
    base[..., 2:-1] = values
    return base[..., 2:-1], base


def in_the_middle(values: Any) -> tuple[Any, Any]:
    base = draw((values.numel() + 9,), values.dtype, 1)
    base[3 : 3 + values.numel()] = values.reshape(-1)
    return base[3 : 3 + values.numel()].view(values.shape), base


def permuted(values: Any) -> tuple[Any, Any]:
    order = [*range(1, values.dim()), 0] if values.dim() else []
    back = [order.index(i) for i in range(values.dim())]
    base = values.permute(order).contiguous()
    return base.permute(back), base


LAYOUTS = {
    f.__name__.replace("_", " "): f
    for f in (contiguous, transposed, channels_last, every_second, rows_of_more, in_the_middle, permuted)
}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, grad_layout: str, dtype: Any) -> None:
    """Of parameters and of their gradients; what lies between must not be touched."""
    shapes = [(), (0,), (7,), (3, 4), (2, 3, 4, 5)]

    def make() -> Any:
        laid = [LAYOUTS[layout](draw(shape, dtype, i)) for i, shape in enumerate(shapes)]
        made = [Parameter(view) for view, _ in laid]
        for param, (view, base) in zip(made, laid, strict=True):
            assert param.data_ptr() == view.data_ptr()
            memory.append(base)
        return made

    memory: list[Any] = []
    untouched = [LAYOUTS[layout](draw(shape, dtype, i)) for i, shape in enumerate(shapes)]
    options = SETTINGS["all"] if dtype in DTYPES else {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-2}
    twins = Twins(make, **options)
    for step in range(6):
        for side in (twins.ours, twins.theirs):
            for i, param in enumerate(side.params):
                param.grad = LAYOUTS[grad_layout](draw(param.shape, dtype, 100 * step + i))[0]
            side.optimizer.step()
    twins.check()
    half = len(shapes)
    for ours, theirs, (view, base) in zip(memory[:half], memory[half:], untouched, strict=True):
        assert_close(ours, theirs, "the memory around a parameter")
        view.fill_(0)
        for each in (ours, theirs):
            each.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(0)
            assert_same_bits(each, base, "the memory around a parameter")


def test_layouts_that_change_from_step_to_step() -> None:
    twins = Twins(lambda: params((2, 3, 4, 5), (3, 4), (7,)))
    for step, layout in enumerate([*LAYOUTS.values(), *reversed(LAYOUTS.values())]):
        for side in (twins.ours, twins.theirs):
            for i, param in enumerate(side.params):
                param.grad = layout(draw(param.shape, seed=100 * step + i))[0]
            side.optimizer.step()
        twins.check()


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_expanded_gradients(dtype: Any) -> None:
    twins = Twins(lambda: params((), (0,), (7,), (3, 4), dtype=dtype))
    for step in range(5):
        for side in (twins.ours, twins.theirs):
            for param in side.params:
                param.grad = torch.full((1,) * param.dim(), 0.5 - step, dtype=dtype).expand(param.shape)
            side.optimizer.step()
    twins.check()


def test_gradients_of_negative_and_conjugated_views() -> None:
    """With their bits set and memory that holds the opposite."""
    twins = Twins(lambda: [*params((4,), (3, 4)), *params((4,), dtype=torch.complex64)], weight_decay=0.1)
    for step in range(5):
        for side in (twins.ours, twins.theirs):
            for i, param in enumerate(side.params):
                numbers = draw(param.shape, torch.complex64, 10 * step + i)
                param.grad = numbers.conj() if param.is_complex() else numbers.conj().imag
                assert param.grad.is_conj() or param.grad.is_neg()
            side.optimizer.step()
        twins.check()


def test_a_conjugated_gradient_without_weight_decay() -> None:
    """Which torch refuses."""
    conjugated, plain = (fastadam.torch.Adam(params((4,), dtype=torch.complex64)) for _ in range(2))
    for optimizer in (conjugated, plain):
        members(optimizer)[0].grad = draw((4,), torch.complex64, 1).conj()
    members(plain)[0].grad = members(plain)[0].grad.resolve_conj()
    plain.step()
    try:
        conjugated.step()
    except RuntimeError as error:
        assert "conj" in str(error)  # noqa: PT017 - it may be refused
        assert_same_bits(members(conjugated)[0], params((4,), dtype=torch.complex64)[0])
    else:
        assert_close(members(conjugated)[0], members(plain)[0], "parameter")


def test_a_parameter_that_is_a_negative_view() -> None:
    numbers: list[Any] = []

    def make() -> list[Any]:
        numbers.append(draw((4,), torch.complex64))
        return [Parameter(numbers[-1].conj().imag)]

    twins = Twins(make)
    assert twins.ours.params[0].is_neg()
    twins.steps(5).check()
    assert_close(*numbers, "what it is a view of")
