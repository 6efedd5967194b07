"""Nested containers of arrays: the one place that says what is a container, and what lies in which.

`read` takes what holds the parameters apart, into a `Nesting` and a list of what is in it. By the nesting,
gradients in containers alike are read (`Nesting.read`), and others are made (`Nesting.build`). Nothing here
recurses, so no depth ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.views import NamedViews, Views
from fastadam.memory.words import a_name_of, counted, name_of

MOST_DEEP = 10_000  # containers within containers; the names of what lies in them grow with the depth
MOST_LISTED = 10


def is_container(value: Any) -> bool:
    """Whether `value` holds parameters or gradients, and is none itself: a mapping, a list, a tuple.

    The types decide, subclasses included: named tuples, ``OrderedDict``, what `fastadam.Packed` has as ``params``.
    A list of nothing but numbers is a parameter that was not made an array, and not taken for a container.
    """
    if not isinstance(value, _CONTAINERS):
        return False
    return not (isinstance(value, list | tuple) and value and all(isinstance(item, _NUMBERS) for item in value))


_CONTAINERS = (Mapping, list, tuple, Views)
_NUMBERS = (Number, np.generic)


def fields_of(value: Any) -> tuple[str, ...]:
    """Return the names of a named tuple's fields; () for everything else."""
    fields = getattr(type(value), "_fields", ()) if isinstance(value, tuple) else ()
    return fields if isinstance(fields, tuple) and len(fields) == len(value) else ()


class Container(NamedTuple):
    """One container of a nesting.

    Attributes
    ----------
    path : str
        Where it is; "" for the outermost.
    is_mapping : bool
        Whether items are found by key, else by position.
    keys : tuple of str
        Of a mapping its keys, in the order in which they were given; of a named tuple, or of pairs with names,
        these names; else ().
    children : tuple of int
        Of each item: the position of a leaf, or ``~n`` for the n-th container.
    """

    path: str
    is_mapping: bool
    keys: tuple[str, ...]
    children: tuple[int, ...]

    def describe(self) -> str:
        """Return how messages call it."""
        if self.is_mapping:
            return f"a mapping with {', '.join(map(repr, self.keys[:MOST_LISTED])) or 'nothing in it'}"
        return f"a list or tuple of {len(self.children)}"


class Nesting:
    """Which containers lie in which, and where their leaves are; without anything that was in them.

    Parameters
    ----------
    containers : iterable of tuple
        As `Container`, the outermost first and each before those within it; none where there is one leaf alone.
    paths : iterable of str
        Of each leaf, its keys and positions joined by dots.
    """

    def __init__(self, containers: Any, paths: Any) -> None:
        self.containers = tuple(Container(*each) for each in containers)
        self.paths: tuple[str, ...] = tuple(paths)

    def plain(self) -> tuple[Any, ...]:
        """Return what this is made of, for pickles: nothing of this library's."""
        return tuple(map(tuple, self.containers)), self.paths

    @property
    def is_nested(self) -> bool:
        """Whether there are containers within the outermost."""
        return len(self.containers) > 1

    @property
    def names(self) -> tuple[str, ...] | None:
        """The paths, where they say more than a position in one list does; else None."""
        return self.paths if self.is_nested or (self.containers and self.containers[0].keys) else None

    def with_only(self, leaves: Sequence[int]) -> Nesting:
        """Return the nesting of some of the leaves, in their order, without containers that are empty then."""
        numbers = {leaf: number for number, leaf in enumerate(leaves)}
        kept: dict[int, list[tuple[str, int]]] = {}  # of each container what stays in it, its key and itself
        for index in reversed(range(len(self.containers))):
            each = self.containers[index]
            keys = each.keys or ("",) * len(each.children)
            pairs = zip(keys, each.children, strict=True)
            found = [pair for pair in pairs if (pair[1] in numbers if pair[1] >= 0 else ~pair[1] in kept)]
            if found or not each.children:  # what was empty was given so
                kept[index] = found
        moved = {index: number for number, index in enumerate(sorted(kept))}
        containers = []
        for index in moved:
            each = self.containers[index]
            children = [numbers[child] if child >= 0 else ~moved[~child] for _, child in kept[index]]
            names = tuple(key for key, _ in kept[index]) if each.keys else ()
            containers.append(each._replace(keys=names, children=tuple(children)))
        return Nesting(containers, [self.paths[leaf] for leaf in leaves])

    def places(self) -> list[str]:
        """Return how one writes each leaf in Python, such as ``['layers'][0]``."""
        return self._written()[0]

    def _written(self, name: str = "") -> tuple[list[str], list[str]]:
        """Return how one writes each leaf and each container in Python, within an object of this name."""
        found = [""] * len(self.paths)
        at = [name] * len(self.containers)
        for index, each in enumerate(self.containers):
            for key, child in zip(each.keys or range(len(each.children)), each.children, strict=True):
                (found if child >= 0 else at)[child if child >= 0 else ~child] = f"{at[index]}[{key!r}]"
        return found, at

    def build(self, leaves: Sequence[Any], classes: Sequence[type | None], name: str) -> Any:
        """Return read-only containers around `leaves`: views for mappings and lists, tuples for tuples.

        Parameters
        ----------
        leaves : sequence
            One for each path.
        classes : sequence of type or None
            Of each container its type, where it was a tuple (see `read`).
        name : str
            How messages call what is returned.
        """
        made: list[Any] = [None] * len(self.containers)
        _, at = self._written(name)
        for index in reversed(range(len(made))):
            each = self.containers[index]
            items = [leaves[child] if child >= 0 else made[~child] for child in each.children]
            kind = classes[index]
            if kind is not None:
                made[index] = tuple.__new__(kind, items)
            else:
                if each.is_mapping or each.keys:
                    made[index] = NamedViews(dict(zip(each.keys, items, strict=True)), at[index])
                else:
                    made[index] = Views(items, at[index])
        return made[0]

    def read(self, given: Any, name: str) -> tuple[list[Any], dict[int, type]]:
        """Return the leaves of containers that are nested as these are.

        Parameters
        ----------
        given : object
            Mappings take the place of mappings, with the same keys in any order; lists and tuples of the same
            length that of lists and tuples. None stands for a container full of None.
        name : str
            How messages call it.

        Returns
        -------
        leaves : list
            In the order of `paths`.
        tuples : dict
            By the numbers of containers, the subclasses of tuple that have taken their place.

        Raises
        ------
        TypeError, ValueError
            If it is nested otherwise; the message says where.
        """
        tuples: dict[int, type] = {}
        found: list[Any] = [None] * len(self.paths)
        pending = [(0, given)] if self.containers else []
        if not self.containers:
            found[0] = given
        while pending:
            index, value = pending.pop()
            each = self.containers[index]
            items = _items_of(each, value, name)
            if isinstance(value, tuple) and type(value) is not tuple:
                tuples[index] = type(value)
            inner = []
            for child, item in zip(each.children, items, strict=True):
                if child >= 0:
                    found[child] = item
                elif item is not None:
                    inner.append((~child, item))
            pending += reversed(inner)
        return found, tuples


