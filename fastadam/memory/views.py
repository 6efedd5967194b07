"""The arrays of a packed buffer, in sequences and mappings in which none can be exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn


def refuse_exchange(value: Any, current: Any, name: str) -> None:
    """Let ``view += x`` through, which works in place and then assigns the same array; refuse any other one."""
    if value is not current:
        raise AttributeError(
            f"{name} is an array of a packed buffer and cannot be exchanged for another one, which an optimizer "
            f"would not see; write its elements: {name}[...] = value"
        )


def refuse_change(name: str) -> NoReturn:
    """Refuse what would change which arrays a packed buffer has."""
    raise AttributeError(
        f"the arrays in {name} cannot be exchanged, added or taken away, which an optimizer would not see; write "
        f"the elements of one that is there, such as {name}[key][...] = value, or pack all of them anew"
    )


def _plain(value: Any) -> Any:
    """Return containers of views as lists, dicts and tuples; views as they are."""
    if isinstance(value, Views | NamedViews):
        return value.copy()
    return tuple.__new__(type(value), map(_plain, value)) if isinstance(value, tuple) else value


class Views(Sequence[Any]):
    """Views by position: what a list can do, but for changing which arrays are in it.

    Parameters
    ----------
    views : sequence
        Arrays, or containers of such: these classes, and tuples.
    name : str
        How messages call this.
    """

    __slots__ = ("_name", "_views")

    def __init__(self, views: Sequence[Any], name: str) -> None:
        self._views, self._name = list(views), name

    def __getitem__(self, key: Any) -> Any:
        return self._views[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            refuse_change(self._name)
        refuse_exchange(value, self._views[key], f"{self._name}[{key}]")

    def __delitem__(self, key: Any) -> None:
        refuse_change(self._name)

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._views)

    def __eq__(self, other: Any) -> Any:
        return self._views == (other._views if isinstance(other, Views) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._views)

    def __getattr__(self, name: str) -> Any:
        return _missing(self, name, list)

    def copy(self) -> list[Any]:
        """Return a list of the views; what is nested becomes lists, dicts and tuples, too."""
        return list(map(_plain, self._views))

    __copy__ = copy

    def __reduce__(self) -> Any:
        return list, (self._views,)


class NamedViews(Mapping[str, Any]):
    """Views by name: what a dict can do, but for changing which arrays are in it.

    Parameters
    ----------
    views : mapping of str
        Arrays, or containers of such, as in `Views`.
    name : str
        How messages call this.
    """

    __slots__ = ("_name", "_views")

    def __init__(self, views: Mapping[str, Any], name: str) -> None:
        self._views, self._name = dict(views), name

    def __getitem__(self, key: str) -> Any:
        return self._views[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._views:
            refuse_change(self._name)
        refuse_exchange(value, self._views[key], f"{self._name}[{key!r}]")

    def __delitem__(self, key: str) -> None:
        refuse_change(self._name)

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __eq__(self, other: Any) -> Any:
        return self._views == (other._views if isinstance(other, NamedViews) else other)

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Any) -> Any:
        return self._views | other

    def __ror__(self, other: Any) -> Any:
        return other | self._views

    def __repr__(self) -> str:
        return repr(self._views)

    def __getattr__(self, name: str) -> Any:
        return _missing(self, name, dict)

    def copy(self) -> dict[str, Any]:
        """Return a dict of the views; what is nested becomes lists, dicts and tuples, too."""
        return {name: _plain(view) for name, view in self._views.items()}

    __copy__ = copy

    def __reduce__(self) -> Any:
        return dict, (self._views,)


def _missing(views: Any, name: str, like: type) -> NoReturn:
    """Say why an attribute is missing: those that lists and dicts have besides change what is in them."""
    if hasattr(like, name):
        refuse_change(views._name)
    raise AttributeError(f"{type(views).__name__!r} object has no attribute {name!r}")
