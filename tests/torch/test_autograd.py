"""What autograd and torch's dispatcher must see of a step of fastadam.torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    FEW,
    FEW_SHAPES,
    NAMES,
    SETTINGS,
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    draw,
    error_of,
    give_grads,
    members,
    options_for,
    params,
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
def test_version_counters(name: str, dtype: Any) -> None:
    twins = Twins(lambda: params(*FEW_SHAPES, dtype=dtype), name)
    for step in range(6):
        skip = lambda _, i, step=step: (step + i) % 3 == 0  # noqa: E731
        for side in (twins.ours, twins.theirs):
            before = [param._version for param in side.params]
            give_grads(side.optimizer, step, skip)
            side.optimizer.step()
            moved = [param._version > old for param, old in zip(side.params, before, strict=True)]
            assert moved == [not skip(step, i) for i in range(len(FEW_SHAPES))]


def test_version_counters_of_gradients_stay() -> None:
    optimizer = Twins(lambda: params(*FEW_SHAPES)).steps(2).ours.optimizer
    give_grads(optimizer, 3)
    before = [param.grad._version for param in members(optimizer)]
    optimizer.step()
    assert [param.grad._version for param in members(optimizer)] == before


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
def test_a_saved_tensor_that_a_step_changed(dtype: Any) -> None:
    twins = Twins(lambda: params((4,), (4,), dtype=dtype))
    for side in (twins.ours, twins.theirs):
        first, second = side.params
        for _ in range(2):
            give_grads(side.optimizer, 1, lambda step, i: i == 1)
            changed, unchanged = (first * first).sum().abs(), (second * second).sum().abs()
            side.optimizer.step()
            unchanged.backward()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                changed.backward()


def test_views_of_a_parameter_see_the_version() -> None:
    twins = Twins(lambda: params((4, 4)))
    for side in (twins.ours, twins.theirs):
        view = side.params[0].detach()[1]
        before = view._version
        give_grads(side.optimizer, 1)
        side.optimizer.step()
        assert view._version > before
        assert_same_bits(view, side.params[0][1])


@pytest.mark.parametrize("mode", ["enable_grad", "no_grad", "inference_mode"])
@pytest.mark.parametrize("setting", FEW)
def test_modes(mode: str, setting: str) -> None:
    twins = Twins(lambda: params(*FEW_SHAPES), **SETTINGS[setting]).steps(1)
    for _ in range(3):
        for side in (twins.ours, twins.theirs):
            give_grads(side.optimizer, twins.step)
            before = [param._version for param in side.params]
            with getattr(torch, mode)():
                enabled = torch.is_grad_enabled()
                side.optimizer.step()
                assert torch.is_grad_enabled() == enabled
            assert all(param._version > old for param, old in zip(side.params, before, strict=True))
            assert all(param.is_leaf and param.requires_grad and not param.is_inference() for param in side.params)
        twins.check()
    twins.steps(2).check()


@pytest.mark.parametrize("enabled", [False, True])
def test_the_mode_is_restored_after_an_error(enabled: bool) -> None:
    optimizer = fastadam.torch.Adam(params((3,)))
    members(optimizer)[0].grad = torch.eye(3)[0].to_sparse()
    with torch.set_grad_enabled(enabled):
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer.step()
        assert torch.is_grad_enabled() == enabled


def test_a_state_made_in_inference_mode() -> None:
    """Torch makes inference tensors of it, which it cannot change outside; fastadam may."""
    twins = Twins(lambda: params(*FEW_SHAPES))
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 1)
        with torch.inference_mode():
            side.optimizer.step()
            side.optimizer.step()
    twins.check()
    for side in (twins.ours, twins.theirs):
        error = error_of(side.optimizer.step)
        assert error is None or "Inplace update to inference tensor" in str(error)


def test_parameters_that_are_inference_tensors() -> None:
    """They have no version counter."""

    def make() -> list[Any]:
        with torch.inference_mode():
            return [draw(shape, seed=i) for i, shape in enumerate(FEW_SHAPES)]

    twins = Twins(make)
    assert twins.ours.params[0].is_inference()
    for step in range(4):
        for side in (twins.ours, twins.theirs):
            with torch.inference_mode():
                give_grads(side.optimizer, step)
                side.optimizer.step()
        twins.check()
    for side in (twins.ours, twins.theirs):
        error = error_of(side.optimizer.step)
        assert error is None or "Inplace update to inference tensor" in str(error)


def test_gradients_that_are_inference_tensors() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES))
    for step in range(3):
        for side in (twins.ours, twins.theirs):
            with torch.inference_mode():
                give_grads(side.optimizer, step)
            side.optimizer.step()
        twins.check()


def test_parameters_that_require_no_gradient_and_have_one() -> None:
    def make() -> list[Any]:
        return [draw(shape, seed=i).requires_grad_(i == 1) for i, shape in enumerate(FEW_SHAPES)]

    twins = Twins(make, weight_decay=0.1).steps(5)
    twins.check()
    assert [param.requires_grad for param in twins.ours.params] == [False, True, False]


def test_gradients_that_have_a_graph() -> None:
    """From ``backward(create_graph=True)``; the graph must not grow over steps, nor see them."""
    twins = Twins(lambda: params(*FEW_SHAPES), weight_decay=0.1, amsgrad=True)
    for _ in range(3):
        for side in (twins.ours, twins.theirs):
            side.optimizer.zero_grad()
            loss = sum((param**3).sum() for param in side.params)
            grads = torch.autograd.grad(loss, side.params, create_graph=True)
            for param, grad in zip(side.params, grads, strict=True):
                param.grad = grad
            side.optimizer.step()
            for param in side.params:
                assert param.grad.grad_fn is not None
                assert param.grad_fn is None
                assert not any(value.requires_grad for value in side.state[param].values())
        twins.check()


def test_no_state_requires_a_gradient() -> None:
    optimizer = Twins(lambda: params(*FEW_SHAPES), amsgrad=True).steps(2).ours.optimizer
    for state in optimizer.state.values():
        for value in state.values():
            assert not value.requires_grad
            assert value.is_leaf


def test_other_defaults_of_dtype_and_device() -> None:
    """Neither may leak into the state; torch's counter follows the default dtype."""
    for dtype in (torch.float64, torch.float32):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            Twins(lambda: params(*FEW_SHAPES)).steps(3).check()
        finally:
            torch.set_default_dtype(before)
    with torch.device("meta"):
        given = [[Parameter(torch.ones(3, device="cpu"))] for _ in range(2)]
        twins = Twins(given.pop)
        for side in (twins.ours, twins.theirs):
            for _ in range(2):
                side.params[0].grad = torch.full((3,), 0.5, device="cpu")
                side.optimizer.step()
    twins.check()
    assert {value.device.type for value in twins.ours.state[twins.ours.params[0]].values()} == {"cpu"}


