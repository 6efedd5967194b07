"""Finds what a file or another library holds of each parameter, and says in one error all that does not fit."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fastadam.groups.members import Member

MOST_LISTED = 10


class Described(NamedTuple):
    """What is there of one parameter.

    Attributes
    ----------
    name : str or None
        Its name, where there are names.
    label : str
        How messages call it.
    arrays : sequence of (tuple of int, str)
        Shape and name of the dtype of each array that belongs to it.
    """

    name: str | None
    label: str
    arrays: Sequence[tuple[tuple[int, ...], str]]


def match(
    groups: Iterable[tuple[Sequence[Described], Sequence[Member]]],
    there: str,
    fits: Callable[[str, str], bool] = operator.eq,
) -> list[tuple[Member, int]]:
    """Return each parameter with the number of what belongs to it: by name where both have names, else in order.

    Parameters
    ----------
    groups : iterable of (sequence of Described, sequence of Member)
        What is there, and the parameters it is for; nothing is matched across groups.
    there : str
        How messages say where that is, such as ``"in the file"``.
    fits : callable, optional
        Whether a dtype there, the first argument, goes with that of a parameter; the default is equality.

    Returns
    -------
    list of (Member, int)
        The numbers count through all groups.

    Raises
    ------
    ValueError
        If some are missing, unexpected, or of another shape or dtype.
    """
    matched = []
    missing, unexpected, other = [], [], []
    start = 0
    for described, members in groups:
        if not described or described[0].name is None or not members or members[0].name is None:
            pairs = list(zip(members, range(len(described)), strict=False))
            missing += [member.label for member in members[len(described) :]]
            unexpected += [each.label for each in described[len(members) :]]
        else:
            numbers = {each.name: i for i, each in enumerate(described)}
            if len(numbers) < len(described):
                raise ValueError(f"two parameters {there} have the same name; give it names that differ, or none")
            names = {member.name for member in members}
            pairs = [(member, numbers[member.name]) for member in members if member.name in numbers]
            missing += [repr(member.name) for member in members if member.name not in numbers]
            unexpected += [each.label for each in described if each.name not in names]
        for member, i in pairs:
            for shape, dtype in described[i].arrays:
                if shape != member.shape or not fits(dtype, member.dtype.name):
                    ours = f"{member.dtype.name} {member.shape}"
                    other.append(f"{member.label} ({dtype} {shape} {there}, {ours} here)")
                    break
        matched += [(member, start + i) for member, i in pairs]
        start += len(described)
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape or dtype", other)]
    raise_for(problems, "it does not fit the optimizer's parameters")
    return matched


def raise_for(problems: Iterable[tuple[str, Sequence[str]]], what: str) -> None:
    """Raise a ValueError that lists the problems, if there are any.

    Parameters
    ----------
    problems : iterable of (str, sequence of str)
        Kinds of problems, and what has them.
    what : str
        The message's beginning.

    Raises
    ------
    ValueError
        If a kind of problem has occurred.
    """
    parts = []
    for problem, found in problems:
        if found:
            more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
            parts.append(f"{problem}: {', '.join(found[:MOST_LISTED])}{more}")
    if parts:
        raise ValueError(f"{what}: {'; '.join(parts)}")
