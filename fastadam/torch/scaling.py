"""`grad_scale` and `found_inf`, which users and scalers set on an optimizer as on torch's fused one."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class ScalingAttribute:
    """An attribute that an optimizer has once it is set, and which its next step reads."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        try:
            return optimizer._memo.scaling[self._name]
        except KeyError:
            raise AttributeError(f"{self._name!r} was not set on this optimizer") from None

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer._memo.scaling[self._name] = value

    def __delete__(self, optimizer: Any) -> None:
        try:
            del optimizer._memo.scaling[self._name]
        except KeyError:
            raise AttributeError(f"{self._name!r} was not set on this optimizer") from None


class Scaling(NamedTuple):
    """What a step does about loss scaling.

    Attributes
    ----------
    divisor : float
        The gradients are divided by it, on the way.
    skips : bool
        Whether infinities were found, so that nothing is stepped.
    """

    divisor: float
    skips: bool


def read(values: Mapping[str, Any], grad_scale: Any) -> Scaling:
    """Return what was set and given, checked.

    Parameters
    ----------
    values : mapping
        ``"grad_scale"`` and ``"found_inf"``; missing, or None, is the same as not set.
    grad_scale : float or Tensor
        What the step was given; it comes on top.

    Raises
    ------
    TypeError, ValueError
        If one is no number, or a scale is not positive and finite.
    """
    given = _number("grad_scale", grad_scale)
    attributes = (_number(f"optimizer.{name}", values.get(name)) for name in ("grad_scale", "found_inf"))
    divisor, found = attributes
    if given is None or not 0 < given < math.inf:
        raise ValueError(f"grad_scale must be positive and finite, got {grad_scale!r}")
    if divisor is not None and not 0 < divisor < math.inf:
        raise ValueError(
            f"optimizer.grad_scale must be positive and finite, got {values['grad_scale']!r}; without it (or with "
            f"None) gradients are taken as they are"
        )
    return Scaling(given if divisor is None else given * divisor, bool(found))


def _number(name: str, value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is not None and not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a tensor of one element or a number, got {value!r}")
    return None if value is None else float(value)
