"""The options in an optimizer's `param_groups`: read, compared and checked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import Hyperparameters

REFUSED = {
    "capturable": "it is for CUDA graphs, and fastadam.torch counts steps and computes coefficients on the host",
    "differentiable": "the step runs outside of autograd; use torch.optim.Adam to differentiate through it",
}
# All options of a group, as a tuple to compare.
read = operator.itemgetter(*hyperparameters.KEYS, *REFUSED)


def check(group: Mapping[str, Any], where: str) -> Hyperparameters:
    """Check the options of a group; one-element tensors count as the numbers in them.

    Parameters
    ----------
    group : mapping
    where : str
        Prefix of error messages.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If one is out of range or not supported.
    """
    for name, reason in REFUSED.items():
        if group[name]:
            raise RuntimeError(f"{where}{name}=True is not supported: {reason}")
    options = {name: _number(group[name]) for name in hyperparameters.KEYS}
    for name in ("amsgrad", "maximize", "decoupled_weight_decay"):
        options[name] = bool(options[name])
    options["betas"] = tuple(_number(beta) for beta in group["betas"])
    if callable(options["lr"]):
        raise TypeError(f"{where}lr must be a number, got {options['lr']!r}; use a scheduler of torch.optim")
    return hyperparameters.check(options, where)


def check_all(groups: Sequence[Mapping[str, Any]]) -> list[Hyperparameters]:
    """Check the options of all groups (see `check`)."""
    return [check(group, f"param_groups[{i}]: ") for i, group in enumerate(groups)]


def are_fixed(options: tuple[Any, ...]) -> bool:
    """Whether no option of those that `read` found can change and stay the same object, as a tensor can."""
    betas = options[hyperparameters.KEYS.index("betas")]
    return type(betas) is tuple and all(
        isinstance(value, bool | int | float | str | None) for value in (*options, *betas) if value is not betas
    )


def _number(value: Any) -> Any:
    """Return the number in a one-element tensor; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
