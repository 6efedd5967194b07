"""`grad_scale` and `found_inf`, which users and scalers set on an optimizer as on torch's fused one."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadam.step.backend import Call
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.torch.part import Part
from fastadam.torch.tensors import is_aligned, is_plain, same_layout


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
        memo.scaling[self._name] = value
        memo.changed()

    def __delete__(self, optimizer: Any) -> None:
        memo = optimizer._memo
        try:
            del memo.scaling[self._name]
        except KeyError:
            raise AttributeError(f"{self._name!r} was not set on this optimizer") from None
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


def fused_step(parts: Sequence[Part], hypers: Sequence[Hyperparameters], divisor: float) -> list[Call]:
    """Return the native calls that take a step with torch's fused kernels, which divide the gradients in place.

    Parameters
    ----------
    parts : sequence of Part
    hypers : sequence of Hyperparameters
        Of each group.
    divisor : float

    Notes
    -----
    Those kernels take no notice of strides: they get copies of what lies otherwise than they take it, and what
    they have written is copied back. A gradient that several parameters have is divided once.
    """
    calls: list[Call] = []
    divided: set[int] = set()
    for part in parts:
        calls.append(functools.partial(Tensor.add_, part.counter, 1))
        if part.has_memory:
            calls += _fused_calls(part, hypers[part.group], 1.0 if part.read.data_ptr() in divided else divisor)
            divided.add(part.read.data_ptr())
    return calls


def _fused_calls(part: Part, hyper: Hyperparameters, divisor: float) -> list[Call]:
    """Return the calls that step one parameter, whose steps are counted already."""
    before, after = list[Call](), list[Call]()
    param, *moments = part.written
    grad = part.read
    tensors = [param, grad, *moments]
    if not (part.lies_plainly and is_plain(grad) and is_aligned(grad) and same_layout(grad, param)):
        copies = [torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in tensors]
        for tensor, copy in zip(tensors, copies, strict=True):
            before.append(functools.partial(Tensor.copy_, copy, tensor))
            after.append(functools.partial(Tensor.copy_, tensor, copy))
        tensors = copies
    if param.is_complex():
        tensors = [torch.view_as_real(tensor) for tensor in tensors]
    step = torch.empty((), dtype=torch.float32, device=param.device)
    before.append(functools.partial(Tensor.copy_, step, part.counter.reshape(())))
    fused = functools.partial(
        torch._fused_adamw_ if hyper.decoupled_weight_decay else torch._fused_adam_,
        *([tensor] for tensor in tensors[:4]),
        tensors[4:],
        [step],
        lr=hyper.lr,
        beta1=hyper.betas[0],
        beta2=hyper.betas[1],
        weight_decay=hyper.weight_decay,
        eps=hyper.eps,
        amsgrad=hyper.amsgrad,
        maximize=hyper.maximize,
        grad_scale=torch.tensor(divisor, dtype=torch.float32, device=param.device),
    )
    return [*before, fused, *after]


def _number(name: str, value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if value is not None and not isinstance(value, numbers.Real):
        raise TypeError(f"optimizer.{name} must be a tensor of one element or a number, got {value!r}")
    return None if value is None else float(value)
