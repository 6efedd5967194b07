"""Sparse gradients, with sparse="lazy": the rows that they have get the bits of a dense step, the others stay."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.strategies import examples  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    params,
    snapshot,
)

ROWS = 23
OPTIONS: dict[str, tuple[Any, int, dict[str, Any]]] = {  # with a dtype and a width of rows
    "plain": (torch.float32, 5, {}),
    "all": (
        torch.float64,
        3,
        {
            "weight_decay": 0.3,
            "amsgrad": True,
            "maximize": True,
            "decoupled_weight_decay": True,
            "betas": (0.8, 0.9),
        },
    ),
    "l2": (torch.float32, 1, {"weight_decay": 0.1}),
    "complex": (torch.complex64, 3, {"amsgrad": True}),
    "bfloat16 state": (torch.float32, 7, {"state_dtype": "bfloat16", "seed": 3}),
    "int8 state": (torch.float32, 64, {"state_dtype": "int8", "amsgrad": True}),
    "int8 state of complex numbers": (torch.complex64, 32, {"state_dtype": "int8"}),
    "masters": (torch.bfloat16, 64, {"master_weights": True, "state_dtype": "int8", "weight_decay": 0.1}),
    "masters of float16": (torch.float16, 3, {"master_weights": True}),
    "stochastic": (torch.bfloat16, 5, {"rounding": "stochastic", "state_dtype": "bfloat16"}),
    "averages": (torch.float32, 4, {"ema_decay": 0.7, "ema_warmup": True}),
    "averages of masters": (torch.bfloat16, 4, {"ema_decay": 0.7, "master_weights": True}),
}


def sparse(indices: Any, values: Any, shape: Any, **options: Any) -> Any:
    """Return a gradient, without torch's checks."""
    with torch.sparse.check_sparse_tensor_invariants(enable=False):
        indices = torch.as_tensor(indices, dtype=torch.int64)
        indices = indices[None] if indices.ndim == 1 else indices
        return torch.sparse_coo_tensor(indices, values, shape, **options)


def added_up(indices: Any, values: Any, shape: Any) -> Any:
    """Return a dense gradient: rows are added one after the other, in float32 where they are of 16 bits."""
    found: dict[int, Any] = {}
    for index, value in zip(np.asarray(indices).tolist(), values, strict=True):
        wide = value.float() if value.element_size() == 2 else value
        found[index] = found[index] + wide if index in found else wide
    dtype = torch.float32 if values.element_size() == 2 and len(found) < len(values) else values.dtype
    dense = torch.zeros(shape, dtype=dtype)
    for index, value in found.items():
        dense[index] = value
    return dense


def new(members: Any, backend: str = "auto", **options: Any) -> Any:
    optimizer = fastadam.torch.Adam(members, **{"lr": 0.1, "sparse": "lazy", **options})
    optimizer.backend = backend
    return optimizer


def rows_in(optimizer: Any, param: Any) -> dict[str, Any]:
    """Return the parameter, its state and its average, with a line for each row."""
    entry = {name: each for name, each in optimizer.state[param].items() if name != "step"}
    found = {name: each.detach().clone().reshape(ROWS, -1) for name, each in {"param": param, **entry}.items()}
    if optimizer.ema_decay is not None:
        found["ema"] = optimizer.ema[param].clone().reshape(ROWS, -1)
    return found


