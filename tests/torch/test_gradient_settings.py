"""Clipping, and gradients that are not finite, in the step of fastadam.torch."""

from __future__ import annotations

import copy
import logging
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastadam  # noqa: E402
import fastadam.torch  # noqa: E402
from tests.conftest import AVAILABLE  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    NAMES,
    SHORT,
    Parameter,
    Tensor,
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
    take_care,
)

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (2000,), (0,)]


def go(optimizer: Any, way: str) -> None:
    """Take a step that way."""
    take_care(optimizer, way)
    known = optimizer._memo.attempts
    optimizer.step()
    if known is not None:
        assert optimizer._memo.attempts is known


def one(backend: str, dtype: Any = torch.float32, name: str = "Adam", **settings: Any) -> Any:
    optimizer = getattr(fastadam.torch, name)(params(*SHAPES, dtype=dtype), lr=0.1, **settings)
    optimizer.backend = backend
    return optimizer


def give(optimizer: Any, seed: int, size: float = 1.0) -> None:
    give_grads(optimizer, seed)
    for param in members(optimizer):
        param.grad *= size


def norm_of(optimizer: Any) -> float:
    """Return the norm of the gradients from arrays that share no code with tensors but the backends."""
    grads = [each.grad for each in members(optimizer)]
    return fastadam.clip_grad_norm(
        [torch.view_as_real(g).numpy() if g.is_complex() else g.numpy() for g in grads], math.inf
    )


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_a_clipped_step_is_that_over_clipped_gradients(backend: str, name: str, dtype: Any, way: str) -> None:
    ours, theirs = one(backend, dtype, name, max_grad_norm=0.5), one(backend, dtype, name)
    for step, size in enumerate((1.0, 1e-3, 100.0, 1.0)):
        for optimizer in (ours, theirs):
            give(optimizer, step, size)
        before = [param.grad.clone() for param in members(ours)]
        go(ours, way)
        assert ours.grad_norm == norm_of(ours)
        for param, grad in zip(members(ours), before, strict=True):
            assert_same_bits(param.grad, grad, "gradients are only read")
        fastadam.torch.clip_grad_norm_(members(theirs), 0.5)
        theirs.step()
        for a, b in zip(members(ours), members(theirs), strict=True):
            # Clipped gradients are rounded once more when they are written.
            assert_close(a, b, "parameter")
        assert ours.last_step == "fastadam"
    assert theirs.grad_norm is None


@pytest.mark.parametrize("dtype", [*DTYPES, *SHORT], ids=dtype_name)
@pytest.mark.parametrize("max_norm", [0.1, 30.0, 1e9])
def test_as_torch_clips(dtype: Any, max_norm: float, way: str) -> None:
    # (The default eps, and some squares, are zero in float16, with which torch computes.)
    twins = Twins(lambda: params(*SHAPES, dtype=dtype), eps=1e-3 if dtype in SHORT else 1e-8)
    twins.ours.optimizer.max_grad_norm = max_norm
    for step in range(4):
        for side in (twins.ours, twins.theirs):
            give(side.optimizer, step, 3.0)
        norm = torch.nn.utils.clip_grad_norm_(twins.theirs.params, max_norm)
        go(twins.ours.optimizer, way)
        twins.theirs.optimizer.step()
        twins.check()
        twins.level()
        assert twins.ours.optimizer.grad_norm == pytest.approx(float(norm), rel=1e-2 if dtype in SHORT else 1e-5)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda grad: grad[:1].expand(grad.shape),
    "with gaps": lambda grad: torch.stack([grad, grad], dim=-1)[..., 0],
    "transposed": lambda grad: grad.t().contiguous().t(),
    "conjugated": lambda grad: grad.conj(),
    "misaligned": lambda grad: torch.frombuffer(
        bytearray(b" " + grad.numpy().tobytes()), dtype=grad.dtype, offset=1
    ).reshape(grad.shape),
}


