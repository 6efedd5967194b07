"""Containers of arrays, to any depth, in which users give parameters and gradients, as types.

They are for checkers, and say what can be said of a program that does not run; whether a parameter can be written
and a gradient has its shape is seen by each step. At run time there is no recursion in the aliases, so that
`typing.get_type_hints` resolves annotations with them in any module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastadam.memory.kinds import Parametric, Slope
from fastadam.memory.parameter import Parameter
from fastadam.memory.rows import Rows

T_co = TypeVar("T_co", covariant=True)


# Iterables are of these two kinds, or iterators. Strings and arrays, which can be iterated over too, are of none:
# the items of strings are strings again, and those of arrays, for checkers, of any type.
class Listed(Protocol[T_co]):
    """What lists, tuples and other sequences have; strings only contain strings, and arrays have no index."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __len__(self) -> int: ...

    def __contains__(self, item: object, /) -> bool: ...

    @property
    def index(self) -> object:
        """The method, of whatever type: in that of a list, mypy would look for its items' type."""


class Iterated(Protocol[T_co]):
    """What other iterables have, such as views of dicts and objects with ``__iter__``; arrays have no hash."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __hash__(self) -> int: ...


Leaf: TypeAlias = Parametric | Parameter

if TYPE_CHECKING:
    Arrays: TypeAlias = Parametric | Mapping[str, "Arrays"] | Listed["Arrays"]
    Tree: TypeAlias = Leaf | Mapping[str, "Tree"] | Listed["Tree"]
    Slopes: TypeAlias = Slope | Rows | Mapping[str, "Slopes"] | Listed["Slopes"] | None
else:
    Arrays = Parametric | Mapping[str, Any] | Listed[Any]
    Tree = Leaf | Mapping[str, Any] | Listed[Any]
    Slopes = Slope | Rows | Mapping[str, Any] | Listed[Any] | None

# Iterators by themselves: they are a protocol, which for mypy has no hash.
Packable: TypeAlias = Mapping[str, Arrays] | Listed[Arrays] | Iterator[Arrays] | Iterated[Arrays]
Grads: TypeAlias = Slopes | Iterator[Slopes] | Iterated[Slopes]
# By name, position, array or `Parameter`.
Masks: TypeAlias = Mapping[Any, NDArray[np.bool_] | None] | NDArray[np.bool_] | None
