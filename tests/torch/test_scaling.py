"""The scale of the loss, given to a step or set on the optimizer as on torch's fused one, and `found_inf`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    REALS,
    SHORT,
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    dtype_name,
    give_grads,
    members,
    params,
    snapshot,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "weight decay, maximize": {"weight_decay": 0.1, "maximize": True},
    "amsgrad": {"amsgrad": True, "lr": 0.1},
}


def scaled(twins: Twins, scale: float, seed: int) -> None:
    """Give both the same gradients, ours `scale` times as large, and say so."""
    for side, factor in ((twins.ours, scale), (twins.theirs, 1.0)):
        give_grads(side.optimizer, seed)
        for param in side.params:
            if param.grad is not None:
                param.grad *= factor
    twins.ours.optimizer.grad_scale = torch.tensor(scale)


def assert_same(twins: Twins) -> None:
    """Compare parameters and states bit by bit."""
    for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
        assert_same_bits(a, b, "parameter")
        for key, value in twins.theirs.state[b].items():
            assert_same_bits(twins.ours.state[a][key], value, key)


def both_ours(make: Callable[[], list[Parameter]], name: str = "Adam", **options: Any) -> Twins:
    """Return two of our optimizers, led through the same steps."""
    twins = Twins(make, name, **options)
    twins.theirs.optimizer = getattr(fastadam.torch, name)(twins.theirs.params, **options)
    return twins


@pytest.mark.parametrize("how", ["attribute", "argument", "both"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", REALS + SHORT, ids=dtype_name)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_scale_is_taken_off(name: str, dtype: Any, setting: str, how: str) -> None:
    """On the way: the bits are those of gradients divided by a power of two, which stay as they are."""
    twins = both_ours(lambda: params(*FEW_SHAPES, dtype=dtype), name, **SETTINGS[setting])
    ours = twins.ours.optimizer
    for step, scale in enumerate((64.0, 2.0, 2.0, 1.0, 32.0)):
        scaled(twins, scale, step)
        before = [param.grad.clone() for param in twins.ours.params]
        if how == "argument":
            del ours.grad_scale
            ours.step(grad_scale=torch.tensor(scale) if step % 2 else scale)
        elif how == "both":
            ours.grad_scale = scale * 4
            ours.step(grad_scale=0.25)
        else:
            ours.step()
        twins.theirs.optimizer.step()
        assert ours.last_step == "fastadam"
        assert_same(twins)
        for param, grad in zip(twins.ours.params, before, strict=True):
            assert_same_bits(param.grad, grad, "gradient")


@pytest.mark.parametrize("dtype", REALS, ids=dtype_name)
def test_as_torchs_fused_step(dtype: Any) -> None:
    """With a scale that is no power of two."""
    twins = Twins(lambda: params(*FEW_SHAPES, dtype=dtype), fused=True)
    for step in range(5):
        for side in (twins.ours, twins.theirs):
            give_grads(side.optimizer, step)
            for param in side.params:
                param.grad *= 3.0
            side.optimizer.grad_scale = torch.tensor(3.0)
            side.optimizer.step()
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_close(a, b, "parameter")


def test_steps_with_a_scale_are_one_call() -> None:
    """A scaler sets and deletes the attributes around each step; what is known of the tensors stays known."""
    optimizer = fastadam.torch.Adam(params(*FEW_SHAPES))
    give_grads(optimizer, 0)
    optimizer.step()
    known = optimizer._memo.attempts
    for step in range(3):
        give_grads(optimizer, step)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf
        assert optimizer._memo.attempts is known is not None


LAYOUTS: dict[str, Callable[[], Any]] = {
    "transposed": lambda: draw((4, 6)).t(),
    "with gaps": lambda: draw((4, 6))[:, ::2],
    "channels last": lambda: draw((2, 3, 4, 5)).to(memory_format=torch.channels_last),
    "complex": lambda: draw((5,), torch.complex64),
    "conjugated": lambda: draw((5,), torch.complex64).conj(),
    "misaligned": lambda: torch.frombuffer(bytearray(25), dtype=torch.float32, offset=1),
}


@pytest.mark.parametrize("what", LAYOUTS)
@pytest.mark.parametrize("alike", [False, True], ids=["gradient contiguous", "gradient alike"])
def test_any_layout(what: str, alike: bool) -> None:
    """Compared with gradients without a scale."""
    ours, theirs = (fastadam.torch.Adam([Parameter(LAYOUTS[what]())], lr=0.1) for _ in range(2))
    for step in range(3):
        for optimizer, scale in ((ours, 8.0), (theirs, 1.0)):
            (param,) = members(optimizer)
            grad = draw(param.shape, param.dtype, seed=step) * scale
            if alike:
                grad = torch.empty_like(param).copy_(grad)
            param.grad = grad
            if optimizer is ours:
                optimizer.grad_scale = scale
            optimizer.step()
            assert param.grad is grad
        (a,), (b,) = members(ours), members(theirs)
        assert_close(a, b, "parameter")
        assert_close(ours.state[a]["exp_avg_sq"], theirs.state[b]["exp_avg_sq"], "exp_avg_sq")


def test_a_gradient_of_two_parameters() -> None:
    ours, theirs = (fastadam.torch.Adam(params((3,), (3,)), lr=0.1) for _ in range(2))
    for optimizer, scale in ((ours, 8.0), (theirs, 1.0)):
        grad = draw((3,)) * scale
        for param in members(optimizer):
            param.grad = grad
    ours.grad_scale = 8.0
    for optimizer in (ours, theirs):
        optimizer.step()
    for a, b in zip(members(ours), members(theirs), strict=True):
        assert_same_bits(a, b, "parameter")


def test_a_parameter_given_twice_counts_twice() -> None:
    (param,) = params((3,))
    optimizer = fastadam.torch.Adam([{"params": [param]}])
    optimizer.param_groups.append({**optimizer.param_groups[0]})
    param.grad, optimizer.grad_scale = draw((3,)), 2.0
    optimizer.step()
    assert optimizer.state[param]["step"] == 2


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("found", [torch.tensor(1.0), torch.tensor([2.0]), 1.0, True])
def test_infinities_that_were_found(warm: int, found: Any) -> None:
    """Nothing is stepped or counted, and the gradients stay as they are; the state is there."""
    twins = both_ours(lambda: params(*FEW_SHAPES)).steps(warm)
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 5)
    before = snapshot(twins.ours.optimizer)
    twins.ours.optimizer.found_inf, twins.theirs.optimizer.found_inf = found, torch.tensor(1.0)
    twins.each(lambda side: side.optimizer.step())
    assert_same(twins)
    assert twins.ours.optimizer.last_step == "skipped: found_inf"
    if warm:
        assert_same_snapshot(snapshot(twins.ours.optimizer), before)
    twins.each(lambda side: setattr(side.optimizer, "found_inf", torch.tensor(0.0)))
    twins.each(lambda side: side.optimizer.step())
    assert_same(twins)


def test_what_is_set_is_noticed_at_once_and_as_long_as_it_is_there() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(3)
    optimizer = twins.ours.optimizer
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")
    for value in (torch.tensor(2.0), None):
        optimizer.grad_scale = value
        assert optimizer.grad_scale is value
        give_grads(optimizer, 5)
        optimizer.step()
        assert optimizer.last_step == "fastadam"
        assert optimizer.grad_scale is value, "nothing is deleted that the user has set"
    del optimizer.grad_scale
    assert not hasattr(optimizer, "grad_scale")
    with pytest.raises(AttributeError, match="grad_scale"):
        del optimizer.grad_scale
    for _ in range(2):
        give_grads(optimizer, 6)
        optimizer.step()
        assert optimizer.last_step == "fastadam"


@pytest.mark.parametrize(
    "value", ["64", torch.ones(2), 0.0, -2.0, float("nan"), float("inf"), 1j, [64.0]], ids=repr
)
def test_no_scale(value: Any) -> None:
    optimizer = fastadam.torch.Adam(params((3,)))
    give_grads(optimizer, 1)
    before = snapshot(optimizer)
    optimizer.grad_scale = value
    with pytest.raises((TypeError, ValueError), match=r"optimizer\.grad_scale must be"):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)


def test_checks_come_before_the_first_write() -> None:
    optimizer = fastadam.torch.Adam(params((3,), (4,)))
    give_grads(optimizer, 1)
    optimizer.step()
    optimizer.grad_scale = 2.0
    optimizer.state[members(optimizer)[1]]["exp_avg"] = torch.zeros(5)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="exp_avg"):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)


@pytest.mark.parametrize("unscaled", [False, True], ids=["", "unscaled before"])
@pytest.mark.parametrize("own", [False, True], ids=["", "with a scale of one's own"])
def test_beside_a_scaler(own: bool, unscaled: bool) -> None:
    """Which takes off its own scale, and skips where it finds infinities; one's own comes on top."""
    twins = Twins(lambda: params(*FEW_SHAPES), fused=True)
    scalers = twins.each(lambda side: torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2))
    for step in range(6):
        for side, scaler in zip((twins.ours, twins.theirs), scalers, strict=True):
            give_grads(side.optimizer, step)
            if step == 3:
                side.params[0].grad[0] = torch.inf
            scaler.scale(torch.ones(()))
            if own:
                side.optimizer.grad_scale = torch.tensor(4.0)
            if unscaled:
                scaler.unscale_(side.optimizer)
            scaler.step(side.optimizer)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_close(a, b, "parameter")


def test_set_through_a_wrapper_that_has_the_same_dict() -> None:
    optimizer = fastadam.torch.Adam(params((3,)))
    wrapper = object.__new__(fastadam.torch.Adam)
    wrapper.__dict__ = dict(optimizer.__dict__)
    wrapper.found_inf = 1.0
    give_grads(optimizer, 1)
    optimizer.step()
    assert optimizer.last_step == wrapper.last_step == "skipped: found_inf"
