"""Reads what the user gives as parameters: arrays in containers, packed buffers, group dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fastadam.memory import nesting, remedies
from fastadam.memory.devices import is_array
from fastadam.memory.jax_arrays import refuse_parameter
from fastadam.memory.nesting import Nesting, is_container
from fastadam.memory.packed import Packed
from fastadam.memory.parameter import Parameter
from fastadam.memory.remedies import WRITTEN
from fastadam.memory.words import a_name_of, shown
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import KEYS, Hyperparameters

# They say what is in a dict by now, as often as they are asked.
VIEWS_OF_DICTS: tuple[type, ...] = (type({}.values()), type({}.items()))


class Given(NamedTuple):
    """The parameters of one group, read.

    Attributes
    ----------
    nesting : Nesting
        How the user gave them.
    names : sequence of str, or None
    values : sequence
        The arrays or `Parameter` objects, not yet checked; those of a packed buffer are its views.
    packed : Packed or None
        The packed buffer, if it was one.
    """

    nesting: Nesting
    names: tuple[str, ...] | None
    values: tuple[Any, ...]
    packed: Packed | None

    def at(self, places: Iterable[int]) -> Given:
        """Return some of them, in another order."""
        names = None if self.names is None else tuple(self.names[place] for place in places)
        return Given(self.nesting, names, tuple(self.values[place] for place in places), None)


def split_groups(params: Any) -> list[dict[str, Any]]:
    """Return the group dicts that `params` stands for, each with at least the key ``"params"``.

    Parameters
    ----------
    params : object
        The first argument of `fastadam.Adam`, in any of its forms.

    Raises
    ------
    TypeError, ValueError
        If it is none of those forms, could be two of them, or is empty.
    """
    if isinstance(params, Packed | Mapping | Parameter) or is_array(params):
        return [{"params": params}]
    items = _items(params, "params")
    if not items:
        raise ValueError("params is empty; an optimizer needs at least one array")
    groups = [isinstance(item, Mapping) and "params" in item for item in items]
    if all(groups):
        return [dict(item) for item in items]
    for i, item in enumerate(items):
        if isinstance(item, Mapping) and not groups[i] and (any(groups) or _has_options(item)):
            raise ValueError(
                f"param_groups[{i}]: the group has no 'params'; it has {sorted(map(str, item))}. A list of dicts "
                f"is one of group dicts, each with 'params', or a nesting of arrays, in which no dict has 'params'"
            )
    if any(groups):
        raise TypeError(
            "params mixes group dicts and arrays; put each array into a group: {'params': [array]}; or, if it is "
            "a nesting of arrays, give the key 'params' another name"
        )
    # As it was given, where it can be read again: what it holds is looked at in later steps, too.
    return [{"params": params if isinstance(params, (list, tuple, *VIEWS_OF_DICTS)) else items}]


def _has_options(item: Mapping[Any, Any]) -> bool:
    """Whether a dict has options of a group, and not parameters that are called so."""
    return any(
        key in KEYS and not (is_container(value) or isinstance(value, Parameter) or is_array(value))
        for key, value in item.items()
    )


def read_group(
    given: Mapping[str, Any], defaults: Mapping[str, Any], where: str
) -> tuple[Given, list[tuple[Hyperparameters, list[int]]]]:
    """Read a group dict.

    Parameters
    ----------
    given : mapping
        ``"params"`` and any of the options.
    defaults : mapping
        Values of the options that `given` leaves out.
    where : str
        Prefix of error messages.

    Returns
    -------
    given : Given
    options : list of (Hyperparameters, list of int)
        All options that parameters of it have, checked, with the places of those that have them: one entry, unless
        options are given by name.

    Raises
    ------
    TypeError, ValueError
        If something in it is not what it must be. Arrays are looked at later.
    """
    if "params" not in given:
        raise ValueError(f"{where}the group has no 'params'; it has {sorted(map(str, given))}")
    known = ("params", *KEYS)
    unknown = [key for key in given if key not in known]
    if unknown:
        holds = is_container(given[unknown[0]]) or is_array(given[unknown[0]])
        nested = ", or, for a nesting of arrays, give the key 'params' another name" if holds else ""
        raise ValueError(f"{where}unknown option {unknown[0]!r}; known are {', '.join(known)}{nested}")
    spoiled = [key for key in defaults if key not in KEYS]
    if spoiled:
        raise ValueError(f"{where}defaults have an unknown option {spoiled[0]!r}; known are {', '.join(KEYS)}")
    for key, value in hyperparameters.DEFAULTS._asdict().items():
        if key not in defaults and key not in given:
            raise ValueError(
                f"{where}neither the group nor optimizer.defaults has the option {key!r}; give it in the group, "
                f"or put it back, such as optimizer.defaults[{key!r}] = {value!r}"
            )
    options = {**defaults, **given}
    keys = [key for key in KEYS if _is_by_name(options[key])]
    if not keys:
        hyper = hyperparameters.check(options, where)
        read = read_params(given["params"], where)
        return read, [(hyper, list(range(len(read.values))))]
    read = read_params(given["params"], where)
    if read.packed is not None:
        raise ValueError(
            f"{where}options by name are not possible over a packed buffer, which is stepped in one piece; pack "
            f"each group by itself"
        )
    from fastadam.groups.rules import by_name  # not imported where there are none

    return read, by_name(keys, options, defaults, read.names, where)


def _is_by_name(value: Any) -> bool:
    """Whether an option's value is a mapping of patterns."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(key, str) for key in value)


