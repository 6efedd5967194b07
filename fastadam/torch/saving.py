"""Averages in state dicts, beside what torch has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastadam.memory.structs import AVERAGE
from fastadam.torch.averages import Averages


def with_averages(state_dict: dict[str, Any], params: Sequence[Tensor], averages: Averages) -> dict[str, Any]:
    """Return torch's state dict with the average of each parameter that has state.

    Parameters
    ----------
    state_dict : dict
        What torch's method has returned for the optimizer.
    params : sequence of Tensor
        Of all groups.
    averages : Averages
    """
    kept, state = averages.all(), dict(state_dict["state"])
    for key, param in zip(keys_of(state_dict), params, strict=True):
        if isinstance(state.get(key), dict) and param in kept:
            state[key] = {**state[key], AVERAGE: kept[param]}
    return {**state_dict, "state": state}


def split(state_dict: Mapping[str, Any], params: Sequence[Tensor]) -> tuple[dict[str, Any], list[Tensor | None]]:
    """Return a state dict without averages, for torch's method, and the average of each parameter or None.

    Raises
    ------
    ValueError
        If an average is not of its parameter's shape.
    """
    keys = keys_of(state_dict)
    state = dict(state_dict["state"])
    found: list[Tensor | None] = [None] * len(params)
    if len(keys) == len(params):  # else torch refuses it
        for i, key in enumerate(keys):
            entry = state.get(key)
            if isinstance(entry, dict) and AVERAGE in entry:
                found[i] = entry[AVERAGE]
                state[key] = {name: value for name, value in entry.items() if name != AVERAGE}
        Averages.check_fit(params, found)
    return {**state_dict, "state": state}, found


def keys_of(state_dict: Mapping[str, Any]) -> list[Any]:
    """Return the keys of the entries of all parameters, in order."""
    return [key for group in state_dict["param_groups"] for key in group["params"]]
