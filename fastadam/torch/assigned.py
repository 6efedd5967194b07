"""What is assigned to an optimizer as an attribute, ``optimizer.lr = 1e-4``, is set in all groups."""

from __future__ import annotations

import sys
from typing import Any

import torch

from fastadam.groups.options import Option, Value, agreed, assign_calls
from fastadam.step.hyperparameters import FIXED, PRECISION
from fastadam.step.interrupts import in_one_go
from fastadam.torch import originals
from fastadam.torch.options import checked_precision
from fastadam.torch.refused import refuse_arguments

# Those whose values torch's constructor looks at together with others.
_TOGETHER = ("foreach", "capturable", "differentiable", "fused")


class PrecisionOption(Option[Value]):
    """An option that groups have if it was given, else its default counts."""

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None or self._name in optimizer.__dict__:
            return super().__get__(optimizer, owner)
        return agreed([{**PRECISION, **group} for group in optimizer.param_groups], self._name)


def assign(optimizer: Any, name: str, value: Any) -> None:
    """Set an option in all groups, and for those that are added later.

    torch keeps what is assigned under such a name as an attribute of the optimizer, and classes made for torch's
    optimizers may have some. So what is assigned in the ``__init__`` of a subclass is such an attribute, which
    stays one.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As the constructor does; nothing has changed then.
    """
    own = optimizer.__dict__
    if name in own or "param_groups" not in own or _is_being_made(optimizer):
        own[name] = value
        return
    groups = list(optimizer.param_groups)
    if name in FIXED and optimizer.state and any(group.get(name, PRECISION[name]) != value for group in groups):
        raise ValueError(
            f"{name} is fixed once there is state, which lies in memory so; make a new optimizer with "
            f"{name}={value!r}, and load the state into that: new.load_state_dict(old.state_dict())"
        )
    values = [_checked(group, name, value) for group in (optimizer.defaults, *groups)]
    in_one_go(assign_calls(groups, optimizer.defaults, name, values))


def _is_being_made(optimizer: Any) -> bool:
    """Whether it is an ``__init__`` of this optimizer that assigns."""
    frame = sys._getframe(3)  # beyond this function, `assign` and the descriptor
    code = frame.f_code
    return code.co_name == "__init__" and any(frame.f_locals.get(n) is optimizer for n in code.co_varnames[:1])


def _checked(group: Any, name: str, value: Any) -> Any:
    """Return the value as the constructor takes it."""
    if name in PRECISION:
        return checked_precision({name: value})[name]
    with torch.device("cpu"):
        sample = torch.nn.Parameter(torch.empty(0))
    together = {each: group[each] for each in _TOGETHER if each in group}
    given = {**together, name: value}
    try:
        return originals.Adam([sample], **given).defaults[name]
    except (TypeError, IndexError) as error:
        refuse_arguments(given, error)
