"""Reads what the user gives as parameters: one array, lists, mappings, pairs, packed buffers, group dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastadam.groups.members import Member
from fastadam.memory.arrived import make_own
from fastadam.memory.devices import is_array
from fastadam.memory.packed import Packed
from fastadam.memory.parameter import Parameter


def split_groups(params: Any) -> list[dict[str, Any]]:
    """Return the group dicts that `params` stands for, each with at least the key ``"params"``.

    Parameters
    ----------
    params : object
        The first argument of `fastadam.Adam`, in any of its forms.

    Raises
    ------
    TypeError
        If it is none of those forms.
    ValueError
        If it is empty.
    """
    if isinstance(params, Packed | Mapping | Parameter) or is_array(params):
        return [{"params": params}]
    items = _items(params, "params")
    groups = [isinstance(item, Mapping) for item in items]
    if not items:
        raise ValueError("params is empty; an optimizer needs at least one array")
    if not any(groups):
        return [{"params": items}]
    if not all(groups):
        raise TypeError("params mixes group dicts and arrays; put each array into a group: {'params': [array]}")
    return [dict(item) for item in items]


def read_members(params: Any, start: int, where: str) -> tuple[list[Member], Packed | None]:
    """Return the members of one group.

    Parameters
    ----------
    params : object
        The group's ``"params"``: an array, a `Parameter`, a `Packed`, a mapping, or an iterable of arrays,
        `Parameter` objects or ``(name, array)`` pairs.
    start : int
        Position of the first one in the optimizer; it appears in labels.
    where : str
        Prefix of error messages.

    Returns
    -------
    members : list of Member
    packed : Packed or None
        The packed buffer, if `params` is one.

    Raises
    ------
    TypeError, ValueError
        If something in it is no parameter.
    """
    if isinstance(params, Packed):
        names: Sequence[str | None] = params.names or [None] * len(params.shapes)
        triples = zip(names, params.param_views, params.grad_views, strict=True)
        return [
            Member(view, name, _label(name, start + i), grad_source=grad)
            for i, (name, view, grad) in enumerate(triples)
        ], params
    return [
        Member(value, name, _label(name, start + i)) for i, (name, value) in enumerate(_pairs(params, where))
    ], None


def take_as_own(groups: Iterable[Mapping[str, Any]]) -> None:
    """Give arrays that an unpickler made read-only memory of their own (see `fastadam.memory.arrived`).

    Parameters
    ----------
    groups : iterable of mapping
        Group dicts with the ``"params"`` as an optimizer keeps them: a `Packed`, or a list.
    """
    for group in groups:
        if not isinstance(group["params"], Packed):
            for _, value in _pairs(group["params"], ""):
                make_own(value)


def _pairs(params: Any, where: str) -> list[tuple[str | None, Any]]:
    """Return ``(name or None, value)`` for each item of a group's params."""
    if isinstance(params, Parameter) or is_array(params):
        return [(None, params)]
    if isinstance(params, Mapping):
        pairs = list(params.items())
        if "params" in params:
            raise TypeError(f"{where}params is a single dict with the key 'params'; put group dicts in a list")
    else:
        items = _items(params, f"{where}params")
        for i, item in enumerate(items):
            if isinstance(item, Packed):
                raise TypeError(
                    f"{where}params[{i}] is packed; give a packed buffer by itself, or as the 'params' of a "
                    f"group of its own: [{{'params': flat}}, ...]"
                )
        named = [isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in items]
        if not any(named):
            pairs = [(None, item) for item in items]
        elif all(named):
            pairs = items
        else:
            raise ValueError(
                f"{where}params[{named.index(False)}] has no name, others have; name all of them or none"
            )
    if not pairs:
        raise ValueError(f"{where}params is empty; a group needs at least one array")
    for name, _ in pairs:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"{where}params has the key {name!r}; names must be strings")
    return pairs


def _items(params: Any, name: str) -> list[Any]:
    """Return an iterable's items, refusing those that are iterable by accident."""
    if isinstance(params, set | frozenset):
        raise TypeError(f"{name} is a set, which has no order; use a list or a mapping of names")
    if isinstance(params, str | bytes) or not isinstance(params, Iterable):
        raise TypeError(
            f"{name} must be an array, an iterable of arrays, a mapping of names to arrays, or a list of group "
            f"dicts; got {params!r} of type {type(params).__name__}"
        )
    return list(params)


def _label(name: str | None, position: int) -> str:
    return f"parameter {position}" if name is None else f"parameter {name!r}"
