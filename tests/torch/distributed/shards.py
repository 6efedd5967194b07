"""Checks of steps over DTensors, whose gradients are the same for any number of processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import fastadam.torch
from tests.torch.distributed.launch import same

# Some are shared out unevenly, and some processes have nothing of some.
SHAPES: list[tuple[int, ...]] = [(5, 7), (1, 3), (3,), (64, 33), (0, 4), (7,)]
STEPS = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
    "decoupled": {"decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True},
    "clipped": {"max_grad_norm": 0.5},
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]


def drawn(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Return numbers that are the same on each process."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=dtype)


def mesh() -> Any:
    """Return all processes in a row."""
    return init_device_mesh("cpu", (distributed.get_world_size(),))


def placed(dtype: torch.dtype, placements: Callable[[Tensor], Sequence[Any]], on: Any) -> list[nn.Parameter]:
    """Return parameters that are shared out."""
    tensors = [drawn(shape, dtype, i) for i, shape in enumerate(SHAPES)]
    return [nn.Parameter(distribute_tensor(each, on, placements(each))) for each in tensors]


def give_gradients(params: Sequence[Tensor], step: int) -> None:
    """Give gradients of a step; not every parameter has one in every step."""
    for i, param in enumerate(params):
        full = drawn(param.shape, param.dtype, 100 * step + i)
        param.grad = (
            distribute_tensor(full, param.device_mesh, param.placements) if isinstance(param, DTensor) else full
        )
        if (i + step) % 4 == 0:
            param.grad = None


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor, plain."""
    return tensor.full_tensor().detach().clone() if isinstance(tensor, DTensor) else tensor.detach().clone()