def test_deterministic_mode() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        Twins(lambda: params(*FEW_SHAPES)).steps(3).check()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_dispatch_mode_sees_no_wrong_numbers() -> None:
    """A mode that users watch operations with, active around a step."""
    python_dispatch = pytest.importorskip("torch.utils._python_dispatch")

    class Watching(python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    twins = Twins(lambda: params(*FEW_SHAPES), **SETTINGS["all"])
    with Watching():
        twins.steps(3).check()


@pytest.mark.parametrize("setting", FEW)
def test_copies_of_parameters_taken_before_a_step_keep_their_values(setting: str) -> None:
    """Copy-on-write copies (``torch._lazy_clone``) share memory until one is written to."""
    if not hasattr(torch, "_lazy_clone"):
        pytest.skip("this torch has no lazy copies")
    twins = Twins(lambda: params(*FEW_SHAPES), **options_for("Adam", setting)).steps(1)
    for _ in range(2):
        for side in (twins.ours, twins.theirs):
            side.watched["lazy"] = torch._lazy_clone(side.params[0].detach())
            side.watched["eager"] = side.params[0].detach().clone()
        twins.steps(1).check()
        assert_same_bits(twins.ours.watched["lazy"], twins.ours.watched["eager"])
    for side in (twins.ours, twins.theirs):
        moment = side.state[side.params[1]]["exp_avg"]
        side.watched["moment"], side.watched["moment, eager"] = torch._lazy_clone(moment), moment.clone()
    twins.steps(1).check()
    assert_same_bits(twins.ours.watched["moment"], twins.ours.watched["moment, eager"])


def test_parameters_that_are_lazy_copies() -> None:
    if not hasattr(torch, "_lazy_clone"):
        pytest.skip("this torch has no lazy copies")
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        side.watched["original"] = draw((7,), seed=3)
        side.params[0].data = torch._lazy_clone(side.watched["original"])
        give_grads(side.optimizer, 7)
        side.params[1].grad = torch._lazy_clone(side.params[1].grad)
        side.optimizer.step()
    twins.check()
    assert_same_bits(twins.ours.watched["original"], draw((7,), seed=3))
    assert_close(copy.deepcopy(twins.ours.params[0]), twins.theirs.params[0], "a copy")
