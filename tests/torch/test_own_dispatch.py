"""Tensors of types with a dispatch of their own: torch's own code steps them."""

from __future__ import annotations

import gc
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    draw,
    give_grads,
    params,
)


class Listening(torch.Tensor):
    """A type with a `__torch_function__` of its own."""

    heard: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.heard.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


class Plain(torch.Tensor):
    """A type without any."""


class Mine(Parameter):
    """A parameter's type without any."""


def two(seed: int) -> Any:
    pair = pytest.importorskip("torch.testing._internal.two_tensor").TwoTensor
    return pair(draw((4,), seed=seed), draw((4,), seed=seed + 1))


KINDS: dict[str, tuple[Callable[[int], Any], str | None]] = {
    "TwoTensor": (two, "a {} is a TwoTensor"),
    "Listening": (lambda seed: draw((4,), seed=seed).as_subclass(Listening), "a {} is a Listening"),
    "Plain": (lambda seed: draw((4,), seed=seed).as_subclass(Plain), None),
    "Mine": (lambda seed: Mine(draw((4,), seed=seed)).data, None),
}


def halves(tensor: Any) -> list[Any]:
    """Return the plain tensors that a tensor is made of."""
    tensor = tensor.detach()
    return [tensor.a, tensor.b] if hasattr(tensor, "a") else [tensor.as_subclass(torch.Tensor)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["parameter", "gradient"])
def test_types_with_a_dispatch_of_their_own(kind: str, where: str) -> None:
    """Among plain ones, from the first step on, and a gradient in later steps only."""
    make, reason = KINDS[kind]
    if where == "gradient" and kind == "TwoTensor":
        pytest.skip("torch itself mixes no plain parameter with such a gradient")

    def given() -> list[Any]:
        return [Parameter(draw((3,))), Parameter(make(1) if where == "parameter" else draw((4,), seed=1))]

    twins = Twins(given, weight_decay=0.1)
    for step in range(4):
        special = where == "parameter" or step % 2
        for side in (twins.ours, twins.theirs):
            first, second = side.params
            first.grad = draw((3,), seed=step)
            second.grad = make(10 + step) if special else draw((4,), seed=10 + step)
            side.optimizer.step()
        way = twins.ours.optimizer.last_step
        assert way == ("fastadam" if reason is None or not special else "torch: " + reason.format(where))
    for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
        assert type(a) is type(b)
        for ours, theirs in zip(halves(a), halves(b), strict=True):
            assert_close(ours, theirs, kind)


def test_states_with_a_dispatch_of_their_own() -> None:
    twins = Twins(lambda: params((4,))).steps(1)
    for side in (twins.ours, twins.theirs):
        state = side.state[side.params[0]]
        state["exp_avg"] = state["exp_avg"].as_subclass(Listening)
    twins.steps(2)
    assert twins.ours.optimizer.last_step == "torch: a state is a Listening"
    assert_close(twins.ours.params[0], twins.theirs.params[0], "parameter")


def test_what_listens_hears_torchs_step() -> None:
    Listening.heard.clear()
    optimizer = fastadam.torch.Adam([Parameter(draw((4,)).as_subclass(Listening))])
    give_grads(optimizer, 1)
    Listening.heard.clear()
    optimizer.step()
    assert {"lerp_", "addcdiv_"} <= set(Listening.heard)


def test_fake_tensors() -> None:
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake.FakeTensorMode():
        param = Parameter(torch.ones(4))
        param.grad = torch.ones(4)
        optimizer = fastadam.torch.Adam([param])
        optimizer.step()
    assert optimizer.last_step.startswith("torch: a parameter is a ")
    assert set(optimizer.state[param]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Make a mesh of one device, without any communication."""
    store = pytest.importorskip("torch.testing._internal.distributed.fake_pg").FakeStore()
    torch.distributed.init_process_group("fake", store=store, rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="a build of torch without torch.distributed")
def test_dtensors(mesh: Any) -> None:
    """They are stepped by our kernels, but for those whose gradients are shared out in another way."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    twins = Twins(lambda: [Parameter(distribute_tensor(draw((4, 3)), mesh, [Shard(0)])), *params((3,))])
    for step, placement in enumerate([Shard(0), Shard(0), Replicate(), Shard(0)]):
        for side in (twins.ours, twins.theirs):
            side.params[0].grad = distribute_tensor(draw((4, 3), seed=step), mesh, [placement])
            side.params[1].grad = draw((3,), seed=step)
            side.optimizer.step()
        went = "fastadam" if placement == Shard(0) else "torch: a parameter is a DTensor"
        assert twins.ours.optimizer.last_step == went
        state = twins.ours.state[twins.ours.params[0]]
        assert isinstance(state["exp_avg"], DTensor)
        assert state["step"] == step + 1
    assert_close(twins.ours.params[0].detach().to_local(), twins.theirs.params[0].detach().to_local(), "shard")
    assert_close(twins.ours.params[1], twins.theirs.params[1], "plain")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="a build of torch without torch.distributed")
