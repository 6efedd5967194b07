"""What users give in the place of tensors, and what to do about it, which torch's own errors do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.formats import ELEMENTS
from fastadam.memory.packed import Packed
from fastadam.memory.parameter import Parameter
from fastadam.memory.remedies import looks_like_an_array
from fastadam.memory.words import a_name_of, shown
from fastadam.step.hyperparameters import DEFAULTS, KEYS, as_real, as_scalar

# The arguments that can be given by position, in order.
BY_POSITION = ("params", *KEYS[:5])


def refuse_arguments(given: Mapping[str, Any], error: TypeError | IndexError) -> NoReturn:
    """Raise an error that says what to do about the arguments of an optimizer that torch has refused.

    Parameters
    ----------
    given : mapping
        The arguments by name.
    error : TypeError or IndexError
        With which torch has refused them; raised itself where nothing more is known.
    """
    params = given.get("params", [])
    if isinstance(params, Mapping):
        remedy = "give its items, by which tensors have names: params.items()"
        if "params" in params:
            remedy = "put group dicts in a list: [params]"
        raise TypeError(f"params is {a_name_of(params)}; {remedy}") from error
    kind = type(params)
    is_number = isinstance(params, np.generic) or not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__"))
    if not isinstance(params, Tensor) and (_is_array(params) or is_number):
        raise TypeError(
            f"params is {a_name_of(params)}, and must be an iterable of tensors; {_remedy(params)}"
        ) from error
    betas = given.get("betas", DEFAULTS.betas)
    if isinstance(betas, str) or not hasattr(type(betas), "__getitem__") or len(betas) < 2:
        raise TypeError(
            f"betas must be a pair of numbers, got {shown(betas)}; try betas={DEFAULTS.betas}"
        ) from error
    numbers = {name: given.get(name, 0.0) for name in ("lr", "eps", "weight_decay")}
    for name, number in {**numbers, "betas[0]": betas[0], "betas[1]": betas[1]}.items():
        if not isinstance(number, Tensor):
            as_real(name, as_scalar(number))
    raise error


def refuse_group(group: Any, error: TypeError) -> NoReturn:
    """Raise an error that says what to do about arrays and lists in a group that torch has refused.

    Parameters
    ----------
    group : object
        What was given; under ``"params"`` torch has put a list by now.
    error : TypeError
        Raised itself where there is none: of numbers and words, torch says enough.
    """
    params = group.get("params") if isinstance(group, dict) else None
    for i, item in enumerate(params if isinstance(params, list) else ()):
        value = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if not isinstance(value, Tensor) and (_is_array(value) or isinstance(value, list | tuple | Mapping)):
            raise TypeError(f"{error} (params[{i}]); {_remedy(value)}") from error
    raise error


def refuse_to_clip(parameters: Iterable[Any], error: AttributeError) -> NoReturn:
    """Raise an error that says what to do about the first thing that has no ``grad`` to be clipped."""
    for i, param in enumerate(parameters):
        if not isinstance(param, Tensor):
            remedy = _remedy(param)
            if _is_array(param):
                remedy = "clip arrays, which are gradients themselves, with fastadam.clip_grad_norm"
            raise AttributeError(f"parameters[{i}] is {a_name_of(param)}, not a tensor; {remedy}") from error
    raise error


def _is_array(value: Any) -> bool:
    """Whether a value is for `fastadam.Adam`."""
    return isinstance(value, np.ndarray | Packed | Parameter) or looks_like_an_array(value)


def _remedy(value: Any) -> str:
    """Say what to do about a value that is no tensor."""
    # (PyTorch takes none of NumPy's arrays of bfloat16.)
    is_taken = type(value) is np.ndarray and value.dtype.name in ELEMENTS and value.dtype.kind in "fc"
    if is_taken and value.flags.writeable:
        return "use fastadam.Adam for arrays, or a tensor over the array: torch.from_numpy(w).requires_grad_()"
    if isinstance(value, float | int | np.generic):
        return "make it a tensor, and go on with that: w = torch.tensor(float(w), requires_grad=True)"
    if _is_array(value):
        return "use fastadam.Adam for arrays"
    if isinstance(value, list | tuple | Mapping):
        return "give all tensors in one list"
    if isinstance(value, torch.nn.Module):
        return "give its parameters: model.parameters()"
    return f"give a tensor in the place of {shown(value)}"
