"""The attempt at a step in one native call, which compares everything with what it was: cext/tensors.c."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from fastadam.backends import c
from fastadam.memory.structs import (
    ACTIVE_PLAN,
    CACHED_PARAM,
    FINGERPRINT,
    GROUP_LIST,
    TAKEN,
    TENSOR_CACHE,
    TENSOR_OFFSETS,
)
from fastadam.torch.active import ActivePlan
from fastadam.torch.cache import TensorCache

# The structs of cext/structs.h that tensors need.
STRUCTS = {
    f"fastadam_{each.name}": each.dtype
    for each in (TENSOR_OFFSETS, FINGERPRINT, CACHED_PARAM, GROUP_LIST, TENSOR_CACHE, ACTIVE_PLAN)
}


@functools.cache
def tensor_reader() -> int:
    """Return the address of DLPack's function that reads a tensor, or 0 where it or the C extension is missing."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or c.why_missing() is not None or c.other_struct(STRUCTS) is not None:
        return 0
    return int(c.lib.fastadam_tensor_reader(id(capsule)))


def bind(cache: TensorCache, active: ActivePlan) -> Callable[[], int]:
    """Return the function that attempts a step each time it is called; it does not keep its arguments alive.

    It returns `fastadam.memory.structs.TAKEN` or, if nothing was written, what stands in the way: another of the
    constants there, or the position of a parameter whose gradient needs care.
    """
    known, plan = (
        c.ffi.cast("fastadam_tensor_cache *", cache.block.address),
        c.ffi.cast("fastadam_active_plan *", active.block.address),
    )
    if active.backend is c:  # else it is another one, or several
        return functools.partial(c.lib.fastadam_step_tensors, known, plan)

    read, release, run = c.lib.fastadam_read_tensors, c.lib.fastadam_release_tensors, active.plan

    def read_and_run() -> int:
        try:
            outcome: int = read(known, plan)
            if outcome == TAKEN:
                run.take()
        finally:
            release(known)
        return outcome

    return read_and_run
