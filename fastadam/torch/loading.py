"""Compact state in state dicts that are loaded: torch would cast it to the parameters' dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fastadam.memory.structs import MOMENTS
from fastadam.step.hyperparameters import DEFAULTS, PRECISION
from fastadam.torch import options
from fastadam.torch.compact import BESIDE, converted, layout_of
from fastadam.torch.saving import keys_of
from fastadam.torch.tensors import DTYPES


class Carried:
    """A tensor of a state that torch's method hands through as it is.

    Parameters
    ----------
    tensor : Tensor
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def carried(groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a state dict for torch's method, with the compact state of these groups, or that of others, carried.

    Parameters
    ----------
    groups : sequence of mapping
        The optimizer's.
    state_dict : mapping
        Returned as it is where nothing in it is compact, nor is to be.

    Raises
    ------
    TypeError, ValueError
        If a saved option or tensor is not what it must be.
    """
    saved_groups = state_dict["param_groups"]
    keys, params = keys_of(state_dict), [param for group in groups for param in group["params"]]
    if len(saved_groups) != len(groups) or len(keys) != len(params):
        return state_dict  # torch refuses it
    state = dict(state_dict["state"])
    has_options = any(name in group for group in (*groups, *saved_groups) for name in PRECISION)
    if not (has_options or any(_has_more(state.get(key)) for key in keys)):
        return state_dict
    new_groups = []
    for saved, group in zip(saved_groups, groups, strict=True):
        rest = {name: value for name, value in saved.items() if name not in PRECISION}
        new_groups.append({**rest, **options.loaded(saved, group)})
    numbers = iter(keys)
    for saved, new, group in zip(saved_groups, new_groups, groups, strict=True):
        hyper = DEFAULTS._replace(**{name: new[name] for name in PRECISION if name in new})
        for param, key in zip(group["params"], numbers, strict=False):  # the numbers go on
            entry = state.get(key)
            if not isinstance(entry, dict) or param.dtype not in DTYPES:
                continue
            layout = layout_of(hyper, param.dtype)
            if layout.is_plain and not _is_compact(entry, saved):
                continue
            made = converted(entry, param, layout, f"state dict, the entry {key!r}")
            rest = {name: value for name, value in entry.items() if name not in (*MOMENTS, *BESIDE)}
            state[key] = {**rest, **{name: Carried(tensor) for name, tensor in made.items()}}
    return {**state_dict, "param_groups": new_groups, "state": state}


def _has_more(entry: Any) -> bool:
    """Whether a saved entry has masters or scales."""
    return isinstance(entry, dict) and any(name in entry for name in BESIDE)


def _is_compact(entry: Any, saved_group: Mapping[str, Any]) -> bool:
    """Whether a saved entry has state that torch would not read as it is meant."""
    return _has_more(entry) or saved_group.get("state_dtype") is not None


def unpack(state: Mapping[Any, Any]) -> None:
    """Put carried tensors into a state."""
    for entry in state.values():
        if isinstance(entry, dict):
            for name, value in entry.items():
                if type(value) is Carried:
                    entry[name] = value.tensor
