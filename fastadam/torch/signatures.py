"""What our methods take beside the arguments of torch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastadam.step.after import Averaging
from fastadam.step.gradient_settings import Choices
from fastadam.step.hyperparameters import PRECISION
from fastadam.torch.sparse import SparseChoice


def with_choices(torchs: Callable[..., Any]) -> inspect.Signature:
    """Return torch's signature of a method with what we take behind its own parameters, to be given by name."""
    signature = inspect.signature(torchs)
    choices = Choices._field_defaults | Averaging._field_defaults | PRECISION | SparseChoice._field_defaults
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in choices.items()
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *ours])


def taken(options: dict[str, Any], fields: Any) -> dict[str, Any]:
    """Take the arguments of these names out of those that are torch's."""
    return {name: options.pop(name) for name in fields._fields if name in options}


def as_given(
    closure: Callable[[], Any] | None, grad_scale: Any, zero_grad: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a step as hooks are to see them: those that say anything."""
    options = {} if type(grad_scale) is float and grad_scale == 1.0 else {"grad_scale": grad_scale}
    if zero_grad is not False:
        options["zero_grad"] = zero_grad
    return () if closure is None else (closure,), options