def _items_of(container: Container, value: Any, name: str) -> Sequence[Any]:
    """Return the items of what is given in the place of a container, in the container's order."""
    kind = type(value)
    if kind is dict and container.is_mapping and len(value) == len(container.keys):
        found = [value[key] for key in container.keys if key in value]
        if len(found) == len(value):
            return found
    elif (kind is list or kind is tuple) and not container.is_mapping and len(value) == len(container.children):
        return tuple(value)
    where = f"{name} at {container.path!r}" if container.path else name
    there = " there" if container.path else ""
    if container.is_mapping and isinstance(value, Mapping):
        keys = frozenset(container.keys)
        missing = [key for key in container.keys if key not in value]
        unexpected = [key for key in value if key not in keys]
        if missing or unexpected:
            raise ValueError(
                f"{where} has other names than the parameters{there}: missing {missing}, unexpected "
                f"{unexpected}; use None for a parameter without a gradient"
            )
        return [value[key] for key in container.keys]
    if container.is_mapping or not isinstance(value, list | tuple | Views):
        raise TypeError(
            f"{where} is {a_name_of(value)}, and the parameters{there} are {container.describe()}; nest gradients "
            f"as the parameters are, with None for a parameter without a gradient"
        )
    items = list(tuple.__iter__(value) if isinstance(value, tuple) else value)
    fields = fields_of(value)
    if fields and container.keys and fields != container.keys:
        raise ValueError(
            f"{where} is {a_name_of(value)} with the fields {fields}, and the parameters{there} have "
            f"{container.keys}; nest gradients as the parameters are"
        )
    if len(items) != len(container.children):
        raise ValueError(
            f"{where} has {counted(len(items), 'item')}, and the parameters{there} have "
            f"{len(container.children)}; nest gradients as the parameters are, with None for a parameter "
            f"without a gradient"
        )
    return items


def flat(names: Sequence[str] | None, count: int) -> Nesting:
    """Return the nesting of one mapping with these names, or without names of one list."""
    keys = () if names is None else tuple(names)
    outermost = Container("", names is not None, keys, tuple(range(count)))
    return Nesting([outermost], keys or map(str, range(count)))


