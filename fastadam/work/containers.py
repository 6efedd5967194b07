"""The dicts and lists that parameters were given in: an entry that is exchanged there is noticed.

After ``params["w"] = np.clip(params["w"], 0, 1)`` the model reads another array than the one that is stepped. So
each step compares what the containers hold with what they held, by identity.
"""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.groups.given import VIEWS_OF_DICTS
from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.memory.container_words import version_of, words_of
from fastadam.memory.devices import is_array
from fastadam.memory.nesting import MOST_DEEP, is_container
from fastadam.memory.parameter import Parameter
from fastadam.memory.words import name_of
from fastadam.step.backend import Call
from fastadam.work.held import Held, Resized, exchanged, now, trees

_KINDS = (dict, list, tuple)
_NOTHING = object()


class Containers:
    """The containers of one optimizer's parameters, as far as others than the optimizer have them.

    Nothing refers to a dict or list weakly, so these are kept, and what they hold with them, until they are empty.
    Those that nobody else has by the first step, such as a list that was written where it was given, are let go.

    Parameters
    ----------
    groups : Groups

    Attributes
    ----------
    are_same : callable or None
        Without arguments; whether all of them hold what they held. It says no before the first step, after a group
        was added, and as long as `look` finds something to refuse. None where there is nothing to compare.
    """

    __slots__ = ("_fresh", "_groups", "_watched", "are_same")

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._fresh: list[list[Held]] = []  # for each group that was added since the last look
        self._watched: list[Held] = []
        self.are_same: Callable[[], bool] | None = None

    def enter_calls(self, given: Iterable[Mapping[str, Any]]) -> list[Call]:
        """Return native calls that take up the containers of new groups.

        Parameters
        ----------
        given : iterable of mapping
            The group dicts.
        """
        found = []
        for one in given:
            params = one["params"]
            if isinstance(params, VIEWS_OF_DICTS):
                params = next(each for each in gc.get_referents(params) if isinstance(each, dict))
            if isinstance(params, _KINDS):
                found.append(_found_in(params, "params", {}))
        if not found:
            return []
        changed = {
            "are_same": _no,
            "_fresh": [*self._fresh, *found],
            "_watched": [*self._watched, *itertools.chain(*found)],
        }
        return [functools.partial(setattr, self, name, value) for name, value in changed.items()]

    def resize_calls(self, others: Mapping[int, Any]) -> list[Call]:
        """Return native calls by which others are to be in the place of arrays, by the identities of these.

        Who still has each container is found out anew: one that only the optimizer has cannot be put right.
        """
        if self.are_same is None:
            return []
        found = trees(self._watched)
        made = [[each._replace(items=exchanged(each.items, others)) for each in tree] for tree in found]
        return self._watch_calls(made)

    def remove_calls(self, gone: Iterable[Any]) -> list[Call]:
        """Return native calls that forget the containers in which there are no other parameters than these."""
        if self.are_same is None:
            return []
        taken = {id(each) for each in gone}
        kept = []
        for tree in trees(self._watched):
            leaves = [now(item) for each in tree for item in each.items.values()]
            if any(self._groups.position_of(leaf) is not None and id(leaf) not in taken for leaf in leaves):
                kept.append(tree)
        return self._watch_calls(kept)

    def _watch_calls(self, watched: Sequence[list[Held]]) -> list[Call]:
        changed = {
            "are_same": _no if watched else None,
            "_fresh": list(watched),
            "_watched": [*itertools.chain(*watched)],
        }
        return [functools.partial(setattr, self, name, value) for name, value in changed.items()]

    def look(self) -> None:
        """Look at what the containers hold, after `are_same` has said no, and compare with that from now on.

        Raises
        ------
        ValueError
            If a parameter was exchanged for something else, or there is an array that is none of the optimizer's.
        """
        self.are_same = _no
        known = self._watched[: len(self._watched) - sum(map(len, self._fresh))]
        held = [*known, *(each for new in self._fresh for each in _held_by_others(new))]
        self._fresh, self._watched = [], held
        before = {id(each.container): each.items for each in held}
        found: list[Held] = []
        for each in held:
            if each.outer < 0:
                found += _found_in(each.container, each.place, before, self._check)
        self._watched = found
        self.are_same = _comparison([each for each in found if not isinstance(each.container, tuple)])

    def _check(self, old: Any, new: Any, place: str) -> None:
        """Check what has taken the place of something else; `old` is `_NOTHING` where there was none."""
        position = self._groups.position_of(now(old))
        if isinstance(old, Resized) and position is not None:
            if new is not None and new is not old.now:
                self._refuse_resized(position, place)
        elif position is None:
            if old is not _NOTHING and (isinstance(old, Parameter | Resized) or is_array(old)):
                return  # one that was taken out of the optimizer
            is_leaf = isinstance(new, Parameter) or is_array(new)
            if is_leaf and self._groups.position_of(new) is None:
                what = "an array" if is_array(new) else "a Parameter"
                key = place.rpartition("[")[2].removesuffix("]").strip("'")
                item = f"{{{key!r}: {place}}}" if self._groups.positions else f"[{place}]"
                raise ValueError(
                    f"{place} is {what} that the optimizer does not have, and would not step; add it, "
                    f"optimizer.add_param_group({{'params': {item}}}), or keep what is not trained in another "
                    f"container than the one that the parameters were given in"
                )
        elif new is not None:  # which stands for what was taken away
            group, index, number = self._place_of(position)
            write = "p.data" if isinstance(old, Parameter) else "p"
            what = "array" if is_array(old) else "Parameter"
            is_alike = is_array(new) if is_array(old) else isinstance(new, Parameter)
            kind = f"another {what}" if is_alike else f"of type {name_of(new)}"
            raise ValueError(
                f"{group.members[index].label} was exchanged: {place} is {kind} now, and the optimizer "
                f"steps the one that it was given, p = optimizer.param_groups[{number}]['params'][{index}]; write "
                f"into that one, {write}[...] = values or np.clip({write}, 0, 1, out={write}), and put it back, "
                f"{place} = p"
            )

    def _refuse_resized(self, position: int, place: str) -> None:
        group, index, number = self._place_of(position)
        raise ValueError(
            f"{group.members[index].label} was resized, and {place} is not the array that optimizer.resize has "
            f"returned; put that in: {place} = optimizer.param_groups[{number}]['params'][{index}]"
        )

    def _place_of(self, position: int) -> tuple[Group, int, int]:
        group, index = self._groups.where[position]
        return group, index, next(i for i, each in enumerate(self._groups) if each is group)


