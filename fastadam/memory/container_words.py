"""Where in memory one sees that a dict or list holds what it held.

A list has the number of its items, the address of a table, and there the address of each. A dict has a version: a
number that CPython up to 3.13 changes whenever an entry may have changed (PEP 509), so that thousands of entries
take one look. All this is tried out when it is first asked for; where something is not found, or changes without
it, the answer is None, and entries are compared one by one.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any


def version_of(of: dict[Any, Any]) -> Any:
    """Return what has the version of a dict as ``value``, as long as the caller keeps the dict; or None."""
    return _word(id(of) + _SECOND) if _dicts_have_versions() else None


def words_of(container: dict[Any, Any] | list[Any]) -> tuple[list[int], list[int]] | None:
    """Return the addresses of words that say what a container holds, and these; or None.

    They are good in this order, as long as the caller keeps the container and Python's lock, and each word before
    is what it was.
    """
    if isinstance(container, dict):
        return ([id(container) + _SECOND], [version_of(container).value]) if _dicts_have_versions() else None
    if not _lists_have_tables():
        return None
    items = list.__getitem__(container, slice(None))
    table = _word(id(container) + _SECOND).value
    addresses = [id(container) + _FIRST, id(container) + _SECOND]
    addresses += range(table, table + _WIDTH * len(items), _WIDTH)
    return addresses, [len(items), table, *map(id, items)]


# The parts of the objects: in both, the number of entries comes first.
_WIDTH = 8
_FIRST = object.__basicsize__
_SECOND = _FIRST + _WIDTH


def _word(address: int) -> ctypes.c_int64:
    return ctypes.c_int64.from_address(address)


def _can_be_looked_at(kind: type) -> bool:
    return (
        sys.implementation.name == "cpython"
        and getattr(sys, "_is_gil_enabled", lambda: True)()  # without the lock, lists move at any moment
        and ctypes.sizeof(ctypes.c_void_p) == _WIDTH
        and kind.__basicsize__ >= _SECOND + _WIDTH
    )


@functools.cache
def _lists_have_tables() -> bool:
    if not _can_be_looked_at(list):
        return False
    sample: list[Any] = ["w", 3.5, []]
    if _word(id(sample) + _FIRST).value != len(sample):
        return False
    table = _word(id(sample) + _SECOND).value
    return all(_word(table + _WIDTH * i).value == id(item) for i, item in enumerate(sample))


@functools.cache
def _dicts_have_versions() -> bool:
    if not _can_be_looked_at(dict) or sys.version_info >= (3, 14):
        return False
    instance = _Plain()
    instance.w = instance.v = 0  # type: ignore[attr-defined]
    dicts: list[dict[str, Any]] = [{"w": 0, "v": 0}, vars(instance)]
    edits: list[Callable[[Any, Any], object]] = [
        lambda each, value: each.update(w=value),
        lambda each, value: each.__ior__({"w": value}),
        lambda each, value: (each.pop("w"), each.setdefault("w", value)),
        lambda each, value: (each.popitem(), each.update(v=value)),
        lambda each, value: (each.clear(), each.update(w=value, v=value)),
        _set_item,
    ]
    changed = [_changes(each, functools.partial(edit, each)) for each in dicts for edit in edits]
    changed.append(_changes(vars(instance), functools.partial(_set_attribute, instance)))
    return all(changed)


class _Plain:
    """Has a dict."""


def _set_item(of: dict[str, Any], value: Any) -> None:
    of["w"] = value


def _set_attribute(of: Any, value: Any) -> None:
    of.w = value


def _changes(of: dict[str, Any], edit: Callable[[Any], object]) -> bool:
    """Whether each of many edits changes the version; the interpreter takes other ways when it has seen some."""
    version, seen = _word(id(of) + _SECOND), []
    for _ in range(100):
        before = version.value
        edit(object())
        seen.append(version.value != before)
    return all(seen)