def read(given: Any, name: str) -> tuple[Nesting, list[Any], list[type | None]]:
    """Take nested containers apart.

    Parameters
    ----------
    given : object
        A container, an array or another leaf; or what `as_pairs` returned. What is no container is a leaf.
    name : str
        How messages call it.

    Returns
    -------
    nesting : Nesting
    leaves : list
        What is in the containers, one for each path.
    classes : list of type or None
        Of each container its type, where it is a tuple; the outermost only where there are others in it, or it is
        a named one.

    Raises
    ------
    TypeError
        If a key is no string, or pairs are mixed with others.
    ValueError
        If a container is in two places, or within itself; if containers are nested too deep; or if two leaves have
        the same path.
    """
    containers: list[Container] = []
    children: list[list[int]] = []
    leaves: list[Any] = []
    paths: list[str] = []
    classes: list[type | None] = []
    seen: dict[int, int] = {}
    kept: list[Any] = [given]  # so that no identity is given to another object meanwhile
    # Of each container that is being read: its number and what is left in it.
    open_: list[tuple[int, Iterator[tuple[str, Any]]]] = []

    def enter(value: Any, path: str) -> int:
        """Note a leaf, or begin a container; return the number by which the one around it knows it."""
        if not (is_container(value) if open_ else isinstance(value, (*_CONTAINERS, _Pairs))):
            leaves.append(value)
            paths.append(path)
            return len(leaves) - 1
        keys, items, is_mapping = _take_apart(value, f"{name} at {path!r}" if path else name)
        if id(value) in seen and items:
            first = seen[id(value)]
            inside = ", which it is in" if first in [number for number, _ in open_] else ""
            before = f"at {containers[first].path!r}" if first else f"{name} itself"
            raise ValueError(
                f"{name} at {path!r} is the same {name_of(value)} as {before}{inside}; give each parameter once"
            )
        if len(open_) > MOST_DEEP:
            raise ValueError(f"{name} is nested more than {MOST_DEEP:,} deep; use fewer containers")
        seen[id(value)] = len(containers)
        kept.append(value)
        containers.append(Container(path, is_mapping, keys, ()))
        children.append([])
        classes.append(type(value) if isinstance(value, tuple) else None)
        open_.append((len(containers) - 1, iter(zip(keys or map(str, range(len(items))), items, strict=True))))
        return ~(len(containers) - 1)

    enter(given, "")
    while open_:
        index, items = open_[-1]
        item = next(items, None)
        if item is None:
            open_.pop()
            continue
        key, value = item
        path = f"{containers[index].path}.{key}" if index else key
        children[index].append(enter(value, path))
    made = (each._replace(children=tuple(own)) for each, own in zip(containers, children, strict=True))
    nesting = Nesting(made, paths)
    if nesting.is_nested:
        _check_paths(nesting, name)
    elif containers and not containers[0].keys:
        classes[0] = None  # a tuple of arrays is a list of them
    return nesting, leaves, classes


class _Pairs:
    """Pairs of names and values, which are the items of a mapping."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self.pairs = pairs


def as_pairs(items: Sequence[Any], name: str) -> Any:
    """Return what `read` takes for a list of ``(name, value)`` pairs; of other items, the same object.

    Raises
    ------
    ValueError
        If some items are pairs, and others are not.
    """
    named = [isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in items]
    if not any(named) or fields_of(items):
        return items
    if not all(named):
        raise ValueError(f"{name}[{named.index(False)}] has no name, others have; name all of them or none")
    return _Pairs(items)


def why_no_leaf(value: Any) -> str | None:
    """Return what to do about a leaf that is no array, but may hold some; None where that is not known."""
    if value is None:
        return "leave it out of the parameters and of the gradients"
    if isinstance(value, Iterator | set | frozenset):
        return "make a list of it"
    if hasattr(type(value), "__dataclass_fields__"):
        return (
            "give its fields as a dict: {field.name: getattr(value, field.name) for field in "
            "dataclasses.fields(value)}"
        )
    return None


def _take_apart(value: Any, where: str) -> tuple[tuple[str, ...], list[Any], bool]:
    """Return a container's names, its items, and whether it is a mapping."""
    if isinstance(value, _Pairs):
        return tuple(key for key, _ in value.pairs), [item for _, item in value.pairs], False
    if not isinstance(value, Mapping):
        return fields_of(value), list(tuple.__iter__(value) if isinstance(value, tuple) else value), False
    pairs = list(value.items())
    for key, _ in pairs:
        if not isinstance(key, str):
            raise TypeError(f"{where} has the key {key!r}; names must be strings")
    return tuple(key for key, _ in pairs), [item for _, item in pairs], True


def _check_paths(nesting: Nesting, name: str) -> None:
    """Refuse two leaves of the same path, which keys with dots can lead to."""
    first: dict[str, int] = {}
    for position, path in enumerate(nesting.paths):
        if path in first:
            places = nesting.places()
            raise ValueError(
                f"the name {path!r} would be that of {name}{places[first[path]]} and of {name}{places[position]}, "
                f"as dots join the keys; rename one of the keys"
            )
        first[path] = position