@pytest.mark.parametrize("number", [0, 2])
def test_an_interrupt_finds_dtensors_as_before_or_as_after(mesh: Any, number: int) -> None:
    """Wherever it comes in the first step, which makes the state, or in a later one."""
    from torch.distributed.tensor import Shard, distribute_tensor

    def everything(optimizer: Any, params: Any) -> list[Any]:
        found = [param.detach().to_local().clone() for param in params]
        for param in params:
            entry = optimizer.state.get(param, {})
            found += [getattr(each, "_local_tensor", each).detach().clone() for each in entry.values()]
        return found

    def run(stop_at: int | None, *, leave_out: bool = False) -> tuple[list[Any], list[Any], int]:
        params = [Parameter(distribute_tensor(draw((4, 3), seed=i), mesh, [Shard(0)])) for i in range(2)]
        optimizer = fastadam.torch.Adam(params, lr=0.1, max_grad_norm=1.0)
        lines, at_once = 0, []

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal lines
            if "fastadam" not in frame.f_code.co_filename:
                return None
            # What a signal raises comes after a call, never before the assignment with which a step is over.
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            if event == "line" and line.strip() != "guard.stepping = False":
                lines += 1
                if lines == stop_at:
                    raise KeyboardInterrupt
            return trace

        for step in range(number + 3):
            for i, param in enumerate(params):
                param.grad = distribute_tensor(draw((4, 3), seed=10 * step + i), mesh, [Shard(0)])
            if step != number:
                optimizer.step()
                continue
            before = sys.gettrace()
            try:
                sys.settrace(trace)
                if not leave_out:
                    optimizer.step()
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            at_once = everything(optimizer, params)
        assert optimizer.last_step == "fastadam"
        return at_once, everything(optimizer, params), lines

    *whole, lines = run(None)
    *without, _ = run(None, leave_out=True)
    assert lines > 50
    seen = set()
    for stop_at in range(1, lines + 1, max(1, lines // 90)):
        *found, _ = run(stop_at)
        same = [all(map(torch.equal, *pair)) for pair in zip(found, whole, strict=True)]
        same_without = [
            len(one) == len(other) and all(map(torch.equal, one, other))
            for one, other in zip(found, without, strict=True)
        ]
        assert all(same) or all(same_without), stop_at
        seen.add(all(same))
    assert seen == {True, False}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="a build of torch without torch.distributed")
@pytest.mark.parametrize("freed", ["state", "parameter", "gradient", "all"])
def test_nothing_of_dtensors_is_used_after_it_was_let_go(mesh: Any, freed: str) -> None:
    """What a user drops or exchanges between two steps is not stepped any more, and was kept until then."""
    from torch.distributed.tensor import Shard, distribute_tensor

    def make(seed: int) -> Any:
        return distribute_tensor(draw((4, 3), seed=seed), mesh, [Shard(0)])

    twins = Twins(lambda: [Parameter(make(0)), Parameter(make(1))])
    for step in range(4):
        for side in (twins.ours, twins.theirs):
            for i, param in enumerate(side.params):
                param.grad = make(10 * step + i)
            if step == 2 and freed in ("state", "all"):
                side.state[side.params[0]]["exp_avg"] = make(7)
                del side.state[side.params[1]]
            if step == 2 and freed in ("parameter", "all"):
                new = Parameter(make(8))
                new.grad = make(9)
                side.state[new] = side.state.pop(side.params[0])
                side.optimizer.param_groups[0]["params"][0] = side.params[0] = new
            if step == 2 and freed in ("gradient", "all"):
                side.params[0].grad = None
            gc.collect()
            side.optimizer.step()
        assert twins.ours.optimizer.last_step == "fastadam"
    for ours, theirs in zip(twins.ours.params, twins.theirs.params, strict=True):
        assert_close(ours.detach().to_local(), theirs.detach().to_local(), "parameter")


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_a_dtype_of_torch_alone() -> None:
    twins = Twins(lambda: [draw((3,), torch.complex64).to(torch.complex32)], eps=1e-3)
    for step, side in itertools.product(range(3), (twins.ours, twins.theirs)):
        side.params[0].grad = draw((3,), torch.complex64, seed=step).to(torch.complex32)
        side.optimizer.step()
    assert twins.ours.optimizer.last_step == "torch: a parameter has dtype torch.complex32"
    assert_same_bits(*(torch.view_as_real(side.params[0]) for side in (twins.ours, twins.theirs)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_tensors_of_functional_transforms() -> None:
    """Those under `torch.func.vmap` have no memory of their own."""

    def train(adam: Any) -> Any:
        def one(weight: Any) -> Any:
            param = (weight * 1.0).detach()
            param.grad = weight * 2.0
            adam([param]).step()
            return param

        return torch.func.vmap(one)(draw((5, 3)))

    ours, theirs = (train(adam) for adam in (fastadam.torch.Adam, torch.optim.Adam))
    assert_same_bits(ours, theirs)
