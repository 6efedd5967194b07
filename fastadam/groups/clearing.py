"""Clears the gradients that live with the parameters."""

from __future__ import annotations

from collections.abc import Iterable

from fastadam.groups.group import Group
from fastadam.memory.devices import kind_of
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
            grad = member.given.grad
            kind_of(grad).check_fillable(grad, f"the gradient of {member.label}")
    for group in groups:
        if group.packed is not None:
            group.packed.grad.fill(0)
    for member in held:
        if set_to_none:
            member.given.grad = None
        else:
            member.given.grad[...] = 0
