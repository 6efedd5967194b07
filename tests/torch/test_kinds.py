"""Tensors of other kinds: sparse, meta, fake, of subclasses, with gradients in odd memory."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    error_of,
    give_grads,
    members,
    params,
    snapshot,
)


def sparse_case(name: str, warm: int = 2) -> tuple[Any, dict[str, Any]]:
    optimizer = getattr(fastadam.torch, name)(params((3,), (4, 3), (5,), (2, 3)), amsgrad=True)
    for step in range(warm):
        give_grads(optimizer, step)
        optimizer.step()
    give_grads(optimizer, 10)
    last = members(optimizer)[-1]
    last.grad = last.grad.to_sparse()
    return optimizer, snapshot(optimizer)


SPARSE = "Adam does not support sparse gradients, please consider SparseAdam instead"


@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients(name: str) -> None:
    optimizer, before = sparse_case(name)
    with pytest.raises(RuntimeError, match=SPARSE):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)
    members(optimizer)[-1].grad = None
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_in_the_first_step(name: str) -> None:
    """Nothing is remembered of the other parameters."""
    optimizer, before = sparse_case(name, warm=0)
    with pytest.raises(RuntimeError, match=SPARSE):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)


def test_sparse_gradients_in_a_later_group() -> None:
    """Torch has stepped the first group then, fastadam has not."""
    optimizer = fastadam.torch.Adam([{"params": params((3,))}, {"params": params((4, 3))}])
    give_grads(optimizer, 1)
    members(optimizer)[1].grad = members(optimizer)[1].grad.to_sparse()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=SPARSE):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)


def test_sparse_gradients_from_an_embedding() -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = fastadam.torch.Adam(layer.parameters())
    layer(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=SPARSE):
        optimizer.step()


def test_parameters_without_memory() -> None:
    """On the meta device, alone and beside others."""

    def make() -> list[Any]:
        first, second = params((3,), (4,))
        return [first, Parameter(torch.ones(4, device="meta")), second]

    for some in (make, lambda: [make()[1]]):
        twins = Twins(some, amsgrad=True, weight_decay=0.1)
        for step in range(3):
            for side in (twins.ours, twins.theirs):
                for i, param in enumerate(side.params):
                    param.grad = draw(param.shape, seed=10 * step + i).to(param.device)
                side.optimizer.step()
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert a.device == b.device
            if not a.is_meta:
                assert_close(a, b, "parameter")
            assert twins.ours.state[a]["step"] == twins.theirs.state[b]["step"] == 3
            assert {k: v.device for k, v in twins.ours.state[a].items()} == {
                k: v.device for k, v in twins.theirs.state[b].items()
            }


def test_real_tensors_under_a_mode_that_fakes_new_ones() -> None:
    """Either an error, or no harm."""
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    optimizer, expected = (Twins(lambda: params(*FEW_SHAPES)).steps(1).ours.optimizer for _ in range(2))
    before = [param.detach().clone() for param in members(expected)]
    for each in (optimizer, expected):
        give_grads(each, 5)
    with fake.FakeTensorMode(allow_non_fake_inputs=True):
        error_of(optimizer.step)
    if not torch.equal(members(optimizer)[0], before[0]):
        expected.step()
    for param, other in zip(members(optimizer), members(expected), strict=True):
        assert_same_bits(param, other)


class Mine(Parameter):
    """A parameter of a class of its own."""


class Tagged(torch.Tensor):
    """A subclass whose functions go through ``__torch_function__``."""


def test_subclasses() -> None:
    def make() -> list[Any]:
        return [Mine(draw((4,))), Parameter(draw((3, 4)).as_subclass(Tagged)), *params((2,))]

    twins = Twins(make, amsgrad=True).steps(5)
    for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
        assert type(a) is type(b)
        assert_close(a.as_subclass(torch.Tensor), b.as_subclass(torch.Tensor), "parameter")
        for key, value in twins.theirs.state[b].items():
            assert_close(twins.ours.state[a][key].as_subclass(torch.Tensor), value.as_subclass(torch.Tensor), key)


def test_buffers_as_parameters() -> None:
    def make() -> list[Any]:
        return [torch.nn.Buffer(draw((4,))), draw((3,))]

    Twins(make).steps(3).check()


def test_parameters_that_retain_gradients() -> None:
    """No leaves, but torch accepts them."""
    leaves: list[Any] = []

    def make() -> list[Any]:
        leaves.append(draw((4,)).requires_grad_())
        inner = leaves[-1] * 2
        inner.retain_grad()
        return [inner]

    twins = Twins(make)
    results = []
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 1)
        results.append(error_of(side.optimizer.step))
    assert [type(result) for result in results[:1]] == [type(result) for result in results[1:]]
    if results[0] is None:
        assert_close(twins.ours.params[0], twins.theirs.params[0], "parameter")


ALIASES: dict[str, Any] = {
    "the parameter": lambda p, state: p.detach(),
    "the parameter, shifted": lambda p, state: p.detach().as_strided(p.shape, p.stride(), 1),
    "the parameter, shifted back": lambda p, state: p.detach().as_strided(p.shape, p.stride(), 0),
    "the parameter, reversed in rows": lambda p, state: p.detach().as_strided(p.shape, (1, 8), 2),
    "exp_avg": lambda p, state: state["exp_avg"],
    "exp_avg_sq": lambda p, state: state["exp_avg_sq"],
    "max_exp_avg_sq": lambda p, state: state["max_exp_avg_sq"],
    "exp_avg, transposed": lambda p, state: state["exp_avg"].as_strided(p.shape, (1, 8)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ALIASES)
def test_a_gradient_in_the_memory_of_what_is_written(what: str, name: str) -> None:
    """As with a copy of the gradient."""

    def make() -> Any:
        base = draw((70,))
        return getattr(fastadam.torch, name)([Parameter(base[2:66].view(8, 8))], amsgrad=True, weight_decay=0.1)

    aliased, copied = make(), make()
    for step in range(4):
        for optimizer in (aliased, copied):
            (param,) = members(optimizer)
            if step == 0:
                give_grads(optimizer, 1)
            else:
                grad = ALIASES[what](param, optimizer.state[param])
                param.grad = grad if optimizer is aliased else grad.clone()
            optimizer.step()
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            assert_same_bits(
                *(optimizer.state[members(optimizer)[0]][key] for optimizer in (aliased, copied)), key
            )
        assert_same_bits(members(aliased)[0], members(copied)[0], what)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_the_memory_of_other_parameters(name: str) -> None:
    """All parameters are read as they were before the step."""
    aliased, copied = (getattr(fastadam.torch, name)(params((5,), (5,), (5,)), weight_decay=0.1) for _ in range(2))
    for _ in range(4):
        for optimizer in (aliased, copied):
            ring = members(optimizer)
            grads = [param.detach() if optimizer is aliased else param.detach().clone() for param in ring]
            for param, grad in zip(ring, [*grads[1:], grads[0]], strict=True):
                param.grad = grad
            optimizer.step()
        for a, b in zip(members(aliased), members(copied), strict=True):
            assert_same_bits(a, b)


def test_gradients_of_efficient_zeros() -> None:
    """Of no memory at all, as autograd uses them inside."""
    twins = Twins(lambda: params(*FEW_SHAPES), weight_decay=0.1).steps(2)
    for step in range(3):
        for side in (twins.ours, twins.theirs):
            give_grads(side.optimizer, step)
            side.params[0].grad = torch._efficientzerotensor((7,))
            side.optimizer.step()
        twins.check()


def test_a_gradient_shared_by_parameters() -> None:
    twins = Twins(lambda: params((5,), (5,), (5,)), weight_decay=0.1)
    for step in range(4):
        for side in (twins.ours, twins.theirs):
            grad = draw((5,), seed=step)
            for param in side.params:
                param.grad = grad
            side.optimizer.step()
        twins.check()