def read_params(params: Any, where: str) -> Given:
    """Return the parameters of one group.

    Parameters
    ----------
    params : object
        The group's ``"params"``: an array, a `Parameter`, a `Packed`, ``(name, value)`` pairs, or nested
        containers of arrays.
    where : str
        Prefix of error messages.

    Raises
    ------
    TypeError, ValueError
        If it is none of those, or there is no array in it.
    """
    name = f"{where}params"
    if isinstance(params, Packed):
        names = None if params.names is None else tuple(params.names)
        return Given(params.nesting, names, tuple(params.param_views), params)
    if not (isinstance(params, Parameter | Mapping) or is_array(params)):
        items = _items(params, name)
        for i, item in enumerate(items):
            if isinstance(item, Packed):
                raise TypeError(
                    f"{name}[{i}] is packed; give a packed buffer by itself, or as the 'params' of a "
                    f"group of its own: [{{'params': flat}}, ...]"
                )
            _refuse_group(item, f"{name}[{i}]")
        params = nesting.as_pairs(params if isinstance(params, tuple) else items, name)
    _refuse_group(params, name)
    found, leaves, _ = nesting.read(params, name)
    if not leaves:
        raise ValueError(f"{name} is empty; a group needs at least one array")
    for place, path in enumerate(found.paths):
        if path.endswith(".params"):
            _refuse_leaf(found, place, name)
    return Given(found, found.names, tuple(leaves), None)


def _refuse_group(value: Any, name: str) -> None:
    """Refuse what can be read as a group dict, where none can be."""
    if isinstance(value, Mapping) and "params" in value:
        raise TypeError(
            f"{name} is a single dict with the key 'params'; put group dicts in a list, [{{'params': ...}}], at "
            f"the top; or, if it is a nesting of arrays, give what is under the key, or give the key another name"
        )


def _refuse_leaf(found: Nesting, place: int, name: str) -> None:
    """Refuse a parameter whose key is ``"params"``."""
    for each in found.containers:
        if place in each.children and each.is_mapping and each.keys[each.children.index(place)] == "params":
            raise TypeError(
                f"{name} at {each.path!r} is a dict with the key 'params', and an array under it; put group dicts "
                f"in a list at the top; or, if it is a nesting of arrays, give the key another name"
            )


def _items(params: Any, name: str) -> list[Any]:
    """Return an iterable's items, refusing those that are iterable by accident."""
    if isinstance(params, set | frozenset):
        raise TypeError(f"{name} is a set, which has no order; use a list or a mapping of names")
    refuse_parameter(params, name)
    if remedies.looks_like_an_array(params):
        raise TypeError(f"{name} {remedies.not_an_array(params, WRITTEN)}")
    if remedies.are_numbers(params) and len(params) > 1:
        first = a_name_of(params[0])
        raise TypeError(
            f"{name} is {a_name_of(params)} of numbers (parameter 0 is {first}, not a NumPy array); "
            f"{remedies.remedy_for(params, WRITTEN)}"
        )
    if isinstance(params, str | bytes) or not isinstance(params, Iterable):
        raise TypeError(
            f"{name} must be an array, an iterable of arrays, a mapping of names to arrays, containers of these, "
            f"or a list of group dicts; got {shown(params)} of type {type(params).__name__}: "
            f"{remedies.remedy_for(params, WRITTEN)}"
        )
    return list(params)
