"""What all schedules have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

Made = TypeVar("Made", bound="type[Schedule]")
# The classes that definitions name; `named` enters them.
BY_NAME: dict[str, type[Schedule]] = {}


class Schedule:
    """What all schedules have in common; made through its subclasses.

    A subclass names its fields in the order of its constructor's arguments.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    __slots__ = _fields

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, which is counted from 1.

        Raises
        ------
        ValueError
            If `step` is less than 1.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as a dict that JSON can hold, from which `from_dict` makes an equal schedule.

        Raises
        ------
        TypeError
            If it, or a part of it, is of a class that is not in `fastadam.schedules`.
        ValueError
            If it is nested too deeply.
        """
        try:
            return self._definition()
        except RecursionError as error:
            raise ValueError("the schedule is nested too deeply to be written down") from error

    def _definition(self) -> dict[str, Any]:
        name = type(self).__name__
        if BY_NAME.get(name) is not type(self):
            raise TypeError(f"{self!r} has no definition: its class is none of {', '.join(BY_NAME)}")
        return {"type": name, **{field: _plain(getattr(self, field)) for field in self._fields}}

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._fields)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} of a schedule cannot be assigned; make a new schedule")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of a schedule cannot be deleted; make a new schedule")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self).__name__, *self._values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()


def named(made: Made) -> Made:
    """Let definitions name this class."""
    BY_NAME[made.__name__] = made
    return made


def from_dict(definition: Mapping[str, Any]) -> Schedule:
    """Make a schedule from its definition.

    Parameters
    ----------
    definition : mapping
        What `Schedule.to_dict` returned, also by way of JSON.

    Returns
    -------
    Schedule

    Raises
    ------
    TypeError, ValueError
        If it is no such definition, or a value in it is not what it must be.
    """
    try:
        return _defined(definition)
    except RecursionError as error:
        raise ValueError("the definition of a schedule is nested too deeply") from error


def _defined(definition: Any) -> Schedule:
    if not isinstance(definition, Mapping):
        raise TypeError(f"the definition of a schedule must be a mapping, got {definition!r:.100}")
    name = definition.get("type")
    made = BY_NAME.get(name) if isinstance(name, str) else None
    if made is None:
        raise ValueError(f"there is no schedule {name!r:.100}; there are {', '.join(BY_NAME)}")
    given = {key: _revived(value) for key, value in definition.items() if key != "type"}
    if given.keys() != set(made._fields):
        raise ValueError(f"the definition of {name} must have {', '.join(made._fields)}; it has {sorted(given)}")
    return made(**given)


def _revived(value: Any) -> Any:
    """Return what a field is made from; the opposite of `_plain`."""
    if isinstance(value, Mapping):
        return _defined(value)
    return [_revived(item) for item in value] if isinstance(value, list) else value


def count_before(step: int) -> int:
    """Return how many steps were before this one."""
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step!r}; steps are counted from 1, as by the optimizers")
    return step - 1


def half_cosine(count: int, steps: int) -> float:
    """Go from 1 to 0 in `steps`."""
    return 0.5 * (1.0 + math.cos(math.pi * count / steps))


def _plain(value: Any) -> Any:
    """Return a field's value as JSON has it."""
    if isinstance(value, Schedule):
        return value._definition()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