def _no() -> bool:
    return False


def _items_of(container: Any) -> dict[Any, Any]:
    """Return what is in a dict, list or tuple, whatever a subclass says."""
    if isinstance(container, dict):
        return dict(dict.items(container))
    kind: Any = list if isinstance(container, list) else tuple
    return dict(enumerate(kind.__getitem__(container, slice(None))))


def _found_in(
    container: Any,
    place: str,
    before: Mapping[int, Mapping[Any, Any]],
    check: Callable[[Any, Any, str], None] | None = None,
) -> list[Held]:
    """Return a container and all that are in it, each before those within it; without those that are empty.

    Parameters
    ----------
    container : dict, list or tuple
    place : str
        How one writes it.
    before : mapping of int to mapping
        What containers held, by their identities.
    check : callable, optional
        Called with what was in a place, what is there now, and the place, where these are not the same object, nor
        both containers.
    """
    found: list[Held] = []
    seen: set[int] = set()
    pending: list[tuple[Any, Any, str, int, int]] = [(container, container, place, -1, 0)]
    while pending:
        new, old, place, outer, depth = pending.pop()
        items = _items_of(new)
        if not items or id(new) in seen or depth > MOST_DEEP:
            continue
        seen.add(id(new))
        found.append(Held(new, items, place, outer))
        was = before.get(id(old))
        if was is None:
            was = _items_of(old) if isinstance(old, tuple) else {}
        for key, item in items.items():
            then = was.get(key, _NOTHING)
            if isinstance(item, _KINDS) and is_container(item) and (then is _NOTHING or isinstance(then, _KINDS)):
                pending.append((item, then, f"{place}[{key!r}]", len(found) - 1, depth + 1))
            elif check is not None and then is not item:
                check(then, item, f"{place}[{key!r}]")
    return found


