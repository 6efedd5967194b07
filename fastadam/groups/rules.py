"""Options by name: what a group dict gives as a mapping of patterns to values, shared out among its parameters."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fastadam.memory.nesting import MOST_LISTED
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import Hyperparameters


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern stands for a parameter.

    Parameters
    ----------
    pattern : str
        The name itself; a container that it is in (``"layers.0"``, for ``"layers.0.w"``); or either with ``*`` for
        any characters, dots among them, ``?`` for one, ``[...]`` for one of several.
    name : str
        The parameter's: its path.
    """
    if name == pattern or name.startswith(f"{pattern}."):
        return True
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


class Places:
    """Finds the parameters that patterns stand for, without comparing every pattern with every name.

    Parameters
    ----------
    names : sequence of str
        Of the parameters.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._order = sorted(range(len(names)), key=names.__getitem__)
        self._sorted = [names[place] for place in self._order]

    def of(self, pattern: str) -> list[int]:
        """Return the places of the parameters that a pattern stands for (see `matches`), in order."""
        # All begin as the pattern does, up to its first sign for other characters; sorted, they are together.
        head = re.split(r"[*?[]", pattern, maxsplit=1)[0]

        def beginning(name: str) -> str:
            return name[: len(head)]

        low = bisect_left(self._sorted, head, key=beginning)
        high = bisect_right(self._sorted, head, lo=low, key=beginning)
        return sorted(place for place in self._order[low:high] if matches(pattern, self._names[place]))


def by_name(
    keys: Sequence[str],
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    names: Sequence[str] | None,
    where: str,
) -> list[tuple[Hyperparameters, list[int]]]:
    """Share options out among the parameters of a group.

    Parameters
    ----------
    keys : sequence of str
        The options that are given so. The last pattern that stands for a parameter counts, and the default where
        none does.
    options : mapping
        All options of the group.
    defaults : mapping
        Values for those parameters.
    names : sequence of str, or None
        Of the parameters.
    where : str
        Prefix of error messages.

    Returns
    -------
    list of (Hyperparameters, list of int)
        The sets of options that differ, each with the places of its parameters, in the order of their first ones.

    Raises
    ------
    TypeError, ValueError
        If there are no names, a pattern stands for no parameter, or a value is not what it must be.
    """
    rules = {key: options[key] for key in keys}
    if names is None:
        raise TypeError(
            f"{where}{keys[0]} is given by name, and the parameters have no names; give them in a "
            f"mapping, or as (name, array) pairs"
        )
    values = {key: [defaults[key]] * len(names) for key in rules}
    found = Places(names)
    for key, rule in rules.items():
        for pattern, value in list(rule.items()):
            hyperparameters.check({**defaults, key: value}, f"{where}{key}[{pattern!r}]: ")
            places = found.of(pattern)
            if not places:
                raise ValueError(
                    f"{where}{key} has the pattern {pattern!r}, which stands for no parameter; there are "
                    f"{', '.join(map(repr, names[:MOST_LISTED]))}{' and others' if names[MOST_LISTED:] else ''}"
                )
            for place in places:
                values[key][place] = value
    shared: dict[tuple[Any, ...], tuple[Hyperparameters, list[int]]] = {}
    for place in range(len(names)):
        own = {**options, **{key: values[key][place] for key in rules}}
        hyper = hyperparameters.check(own, where)
        same = tuple((id(value),) if callable(value) else value for value in hyper)
        shared.setdefault(same, (hyper, []))[1].append(place)
    return list(shared.values())