@pytest.mark.parametrize("what", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=dtype_name)
def test_gradients_of_any_layout(what: str, dtype: Any) -> None:
    """Have the norm and the step of the same numbers side by side."""
    start = draw((40, 60), dtype)
    plain, other = (fastadam.torch.Adam([Parameter(start.clone())], max_grad_norm=0.5) for _ in range(2))
    for step in range(3):
        grad = LAYOUTS[what](draw((40, 60), dtype, seed=step))
        members(other)[0].grad = grad
        members(plain)[0].grad = grad.resolve_conj().clone(memory_format=torch.contiguous_format)
        for optimizer in (plain, other):
            optimizer.step()
        assert plain.grad_norm == other.grad_norm
        assert_same_bits(members(plain)[0], members(other)[0], "parameter")


@pytest.mark.parametrize(
    "make", [lambda: draw((8, 6)).t(), lambda: draw((8, 6))[:, ::2]], ids=["transposed", "gaps"]
)
def test_parameters_of_any_layout(make: Callable[[], Tensor]) -> None:
    plain = fastadam.torch.Adam([Parameter(make().contiguous())], max_grad_norm=0.5)
    other = fastadam.torch.Adam([Parameter(make())], max_grad_norm=0.5)
    for step in range(3):
        for optimizer in (plain, other):
            give_grads(optimizer, step)
            optimizer.step()
        assert_close(members(plain)[0], members(other)[0], "parameter")
        assert other.grad_norm == pytest.approx(plain.grad_norm, rel=1e-15)


def test_parameters_that_overlap() -> None:
    """Are stepped one after the other, and clipped by the norm of all."""
    memory = draw((12,))
    ours = fastadam.torch.Adam([Parameter(memory[:8]), Parameter(memory[4:])], max_grad_norm=0.5)
    memory = memory.clone()
    theirs = torch.optim.Adam([Parameter(memory[:8]), Parameter(memory[4:])], foreach=False)
    for step in range(3):
        for optimizer in (ours, theirs):
            give(optimizer, step, 5.0)
        norm = torch.nn.utils.clip_grad_norm_(members(theirs), 0.5)
        ours.step()
        theirs.step()
        assert ours.grad_norm == pytest.approx(float(norm))
        for a, b in zip(members(ours), members(theirs), strict=True):
            assert_close(a, b, "parameter")