@hypothesis.given(
    batches=st.lists(st.lists(st.integers(0, ROWS - 1), max_size=30), min_size=1, max_size=4),
    seed=st.integers(0, 2**20),
    begins_dense=st.booleans(),
)
@examples(12)
@pytest.mark.parametrize("name", OPTIONS)
def test_rows_have_the_bits_of_a_dense_step(
    name: str, batches: Any, seed: int, begins_dense: bool, backend: str
) -> None:
    """Indices in any order, some of them several times, some gradients without any; beside a dense parameter."""
    dtype, width, options = OPTIONS[name]
    shape = (ROWS, width)
    optimizer = new(params((4, 3), shape, dtype=dtype, seed=seed), backend, **options)
    other, param = optimizer.param_groups[0]["params"]
    if begins_dense:
        param.grad, other.grad = draw(shape, dtype, seed), draw(other.shape, dtype, seed)
        optimizer.step()
    for i, indices in enumerate(batches):
        values = draw((len(indices), width), dtype, seed + i)
        grads = {"sparse": sparse(indices, values, shape), "dense": added_up(indices, values, shape), "none": None}
        twins = {}
        for way, grad in grads.items():
            twin = copy.deepcopy(optimizer)
            twin.param_groups[0]["params"][0].grad = draw(other.shape, dtype, seed + i)
            theirs = twin.param_groups[0]["params"][1]
            theirs.grad = None
            if grad is not None:
                theirs.grad_dtype = grad.dtype
                theirs.grad = grad
            twin.step()
            assert twin.last_step == "fastadam"
            twins[way] = twin, theirs
        optimizer, param = twins["sparse"]
        assert optimizer.state[param]["step"] == i + 1 + begins_dense
        touched: Any = torch.zeros(ROWS, dtype=torch.bool)
        touched[torch.tensor(indices, dtype=torch.int64)] = True
        ours, dense = rows_in(*twins["sparse"]), rows_in(*twins["dense"])
        none = rows_in(*twins["none"]) if i or begins_dense else {}
        for key, each in ours.items():
            assert_same_bits(each[touched], dense[key][touched], f"{key} of touched rows")
            if none:
                assert_same_bits(each[~touched], none[key][~touched], f"{key} of the others")
            elif key not in ("param", "ema"):
                assert not each[~touched].any(), f"{key} of the others"
        first, second = (each.param_groups[0]["params"][0] for each in (optimizer, twins["dense"][0]))
        assert_same_bits(first, second, "the other parameter")