def _held_by_others(found: Sequence[Held]) -> list[Held]:
    """Return those that somebody has who is not in this list, and all that are within those."""
    kept: list[bool] = []
    for i, outer in enumerate(each.outer for each in found):
        # One that lies in another has two references more: of that one, and of what is known to be in it.
        kept.append((outer >= 0 and kept[outer]) or _references(found, i) > _ALONE + 2 * (outer >= 0))
    # From now on these are told from each other by whether one is the outermost of those that are kept.
    left: list[Held] = []
    numbers: dict[int, int] = {}  # in the list of the same outermost one
    first = 0
    for i, each in enumerate(found):
        if kept[i]:
            outer = numbers[each.outer] if each.outer >= 0 and kept[each.outer] else -1
            if outer < 0:
                first = len(left)
            numbers[i] = len(left) - first
            left.append(each._replace(outer=outer))
    return left


def _references(found: Sequence[Held], i: int) -> int:
    return sys.getrefcount(found[i].container)


_ALONE = _references([Held([], {}, "", -1)], 0)


def _comparison(watched: Sequence[Held]) -> Callable[[], bool] | None:
    """Return what says whether dicts and lists hold what they held, and keeps them; None where there are none.

    A single one is compared in Python, which takes less time than a native call does.
    """
    if not watched:
        return None
    if len(watched) == 1:
        ((container, held, *_),) = watched
        if type(container) is list:
            return _is_same_list(watched[0], container, list(held.values()))
        version = version_of(container) if isinstance(container, dict) else None
        if version is not None:
            return _is_same_version(watched[0], version)
    return _are_same_words(watched)


def _is_same_list(known: Held, now: list[Any], held: list[Any]) -> Callable[[], bool]:
    """Return the comparison of one list.

    The same objects are compared without asking them. Of others Python asks whether they are equal, which says
    nothing of two arrays of one element, nor of two containers: so `few` are compared by identity.
    """
    few = [i for i, item in enumerate(held) if isinstance(item, _KINDS) or getattr(item, "size", 1) == 1]

    def is_same() -> bool:
        try:
            if now != held:
                return False
        except Exception:
            if not _are_same([known]):
                return False
            raise  # a signal's handler raised it, which is not to be lost
        for i in few:  # noqa: SIM110 - `all` takes longer, and there are few
            if now[i] is not held[i]:
                return False
        return True

    return is_same


def _is_same_version(known: Held, version: Any) -> Callable[[], bool]:
    """Return the comparison of one dict, which may hold the same after it was written to: ``params["w"] -= x``."""
    seen = None

    def is_same() -> bool:
        nonlocal seen
        now = version.value
        if now == seen:
            return True
        if not _are_same([known]):
            return False
        seen = now
        return True

    return is_same


def _are_same_words(watched: Sequence[Held]) -> Callable[[], bool]:
    """Return the comparison of many containers, by a native call where there is one."""
    from fastadam.backends import c  # not loaded where parameters are in no container

    if c.why_missing() is not None:
        return functools.partial(_are_same, watched)

    def native_comparison() -> Callable[[], object]:
        found = [words_of(each.container) for each in watched]
        if not all(found):
            return _no
        columns = [
            np.array([*itertools.chain(*column)], np.int64) for column in zip(*filter(None, found), strict=True)
        ]
        buffers = [c.ffi.from_buffer("int64_t[]", column) for column in columns]
        return functools.partial(c.lib.fastadam_same_words, *buffers, len(columns[0]))

    same_words: Callable[[], object] = _no

    def are_same() -> bool:
        nonlocal same_words
        if same_words():
            return True
        # In this order: what is changed meanwhile shows the next time.
        same_words = _no
        now = native_comparison()
        if not _are_same(watched):
            return False
        same_words = now
        return True

    return are_same


def _are_same(watched: Sequence[Held]) -> bool:
    """Compare containers one by one."""
    for container, held, *_ in watched:
        found = list(_items_of(container).values())
        if len(found) != len(held) or not all(map(operator.is_, found, held.values())):
            return False
    return True
