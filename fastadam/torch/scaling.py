"""`grad_scale` and `found_inf`, which users and scalers set on an optimizer as for torch's fused step."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadam.torch.tensors import overlaps_itself


class ScalingAttribute:
    """An attribute that an optimizer has once it is set, and of which its next step takes notice."""

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
        memo = optimizer._memo
        memo.scaling = {**memo.scaling, self._name: value}
        memo.changed()

    def __delete__(self, optimizer: Any) -> None:
        memo = optimizer._memo
        if self._name not in memo.scaling:
            raise AttributeError(f"{self._name!r} was not set on this optimizer")
        memo.scaling = {name: value for name, value in memo.scaling.items() if name != self._name}
        memo.changed()


class Scaling(NamedTuple):
    """What a step does about loss scaling.

    Attributes
    ----------
    divisor : float or None
        The gradients are divided by it, in place.
    skips : bool
        Whether infinities were found, so that nothing is stepped.
    """

    divisor: float | None = None
    skips: bool = False

    @property
    def factor(self) -> float:
        """What the step multiplies gradients by."""
        return 1.0 if self.divisor is None else 1.0 / self.divisor

    def calls(self, params: Iterable[Tensor]) -> list[Callable[[], object]]:
        """Return native calls that divide the parameters' gradients, each one once, after the step.

        They are made in place; one that cannot be written (expanded, or made in inference mode) is exchanged.
        """
        if self.divisor is None:
            return []
        calls: dict[int, Callable[[], object]] = {}
        for param in params:
            grad = param.grad
            if grad is None or id(grad) in calls:
                continue
            if overlaps_itself(grad) or (grad.is_inference() and not torch.is_inference_mode_enabled()):
                calls[id(grad)] = functools.partial(setattr, param, "grad", grad / self.divisor)
            else:
                calls[id(grad)] = functools.partial(Tensor.div_, grad, self.divisor)
        return list(calls.values())


def read(values: Mapping[str, Any]) -> Scaling:
    """Return what was set, checked.

    Parameters
    ----------
    values : mapping
        ``"grad_scale"`` and ``"found_inf"``; missing, or None, is the same as not set.

    Raises
    ------
    TypeError, ValueError
        If one is no number, or the scale is not positive and finite.
    """
    divisor, found = (_number(name, values.get(name)) for name in ("grad_scale", "found_inf"))
    if divisor is not None and not 0 < divisor < math.inf:
        raise ValueError(
            f"optimizer.grad_scale must be positive and finite, got {values['grad_scale']!r}; without it (or with "
            f"None) gradients are taken as they are"
        )
    return Scaling(divisor, bool(found))


def _number(name: str, value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is not None and not isinstance(value, numbers.Real):
        raise TypeError(f"optimizer.{name} must be a tensor of one element or a number, got {value!r}")
    return None if value is None else float(value)