def test_as_sparse_adam_does() -> None:
    ours, theirs = (torch.nn.Embedding(50, 8, sparse=True) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [new(ours.parameters()), torch.optim.SparseAdam(theirs.parameters(), lr=0.1)]
    for seed in range(30):
        chosen = torch.randint(50, (7,), generator=torch.Generator().manual_seed(seed))
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (layer(chosen) - draw((7, 8), seed=seed)).square().sum().backward()
            optimizer.step()
    assert_close(ours.weight, theirs.weight, "weights", rtol=1e-4, atol=1e-4)
    assert optimizers[0].state[ours.weight]["step"] == 30


def test_a_state_of_sparse_adam_goes_on_here() -> None:
    theirs = torch.nn.Embedding(9, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(theirs.parameters(), lr=0.1)
    theirs(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    ours = torch.nn.Embedding(9, 2, sparse=True)
    ours.load_state_dict(theirs.state_dict())
    loaded = new(ours.parameters())
    saved = copy.deepcopy(optimizer.state_dict())  # torch's have the optimizer's own tensors
    loaded.load_state_dict({**saved, "param_groups": loaded.state_dict()["param_groups"]})
    for layer, each in ((theirs, optimizer), (ours, loaded)):
        layer.zero_grad()
        layer(torch.tensor([2, 5])).sum().backward()
        each.step()
    assert_close(ours.weight, theirs.weight, "weights", rtol=1e-4, atol=1e-5)
    assert loaded.state[ours.weight]["step"] == 2


def test_several_sparse_dimensions() -> None:
    """Rows are what one index stands for, in as many dimensions as it has."""
    shape = (4, 5, 3)
    param, dense = params(shape)[0], params(shape)[0]
    indices, values = torch.tensor([[3, 0, 3, 3], [4, 1, 4, 0]]), draw((4, 3))
    grad = sparse(indices, values, shape)
    param.grad, dense.grad = grad, grad.to_dense()
    ours, theirs = new([param]), new([dense])
    ours.step()
    theirs.step()
    touched = torch.zeros(shape[:2], dtype=torch.bool)
    touched[tuple(indices)] = True
    assert_same_bits(param[touched], dense[touched], "touched")
    assert_same_bits(param[~touched], params(shape)[0][~touched], "the others")


def test_the_norm_is_that_of_the_rows_added_up() -> None:
    (param,) = params((ROWS, 3))
    optimizer = new([param], max_grad_norm=0.5)
    values = draw((5, 3))
    param.grad = sparse([4, 2, 4, 9, 2], values, param.shape)
    optimizer.step()
    rows = added_up([4, 2, 4, 9, 2], values, param.shape)[[2, 4, 9]]
    assert optimizer.grad_norm == pytest.approx(rows.double().norm().item(), rel=1e-15)
    (alone,) = params((3, 3))
    alone.data, alone.grad = params((ROWS, 3))[0].data[[2, 4, 9]].clone(), rows
    clipped = new([alone], max_grad_norm=0.5)
    clipped.step()
    assert optimizer.grad_norm == clipped.grad_norm
    assert_same_bits(param[[2, 4, 9]], alone, "clipped")
    before = snapshot(optimizer)
    param.grad = sparse([3], torch.full((1, 3), torch.nan), param.shape)
    optimizer.max_grad_norm, optimizer.skip_nonfinite = None, True
    optimizer.step()
    assert optimizer.skipped_steps == 1
    optimizer.skip_nonfinite = False
    optimizer.error_if_nonfinite = True
    with pytest.raises(RuntimeError, match="parameter 0"):
        optimizer.step()
    assert_same_snapshot(snapshot(optimizer), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
def test_the_order_of_the_indices_does_not_matter(dtype: Any, backend: str) -> None:
    """Not to the norm either."""
    found = []
    values, order = draw((ROWS, 3), dtype), torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    for indices in (torch.arange(ROWS), order):
        (param,) = params((ROWS, 3), dtype=dtype)
        optimizer = new([param], backend, max_grad_norm=0.5)
        param.grad = sparse(indices, values[indices], param.shape)
        optimizer.step()
        found.append((param.detach(), optimizer.grad_norm))
        assert optimizer.last_step == "fastadam"
    assert_same_bits(found[0][0], found[1][0], "param")
    assert found[0][1] == found[1][1]


def test_edited_options_are_those_of_the_next_step() -> None:
    """Of steps that are taken with care, which know the last options that they have checked."""
    (ours,), (theirs,) = params((ROWS, 3), dtype=torch.float64), params((ROWS, 3), dtype=torch.float64)
    rate = torch.tensor(0.1)
    optimizers = new([ours]), new([theirs])
    edits: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"lr": 0.05}, {"lr": 0.05}),
        ({"lr": rate}, {"lr": rate.item()}),
        ({"weight_decay": 0.25}, {"weight_decay": 0.25}),
        ({"betas": (0.5, 0.25)}, {"betas": (0.5, 0.25)}),
        ({"betas": [0.5, 0.25]}, {}),
        ({"eps": 1e-50}, {"eps": 1e-50}),
    ]
    for i, each in enumerate([*edits, ({}, {"lr": 0.75})]):
        if i == len(edits):
            rate.fill_(0.75)
        for optimizer, options in zip(optimizers, each, strict=True):
            optimizer.param_groups[0].update(options)
        for param in (ours, theirs):
            param.grad = sparse([4, 2], draw((2, 3), torch.float64, i), param.shape)
        optimizers[0].step()
        optimizers[1].step()
        assert_same_bits(ours, theirs, f"step {i}")
    optimizer, (param,) = optimizers[1], optimizers[1].param_groups[0]["params"]
    optimizer.param_groups[0]["lr"] = "fast"
    for _ in range(2):
        with pytest.raises(TypeError, match="lr"):
            optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.75
    # The eps of 1e-50 is zero in float32: such steps are torch's, which takes no sparse gradients.
    param.grad = None
    param.data, optimizer.state[param] = param.data.float(), {}
    param.grad = sparse([4, 2], draw((2, 3)), param.shape)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


def test_dense_and_sparse_in_turn_on_the_fast_way_and_off_it() -> None:
    ours, theirs = params((ROWS, 3), (5,)), params((ROWS, 3), (5,))
    optimizers = [new(ours), new(theirs)]
    everything = list(range(ROWS))[::-1]
    for step, kind in enumerate(["dense", "dense", "sparse", "dense", "dense", "dense", "sparse", "sparse"]):
        grad = draw((ROWS, 3), seed=step)
        for members, optimizer in zip((ours, theirs), optimizers, strict=True):
            members[0].grad, members[1].grad = grad, draw((5,), seed=step)
            if kind == "sparse" and members is ours:
                members[0].grad = sparse(everything, grad.flip(0), grad.shape)
            optimizer.step()
        for mine, other in zip(ours, theirs, strict=True):
            assert_same_bits(mine, other, f"step {step}")


@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_on_threads(threads: int) -> None:
    shape = (20_000, 8)
    (param,), (dense,) = params(shape), params(shape)
    ours, theirs = new([param]), new([dense])
    ours.threads = theirs.threads = threads
    chosen = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))[:15_000]
    grad = sparse(chosen, draw((15_000, 8)), shape)
    param.grad, dense.grad = grad, grad.to_dense()
    ours.step()
    theirs.step()
    assert_same_bits(param[chosen], dense[chosen], "touched")