def test_over_groups_and_missing_gradients(way: str) -> None:
    """The norm is that of all gradients that are there, over all groups."""
    groups = [{"params": params((300,), (7,))}, {"params": params((2000,), seed=1), "lr": 0.5}]
    optimizer = fastadam.torch.Adam(groups, max_grad_norm=0.25)
    for step in range(6):
        give_grads(optimizer, step)
        members(optimizer)[step % 3].grad = None
        go(optimizer, "in one call" if step < 3 else way) if way == "with care" else optimizer.step()
        grads = [param.grad.numpy() for param in members(optimizer) if param.grad is not None]
        assert optimizer.grad_norm == fastadam.clip_grad_norm([grad.copy() for grad in grads], math.inf)
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.grad_norm == 0.0


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("warm", [0, 2])
def test_steps_that_are_not_finite_are_left_out(
    backend: str, bad: float, warm: int, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer, other = one(backend, skip_nonfinite=True), one(backend)
    for step in range(warm):
        for each in (optimizer, other):
            give(each, step)
            each.step()
    give(optimizer, 5)
    members(optimizer)[3].grad[1500] = bad
    before = snapshot(optimizer)
    versions = [param._version for param in members(optimizer)]
    with caplog.at_level(logging.WARNING, logger="fastadam"):
        for _ in range(3):
            go(optimizer, way)
    assert_same_snapshot(snapshot(optimizer), before)
    assert [param._version for param in members(optimizer)] == versions
    assert (optimizer.skipped_steps, optimizer.last_step) == (3, "skipped: gradients are not finite")
    assert not math.isfinite(optimizer.grad_norm)
    assert [record.getMessage()[:18] for record in caplog.records] == ["a step was skipped"]
    for each in (optimizer, other):
        give(each, 6)
    go(optimizer, way)
    other.step()
    assert optimizer.last_step == "fastadam"
    for a, b in zip(members(optimizer), members(other), strict=True):
        assert_same_bits(a, b, "parameter")


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("named", [False, True])
def test_an_error_names_the_parameters(backend: str, warm: int, named: bool, way: str) -> None:
    given: Any = params(*SHAPES)
    if named:
        given = [(f"layer.{i}", param) for i, param in enumerate(given)]
    optimizer = fastadam.torch.Adam(given, error_if_nonfinite=True)
    optimizer.backend = backend
    for step in range(warm):
        give(optimizer, step)
        optimizer.step()
    give(optimizer, 5)
    members(optimizer)[0].grad[1], members(optimizer)[3].grad[7] = math.inf, math.nan
    before = snapshot(optimizer)
    names = "parameter 'layer.0', parameter 'layer.3'" if named else "parameter 0, parameter 3"
    for _ in range(2):
        if way == "with care":
            optimizer.backend = backend
        with pytest.raises(RuntimeError, match=rf"the gradients of {names} are not finite"):
            optimizer.step()
        assert_same_snapshot(snapshot(optimizer), before)
    optimizer.error_if_nonfinite, optimizer.skip_nonfinite = False, True  # the remedy of the message
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert_same_snapshot(snapshot(optimizer), before)


def test_settings_are_edited_between_steps() -> None:
    twins = Twins(lambda: params(*SHAPES))
    optimizer = twins.ours.optimizer
    for step, max_norm in enumerate((None, 0.1, math.inf, 0.2, None)):
        optimizer.max_grad_norm = max_norm
        assert optimizer.max_grad_norm == max_norm
        for side in (twins.ours, twins.theirs):
            give(side.optimizer, step)
        if max_norm not in (None, math.inf):
            torch.nn.utils.clip_grad_norm_(twins.theirs.params, max_norm)
        twins.each(lambda side: side.optimizer.step())
        twins.check()
        assert (optimizer.grad_norm is None) == (max_norm is None)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0, got -1.0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm must be at least 0, got nan"),
        ({"max_grad_norm": "1"}, "max_grad_norm must be a real number"),
        ({"skip_nonfinite": "yes"}, "skip_nonfinite must be"),
        ({"skip_nonfinite": True, "error_if_nonfinite": True}, "set one of them to False"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        fastadam.torch.Adam(params((3,)), **settings)
    optimizer = fastadam.torch.Adam(params((3,)), max_grad_norm=3.0)
    *before, (name, value) = settings.items()
    for each in before:
        setattr(optimizer, *each)
    with pytest.raises((TypeError, ValueError), match=error):
        setattr(optimizer, name, value)
    assert optimizer.max_grad_norm == 3.0


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_have_the_settings(copied: Callable[[Any], Any]) -> None:
    optimizer = one("auto", max_grad_norm=0.5, skip_nonfinite=True)
    give(optimizer, 1)
    members(optimizer)[0].grad[0] = math.nan
    optimizer.step()
    again = copied(optimizer)
    assert (again.max_grad_norm, again.skip_nonfinite, again.skipped_steps) == (0.5, True, 1)
    again.max_grad_norm = 0.7
    assert optimizer.max_grad_norm == 0.5
    assert again.grad_norm is None or copied is copy.copy


@pytest.mark.parametrize("options", [{"differentiable": True}, {"betas": (0.9, 0.99), "lr": -0.1}], ids=str)
def test_steps_that_are_torchs_own(options: dict[str, Any]) -> None:
    """Get clipped gradients in the place of those that are there, which are there again after the step."""
    twins = Twins(lambda: params(*SHAPES))
    ours = twins.ours.optimizer
    for side in (twins.ours, twins.theirs):
        side.group.update(options)
    if options.get("differentiable"):
        for side in (twins.ours, twins.theirs):
            for param in side.params:
                param.requires_grad_(False)
    ours.max_grad_norm, ours.grad_scale = 0.5, 4.0
    for step in range(3):
        give(ours, step, 4.0)
        give(twins.theirs.optimizer, step)
        before = [param.grad for param in members(ours)]
        torch.nn.utils.clip_grad_norm_(twins.theirs.params, 0.5)
        twins.each(lambda side: side.optimizer.step())
        assert ours.last_step.startswith("torch: ")
        assert all(param.grad is grad for param, grad in zip(members(ours), before, strict=True))
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_close(a, b, "parameter")
        assert ours.grad_norm == pytest.approx(norm_of(ours) / 4.0, rel=1e-6)
    ours.skip_nonfinite = True
    give(ours, 7)
    members(ours)[0].grad[0] = math.inf
    state = snapshot(ours)
    ours.step()
    assert_same_snapshot(snapshot(ours), state)
    assert (ours.last_step, ours.skipped_steps) == ("skipped: gradients are not finite", 1)
    ours.skip_nonfinite, ours.error_if_nonfinite = False, True
    with pytest.raises(RuntimeError, match="the gradients of parameter 0 are not finite"):
        ours.step()
    assert_same_snapshot(snapshot(ours), state)
    for each in twins.ours.optimizer.param_groups:  # ours again
        each.update(differentiable=False, lr=0.1)
    give(ours, 8)
    ours.step()
    assert ours.last_step == "fastadam"
    assert ours.grad_norm == norm_of(ours) / 4.0


def test_hooks_see_what_was_given() -> None:
    optimizer = one("auto")
    seen: list[Any] = []
    optimizer.register_step_pre_hook(lambda _, args, kwargs: seen.append((args[1:], kwargs)))
    give(optimizer, 1)
    closure = lambda: 3.0  # noqa: E731
    assert optimizer.step() is None
    assert optimizer.step(closure) == 3.0
    optimizer.step(grad_scale=2.0)
    assert seen == [((), {}), ((closure,), {}), ((), {"grad_scale": 2.0})]


def test_a_subclass_that_knows_nothing_of_them() -> None:
    class Own(fastadam.torch.Adam):
        def __init__(self, model: Any, **options: Any) -> None:
            super().__init__(model.parameters(), **options)

    optimizer = Own(torch.nn.Linear(3, 2), max_grad_norm=1e-3)
    give(optimizer, 1)
    optimizer.step()
    assert optimizer.grad_norm == norm_of(optimizer)


def test_large_steps_on_threads() -> None:
    """Have the norm of one thread, bit by bit."""
    norms = set()
    for threads in (1, 2, 3):
        optimizer = fastadam.torch.Adam(params((300_000,), (5, 70_001)), max_grad_norm=1.0)
        optimizer.threads = threads
        for step in range(2):
            give(optimizer, step)
            optimizer.step()
        norms.add((optimizer.grad_norm, members(optimizer)[0].detach().numpy().tobytes()))
    assert len(norms) == 1


def test_a_number_of_numpys_as_the_scale() -> None:
    ours, theirs = one("auto"), one("auto")
    for optimizer, scale in ((ours, 4.0), (theirs, 1.0)):
        give(optimizer, 1, scale)
        optimizer.step(grad_scale=np.float32(scale))
    for a, b in zip(members(ours), members(theirs), strict=True):
        assert_same_bits(a, b, "parameter")


def test_another_limit_in_each_step_is_no_reason_to_look_at_everything() -> None:
    optimizer = one("auto", max_grad_norm=1.0)
    give(optimizer, 0)
    optimizer.step()
    known = optimizer._memo.attempts
    for step in range(3):
        optimizer.max_grad_norm = 1.0 / (step + 1)
        give(optimizer, step)
        optimizer.step()
        assert optimizer._memo.attempts is known is not None
