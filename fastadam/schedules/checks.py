"""Checks of what a schedule is made of."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """Return a finite number within bounds, as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be finite, got {value!r}")
    if not least <= found <= most:
        bounds = f"in [{least}, {most}]" if most < math.inf else f"at least {least}"
        raise ValueError(f"{name} must be {bounds}, got {value!r}")
    return found


def rate(name: str, value: Any) -> float:
    """Return a number that is not negative."""
    return number(name, value, least=0)


def share(name: str, value: Any) -> float:
    """Return a number from 0 to 1."""
    return number(name, value, least=0, most=1)


def positive(name: str, value: Any) -> float:
    """Return a number above 0."""
    found = number(name, value)
    if found <= 0:
        raise ValueError(f"{name} must be more than 0, got {value!r}")
    return found


def whole(name: str, value: Any, least: int) -> int:
    """Return a whole number, at least `least`, as an int."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be a whole number, got {value!r} of type {type(value).__name__}; give it as an int"
        )
    found = operator.index(value)
    if found < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return found


def flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def listed(name: str, value: Any) -> list[Any]:
    """Return what an iterable holds; mappings and strings are none."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list or a tuple, got {value!r}")
    return list(value)
