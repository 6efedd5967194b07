"""What is known of the containers that parameters were given in (see `fastadam.work.containers`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Held(NamedTuple):
    """A container, and what it held when it was last looked at.

    Attributes
    ----------
    container : dict, list or tuple
        Nothing can be exchanged in a tuple, but in what it holds.
    items : dict
        By key or position.
    place : str
        How one writes the container in Python.
    outer : int
        Position, in the list that it was found in, of the container around it; -1 where there is none.
    """

    container: Any
    items: dict[Any, Any]
    place: str
    outer: int


class Resized:
    """What a container is taken to hold in the place of an array that `fastadam.Adam.resize` has exchanged.

    Attributes
    ----------
    now : array
        The one to be put there.
    """

    __slots__ = ("now",)

    def __init__(self, now: Any) -> None:
        self.now = now


def now(item: Any) -> Any:
    """Return what is to be in a place of a container."""
    return item.now if isinstance(item, Resized) else item


def trees(held: Sequence[Held]) -> list[list[Held]]:
    """Return containers in lists, each of an outermost one and those within it."""
    found: list[list[Held]] = []
    for each in held:
        if each.outer < 0:
            found.append([])
        found[-1].append(each)
    return found


def exchanged(items: Mapping[Any, Any], exchanged: Mapping[int, Any]) -> dict[Any, Any]:
    """Return what a container is to hold."""
    found = {}
    for key, item in items.items():
        new = exchanged.get(id(now(item)))
        found[key] = item if new is None else Resized(new)
    return found