def everything(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all numbers of an optimizer, on each process the same."""
    found = []
    for param in (param for group in optimizer.param_groups for param in group["params"]):
        found.append(whole(param))
        for name, value in optimizer.state.get(param, {}).items():
            if isinstance(param, DTensor) and name != "step":
                assert isinstance(value, DTensor), name
                assert (value.shape, value.stride()) == (param.shape, param.stride())
                assert (value.placements, value.device_mesh) == (param.placements, param.device_mesh)
            found.append(whole(value))
    return found


def trained(params: Sequence[nn.Parameter], **options: Any) -> list[Tensor]:
    """Return all numbers after some steps."""
    optimizer = fastadam.torch.Adam(params, lr=0.1, **options)
    norms = []
    for step in range(STEPS):
        give_gradients(params, step)
        optimizer.step()
        assert optimizer.last_step == "fastadam", optimizer.last_step
        if "max_grad_norm" in options:
            norms.append(torch.tensor(optimizer.grad_norm, dtype=torch.float64))
    return everything(optimizer) + norms


def row_wise(tensor: Tensor) -> list[Any]:
    """Shared out by rows, as FSDP2 does."""
    return [Shard(0)]


def column_wise(tensor: Tensor) -> list[Any]:
    """Shared out by the last dimension, as tensor parallelism does."""
    return [Shard(tensor.dim() - 1)]


def nowhere(tensor: Tensor) -> list[Any]:
    """Not shared out."""
    return [Replicate()]


def check_plain_tensors(folder: Path) -> Any:
    """Take the same steps without DTensors."""
    found = {}
    for name, options in OPTIONS.items():
        for dtype in DTYPES:
            params = [nn.Parameter(drawn(shape, dtype, i)) for i, shape in enumerate(SHAPES)]
            found[f"{name} {dtype}"] = trained(params, **options)
    return found


def check_steps_have_the_bits_of_one_process(folder: Path) -> Any:
    """Whatever the options, the dtype and the way in which parameters are shared out."""
    found = {}
    for name, options in OPTIONS.items():
        for dtype in DTYPES:
            for placements in (row_wise, column_wise, nowhere):
                on = mesh()
                found[f"{name} {dtype}"] = now = trained(placed(dtype, placements, on), **options)
                first = found.setdefault(f"{name} {dtype}", now)
                assert same(first, now), placements.__name__
    return found


def check_beside_plain_tensors(folder: Path) -> Any:
    """DTensors and plain tensors in one optimizer."""
    found = {}
    for name, options in OPTIONS.items():
        params = placed(torch.float32, row_wise, mesh())
        for i in (1, 3):
            params[i] = nn.Parameter(whole(params[i]))
        found[f"{name} {torch.float32}"] = trained(params, **options)
    return found


def check_gradients_that_are_not_finite(folder: Path) -> None:
    """All processes leave out the step, or raise, whoever has the number that is not finite."""
    for value in (math.inf, math.nan):
        params = placed(torch.float32, row_wise, mesh())
        optimizer = fastadam.torch.Adam(params, skip_nonfinite=True)
        give_gradients(params, 1)
        optimizer.step()
        before = everything(optimizer)
        full = drawn(SHAPES[3], torch.float32, 9)
        full[0, 0] = value
        params[3].grad = distribute_tensor(full, params[3].device_mesh, [Shard(0)])
        optimizer.step()
        assert optimizer.last_step == "skipped: gradients are not finite"
        assert optimizer.skipped_steps == 1
        optimizer.skip_nonfinite, optimizer.error_if_nonfinite = False, True
        with pytest.raises(RuntimeError, match="not finite"):
            optimizer.step()
        assert same(everything(optimizer), before)


def check_clipping_apart(folder: Path) -> Any:
    """`clip_grad_norm_` has the same bits for any number of processes, and torch's norm to the last digits."""
    found = []
    for dtype in (torch.float32, torch.float64):
        params = placed(dtype, row_wise, mesh())
        params[3] = nn.Parameter(whole(params[3]))
        give_gradients(params, 1)
        shared = [param.grad for param in params if isinstance(param, DTensor) and param.grad is not None]
        theirs = torch.nn.utils.get_total_norm(shared).full_tensor()
        torch.testing.assert_close(fastadam.torch.get_total_norm(shared).full_tensor(), theirs)
        norm = fastadam.torch.clip_grad_norm_(params, 0.5)
        assert isinstance(norm, DTensor)
        assert norm.item() == norm.full_tensor().item()
        found += [norm.full_tensor(), *(whole(param.grad) for param in params if param.grad is not None)]
        after = fastadam.torch.get_total_norm([param.grad for param in params if param.grad is not None])
        assert abs(after.item() - 0.5) < 1e-5
    return found


def check_edits_between_steps(folder: Path) -> None:
    """Count what is edited between two steps, as with plain tensors."""
    params = placed(torch.float32, row_wise, mesh())
    twins = [nn.Parameter(whole(param)) for param in params]
    ours, plain = (fastadam.torch.Adam(each[:4], lr=0.1) for each in (params, twins))
    schedulers = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in (ours, plain)]

    def both(step: int) -> None:
        for optimizer, each in ((ours, params), (plain, twins)):
            give_gradients(each, step)
            optimizer.step(grad_scale=2.0, zero_grad=step == 3)
            assert optimizer.last_step == "fastadam"
        assert same(everything(ours), everything(plain)), step

    both(0)
    both(1)
    for scheduler in schedulers:
        scheduler.step()
    both(2)
    for optimizer, each in ((ours, params), (plain, twins)):
        optimizer.add_param_group({"params": each[4:], "lr": 1.0, "amsgrad": True})
    both(3)
    assert not whole(params[3].grad).any()
    for optimizer in (ours, plain):
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    both(4)
    for optimizer, each in ((ours, params), (plain, twins)):
        optimizer.state[each[0]]["exp_avg"].zero_()
        del optimizer.state[each[3]]  # starts anew
        optimizer.threads = 1
    both(5)
    both(6)


def check_what_is_for_torch(folder: Path) -> None:
    """Where our kernels do not serve, torch's own step is taken over the DTensors."""
    params = placed(torch.float32, row_wise, mesh())
    params = [param for param in params if param.numel()]
    optimizer = fastadam.torch.Adam(params)
    give_gradients(params, 1)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = -0.1
    give_gradients(params, 2)
    optimizer.step()
    assert optimizer.last_step.startswith("torch: param_groups[0]: lr"), optimizer.last_step
    optimizer.param_groups[0]["lr"] = 0.1
    give_gradients(params, 3)
    optimizer.step()
    assert optimizer.last_step == "fastadam"
    assert [int(optimizer.state[param]["step"]) for param in params] == [
        sum((i + step) % 4 != 0 for step in (1, 2, 3)) for i in range(len(params))
    ]


