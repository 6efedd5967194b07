"""The options of all groups as attributes of an optimizer: ``optimizer.lr = 1e-4``."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Generic, TypeVar, overload

from fastadam.groups.groups import Groups
from fastadam.step.backend import Call
from fastadam.step.interrupts import in_one_go

Value = TypeVar("Value")


class Option(Generic[Value]):
    """An attribute of an optimizer that is an option of its groups.

    Assigning it calls ``optimizer._assign(name, value)``. What a subclass has of its own under the name, in the
    instance's dict, is what is read then.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = f"The option {name!r} of all groups; assigning it sets it in each of them."

    @overload
    def __get__(self, optimizer: None, owner: type) -> Option[Value]: ...
    @overload
    def __get__(self, optimizer: Any, owner: type | None = None) -> Value: ...
    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        own = optimizer.__dict__
        return own[self._name] if self._name in own else agreed(optimizer.param_groups, self._name)

    def __set__(self, optimizer: Any, value: Value) -> None:
        optimizer._assign(self._name, value)

    def __delete__(self, optimizer: Any) -> None:
        if self._name in optimizer.__dict__:
            del optimizer.__dict__[self._name]
        else:
            raise AttributeError(f"{self._name} is an option, which each group has; assign another value instead")


def agreed(param_groups: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return the value that an option has in all groups.

    Raises
    ------
    AttributeError
        If they differ in it, or there are none.
    """
    values = [group[name] for group in param_groups if name in group]
    if len(values) < len(param_groups) or not values:
        raise AttributeError(f"{name} is not in all param_groups; read optimizer.param_groups[i][{name!r}]")
    first = values[0]
    for i, value in enumerate(values):
        if not _is_same(first, value):
            raise AttributeError(
                f"{name} differs between groups: param_groups[0][{name!r}] is {first!r}, and "
                f"param_groups[{i}][{name!r}] is {value!r}; read it there, or assign it to set it in all of them"
            )
    return first


def _is_same(first: Any, second: Any) -> bool:
    try:
        return first is second or bool(first == second)
    except (TypeError, ValueError, RuntimeError):  # an array where a number belongs, tensors on two devices
        return False


def assign_calls(
    param_groups: Sequence[MutableMapping[str, Any]], defaults: Any, name: str, values: Sequence[Any]
) -> list[Call]:
    """Return native calls that set a checked option in all groups, and for groups that are added later.

    Parameters
    ----------
    param_groups : sequence of dict
    defaults : dict
    name : str
    values : sequence
        One for `defaults`, and one for each group.
    """
    pairs = zip((defaults, *param_groups), values, strict=True)  # the first may be what a user has put there
    return [functools.partial(operator.setitem, where, name, value) for where, value in pairs]


def assign(groups: Groups, defaults: Any, name: str, value: Any) -> None:
    """Set an option in all groups, and for those that are added later; the next step takes it up.

    Raises
    ------
    TypeError, ValueError
        As the constructor does; nothing has changed then.
    """
    checked = [group.checked({**group.accepted(), name: value}, "") for group in groups]
    values = [getattr(hyper, name) for hyper in (checked[0], *checked)]
    in_one_go(assign_calls([group.options for group in groups], defaults, name, values))
