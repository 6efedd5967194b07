"""Clears the gradients that live with the parameters."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fastadam.groups.group import Group
from fastadam.memory.cuda.arrays import is_on_cuda
from fastadam.memory.devices import check_parameter
from fastadam.memory.parameter import Parameter


def clear_gradients(groups: Iterable[Group], set_to_none: bool) -> None:
    """Clear the gradients of `Parameter` objects and packed buffers (see `fastadam.Adam.zero_grad`)."""
    groups = list(groups)
    held = [
        member
        for group in groups
        for member in group.members
        if isinstance(member.given, Parameter) and member.given.grad is not None
    ]
    if not set_to_none:
        for member in held:
            grad, label = member.given.grad, f"the gradient of {member.label}"
            if is_on_cuda(grad) and hasattr(type(grad), "__setitem__"):
                check_parameter(grad, label)  # that it can be written; its own library fills it, in its stream
                continue
            if not isinstance(grad, np.ndarray):
                raise TypeError(f"{label} is a {type(grad).__name__}; use zero_grad(set_to_none=True)")
            if not grad.flags.writeable:
                raise ValueError(f"{label} is read-only; use zero_grad(set_to_none=True)")
    for group in groups:
        if group.packed is not None:
            group.packed.grad.fill(0)
    for member in held:
        if set_to_none:
            member.given.grad = None
        else:
            member.given.grad[...] = 0