def check_exchanged_tensors(folder: Path) -> None:
    """Step what parameters and state hold now, whatever they held before."""

    def exchange_local(optimizer: Any, params: Sequence[Any]) -> None:
        for param in params:
            if isinstance(param, DTensor):
                param._local_tensor = param._local_tensor.clone()
            else:
                param.data = param.data.clone()

    def through_another_dtype(optimizer: Any, params: Sequence[Any]) -> None:
        module = nn.ParameterList(params)
        module.double()
        module.float()

    def clear_moment(optimizer: Any, params: Sequence[Any]) -> None:
        for param in params:
            moment = optimizer.state[param]["exp_avg"] if param in optimizer.state else None
            if isinstance(moment, DTensor):
                moment._local_tensor = torch.zeros_like(moment._local_tensor)
            elif moment is not None:
                moment.data = torch.zeros_like(moment)

    def forget(optimizer: Any, params: Sequence[Any]) -> None:
        optimizer.threads = 1

    for change in (exchange_local, through_another_dtype, clear_moment, forget):
        params = placed(torch.float32, row_wise, mesh())
        twins = [nn.Parameter(whole(param)) for param in params]
        both = [(fastadam.torch.Adam(each, lr=0.1), each) for each in (params, twins)]
        for step in range(5):
            for optimizer, each in both:
                if step in (1, 3):
                    change(optimizer, each)
                give_gradients(each, step)
                kept = [optimizer.state[param]["exp_avg"] for param in each if param in optimizer.state]
                optimizer.step()
                after = [optimizer.state[param]["exp_avg"] for param in each if param in optimizer.state]
                assert all(any(one is other for other in after) for one in kept), "a moment was exchanged"
            ours, plain = (everything(optimizer) for optimizer, _ in both)
            assert same(ours, plain), (change.__name__, step)


def check_gradients_on_some_processes(folder: Path) -> None:
    """Take the same norm everywhere, though a process has no gradient of some parameters."""
    params = placed(torch.float32, row_wise, mesh())
    optimizer = fastadam.torch.Adam(params, max_grad_norm=0.5)
    for step in range(3):
        give_gradients(params, step)
        if distributed.get_rank() == 0:
            params[3].grad = None
        optimizer.step(zero_grad=True)
        norms: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(norms, optimizer.grad_norm)
        assert len(set(norms)) == 1


def check_another_default_device(folder: Path) -> None:
    """Compute the norm where the gradients are."""
    params = placed(torch.float32, row_wise, mesh())
    optimizer = fastadam.torch.Adam(params, max_grad_norm=0.5)
    give_gradients(params, 1)
    torch.set_default_device("meta")
    try:
        optimizer.step()
        norm = fastadam.torch.clip_grad_norm_(params, 1e-3)
    finally:
        torch.set_default_device("cpu")
    assert norm.item() > 1e-3
    assert optimizer.last_step == "fastadam"


def check_one_shard_of_two_parameters(folder: Path) -> None:
    """Leave to torch what shares its memory."""
    first = placed(torch.float32, row_wise, mesh())[3]
    second = nn.Parameter(DTensor(first._local_tensor, first._spec, requires_grad=False))
    second._local_tensor = first._local_tensor
    optimizer = fastadam.torch.Adam([first, second])
    give_gradients([first, second], 1)
    optimizer.step()
    assert optimizer.last_step == "torch: a parameter is a DTensor"
    assert len(optimizer.state) == 2


def check_averages_are_refused(folder: Path) -> None:
    """With what to do instead."""
    with pytest.raises(RuntimeError, match=r"parameter 0 is a DTensor.*AveragedModel"):
        fastadam.torch.Adam(placed(torch.float32, row_wise, mesh()), ema_decay=0.9)
    params = placed(torch.float32, row_wise, mesh())
    optimizer = fastadam.torch.Adam(params)
    optimizer.ema_decay = 0.9
    give_gradients(params, 1)
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match=r"parameter 0 is a DTensor.*AveragedModel"):
        optimizer.step()
    assert same(everything(optimizer), before)
    optimizer.ema_decay = None
    optimizer.step()
    assert optimizer.last_step == "fastadam"
