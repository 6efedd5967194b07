"""DTensors: tensors of which each process has a shard, or the whole, in a plain tensor of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor


def dtensor_type() -> Any:
    """Return `torch.distributed.tensor.DTensor`, or None where nobody has imported it, so that there are none."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def are_among(tensors: Iterable[Any]) -> bool:
    """Whether one of these is a DTensor."""
    kind = dtensor_type()
    return kind is not None and any(isinstance(each, kind) for each in tensors)


def locals_of(tensors: Sequence[Any]) -> list[Any]:
    """Return what this process has of tensors: what a DTensor holds, which is the same object each time.

    (`DTensor.to_local` makes a new one each time, by which nothing can be recognized.) One whose numbers are still
    on their way is waited for. Whatever is no DTensor is returned as it is.
    """
    kind = dtensor_type()
    if kind is None:
        return list(tensors)
    found = [each._local_tensor if isinstance(each, kind) else each for each in tensors]
    for i, each in enumerate(found):
        if type(each) is not Tensor and hasattr(each, "wait"):
            found[i] = each.wait()
    return found


def is_placed_like(grad: Any, param: Any) -> bool:
    """Whether a gradient is shared out as its parameter is; no gradient is, and plain ones of plain ones.

    Partial sums are not: what a process has of them is not what its shard is to be stepped by.
    """
    if grad is None:
        return True
    one, other = getattr(grad, "_spec", None), getattr(param, "_spec", None)
    if one is None or other is None:
        return one is other
    return bool(
        (one is other or (_way(one) == _way(other) and grad.shape == param.shape))
        and not any(each.is_partial() for each in one.placements)
    )


def _way(spec: Any) -> tuple[Any, ...]:
    """Return all that says which process has which numbers."""
    return spec.placements, spec.mesh, getattr(spec, "shard_order", None)


def like(local_tensor: Tensor, other: Any) -> Any:
    """Return a DTensor that is shared out as another one, and holds `local_tensor` itself."""
    return dtensor_type()(local_tensor, other._spec, requires_grad=False)


def everywhere(number: Tensor, other: Any) -> Any:
    """Return a DTensor that all processes have, on the mesh of another one."""
    from torch.distributed.tensor.placement_types import Replicate

    mesh = other.device_mesh
    return dtensor_type().from_local(number, mesh, [Replicate()] * mesh.ndim, run_check=False)


def sharing_groups(tensor: Any) -> tuple[Any, ...] | None:
    """Return the process groups over which the numbers of a DTensor are shared out, one after the other.

    Returns
    -------
    tuple of ProcessGroup, or None
        Empty where each process has all of it; None where it is the sum of what processes have, or this process
        has no part in it.
    """
    from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

    mesh = tensor.device_mesh
    if mesh.get_coordinate() is None:
        return None
    groups = []
    for dim, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard | _StridedShard):
            groups.append(mesh.get_group(dim))
        elif not isinstance(placement, Replicate):
            return None
    return tuple(groups)
