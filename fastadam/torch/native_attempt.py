"""The attempt at a step in one native call, which compares everything with what it was: cext/tensors.c."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from fastadam.backends import c
from fastadam.memory.structs import RAISED, TAKEN
from fastadam.torch.active import ActivePlan
from fastadam.torch.cache import TensorCache
from fastadam.torch.tensor_offsets import tensor_offsets


@functools.cache
def tensor_reader() -> int:
    """Return the address of DLPack's function that reads a tensor, or 0 where native code cannot read tensors.

    That is where the function or the C extension is missing, or it is not known where the parts of tensors lie.
    """
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or c.why_missing() is not None or tensor_offsets() is None:
        return 0
    return int(c.lib.fastadam_tensor_reader(id(capsule)))


def bind(cache: TensorCache, active: ActivePlan) -> Callable[..., int]:
    """Return the function that attempts a step each time it is called.

    It fetches the gradients, or takes a list of them, one or None for each parameter, which nobody else has. With
    these, the C backend also takes the pointers of a `fastadam.torch.table_plans.TablePlan` over other parameters,
    which is run in the same call.

    It returns `fastadam.memory.structs.TAKEN` or, if nothing was written, what stands in the way: another of the
    constants there, or the position of a parameter whose gradient needs care. What fetching a gradient raises is
    let through; the step has not begun then.

    Notes
    -----
    Native code gets the addresses of `cache`, `active` and the list of gradients. `Attempts`, whose method calls
    this, keeps the first two, and the function itself the third until native code is done.
    """
    known, plan = (
        c.ffi.cast("fastadam_tensor_cache *", cache.block.address),
        c.ffi.cast("fastadam_active_plan *", active.block.address),
    )
    n = len(cache.tensors)
    if active.backend is not c:  # another one, or several
        read, step = c.lib.fastadam_read_tensors, active.plan

        def read_and_run(given: list[Any] | None = None) -> int:
            grads: list[Any] = [None] * n if given is None else given
            outcome: int = read(known, plan, id(grads), given is not None)
            if outcome == RAISED:
                raise grads[n]
            return step.take() if outcome == TAKEN else outcome

        return read_and_run

    step_tensors: Callable[..., int] = c.lib.fastadam_step_tensors

    def read_and_step(given: list[Any] | None = None, more: tuple[Any, ...] | None = None) -> int:
        grads: list[Any] = [None] * n if given is None else given
        if more is None:
            outcome = step_tensors(known, plan, id(grads), given is not None)
        else:
            outcome = c.lib.fastadam_step_tensors_and_more(known, plan, id(grads), *more)
        if outcome == RAISED:
            raise grads[n]
        return outcome

    return read_and_step
