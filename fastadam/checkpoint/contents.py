"""What a checkpoint holds: an optimizer's tensors, as they are, and what the metadata say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastadam.checkpoint.format import PARAM, check_unchanged, stored_shape
from fastadam.groups.contents import Contents
from fastadam.memory.arrays import Array
from fastadam.step import hyperparameters
from fastadam.step.plan import KEPT

NOTE = "lr is null where it was a function, which a file cannot hold"


def definition_of(lr: Any) -> dict[str, Any] | None:
    """Return the definition of a schedule that has one; None of numbers and other functions."""
    if not callable(lr):
        return None
    from fastadam.schedules import Schedule  # not imported where there is none

    try:
        return lr.to_dict() if isinstance(lr, Schedule) else None
    except TypeError:  # of a class of the user's own
        return None


def encode_extra(extra: Any) -> str:
    """Return what the user wants to save along as JSON.

    Raises
    ------
    TypeError, ValueError
        If it is no mapping, or would not come back as it is.
    """
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra must be a mapping, got {extra!r} of type {type(extra).__name__}")
    plain = dict(extra)
    try:
        text = json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"extra cannot be saved as JSON: {error}; use finite numbers, strings, lists, dicts") from error
    # Without this, numbers as keys and tuples would silently come back as strings and lists.
    if json.loads(text) != plain:
        raise ValueError(
            f"extra would be another one after loading, {text:.200}; use strings as keys, and lists for tuples"
        )
    return text


def collect(contents: Contents, params: bool) -> tuple[dict[str, tuple[Array, list[int]]], list[dict[str, Any]]]:
    """Return the tensors, as live 1-D reals with the shapes to save, and what the metadata say of groups."""
    saved = contents.saved(copy=False)
    tensors: dict[str, tuple[Array, list[int]]] = {}
    groups = []
    for group, options in zip(contents.groups, saved["param_groups"], strict=True):
        members = []
        for position, member in zip(options["params"], group.members, strict=True):
            check_unchanged(member)
            key = str(position) if member.name is None else member.name
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"the name of {member.label} cannot be saved as UTF-8: {error}") from error
            entry = saved["state"].get(position, {})
            found = {PARAM: member.array} if params else {}
            found.update((name, entry[name]) for name in KEPT if name in entry)
            shape = stored_shape(member.shape, member.dtype)
            tensors.update(
                (f"{kind}/{key}", (member.device.as_reals(array), shape)) for kind, array in found.items()
            )
            members.append(
                {
                    "name": member.name,
                    "shape": list(member.shape),
                    "dtype": member.dtype.name,
                    "step": int(entry.get("step", 0)),
                }
            )
        kept = {name: options[name] for name in hyperparameters.KEYS}
        kept["lr"] = None if callable(kept["lr"]) else kept["lr"]
        groups.append({**kept, "params": members})
    # In the library's own order: wide numbers first, so that all of them are aligned in the file, then by name.
    return dict(sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0]))), groups