def wrong(make: Any, error: str) -> Any:
    return pytest.param(make, error, id=error)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("make", "error"),
    [
        wrong(lambda shape: sparse([0, ROWS], torch.ones(2, 3), shape), "indices from"),
        wrong(lambda shape: sparse([0, -1], torch.ones(2, 3), shape), r"from \[-1\] to \[0\]"),
        wrong(lambda shape: sparse([0], torch.ones(1, 4), (ROWS, 4)), "has shape"),
        wrong(lambda shape: sparse([0], torch.ones(1, 3, dtype=torch.float64), shape), "has dtype"),
        wrong(lambda shape: torch.ones(shape).to_sparse_csr(), "does not support sparse gradients"),
    ],
)
def test_a_wrong_gradient_is_refused_and_nothing_written(make: Any, error: str) -> None:
    """Also where torch has let it into `grad`."""
    first, param = params((4,), (ROWS, 3))
    optimizer = new([first, param])
    first.grad, param.grad = torch.ones(4), sparse([1], torch.ones(1, 3), param.shape)
    optimizer.step()
    before, grad = snapshot(optimizer), make((ROWS, 3))

    class Odd(torch.nn.Parameter):
        grad = None

    odd = Odd(param.detach())
    odd.grad = grad
    optimizer.param_groups[0]["params"][1] = odd
    optimizer.state[odd] = optimizer.state.pop(param)
    with pytest.raises(RuntimeError, match=error):
        optimizer.step()
    optimizer.param_groups[0]["params"][1] = param
    optimizer.state[param] = optimizer.state.pop(odd)
    assert_same_snapshot(snapshot(optimizer), before)


def test_what_such_steps_cannot_be_taken_over() -> None:
    (param,) = params((ROWS, 3))
    param.grad = sparse([1], torch.ones(1, 3), param.shape)
    with pytest.raises(RuntimeError, match=r'share blocks of 64 .*state_dtype="bfloat16"'):
        new([param], state_dtype="int8").step()
    optimizer = new([param])
    with pytest.raises(RuntimeError, match=r"is sparse, so that .* call optimizer.zero_grad\(\)"):
        optimizer.step(zero_grad=True)
    assert not optimizer.state
    turned = torch.nn.Parameter(draw((3, ROWS)).T)
    turned.grad = sparse([1], torch.ones(1, 3), turned.shape)
    with pytest.raises(RuntimeError, match="make it contiguous"):
        new([turned]).step()


def test_who_has_not_asked_gets_the_error_of_torch() -> None:
    (param,) = params((ROWS, 3))
    optimizer = fastadam.torch.Adam([param])
    param.grad = sparse([1], torch.ones(1, 3), param.shape)
    with pytest.raises(RuntimeError, match=r'does not support sparse gradients.*sparse="lazy"'):
        optimizer.step()
    optimizer.sparse = "lazy"  # as the message says
    optimizer.step()
    assert optimizer.state[param]["step"] == 1
    for value in (True, "exact", 1, ["lazy"]):
        with pytest.raises(ValueError, match="sparse must be None"):
            optimizer.sparse = value
        with pytest.raises(ValueError, match="sparse must be None"):
            fastadam.torch.AdamW([param], sparse=value)
    assert optimizer.sparse == "lazy"


def test_copies_keep_the_choice() -> None:
    (param,) = params((ROWS, 3))
    optimizer = new([param])
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.sparse == "lazy"


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"max_grad_norm": 1.0}], ids=repr)
def test_a_gradient_without_rows_is_a_step(backend: str, options: dict[str, Any]) -> None:
    param = torch.ones(5, 3, requires_grad=True)
    optimizer = new([param], backend, **options)
    param.grad = sparse([], torch.zeros(0, 3), (5, 3))
    optimizer.step()
    assert optimizer.state[param]["step"] == 1
    assert (param == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_that_overflow_when_they_are_added_are_not_finite(backend: str, dtype: Any) -> None:
    param = torch.zeros(ROWS, 2, dtype=dtype, requires_grad=True)
    optimizer = new([param], backend)
    largest = torch.full((2, 2), torch.finfo(dtype).max, dtype=dtype)
    param.grad = sparse([1, 1], largest, param.shape)
    with np.errstate(all="raise"):
        optimizer.step()
        assert set(np.geterr().values()) == {"raise"}
    assert param.detach()[1].isnan().all()
    assert not param.detach()[[0, 2]].any()


def test_indices_that_another_thread_changes_are_copied_before_they_are_looked_at() -> None:
    from fastadam.torch.sparse import _numbers

    indices = np.array([[1, 2]])
    found = _numbers(indices, (ROWS,), "it")
    assert found.tolist() == [1, 2]
    assert not np.shares_memory(found, indices)
