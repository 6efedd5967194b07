"""How Python writes down C structs and constants, and holds one struct in memory; the table is in `structs`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array, address

INT64, FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)


class Field(NamedTuple):
    """One field of a struct.

    Attributes
    ----------
    name : str
    type : dtype
        int64, float64, or that of a struct that lies within.
    points_to : dtype or None
        Of the array whose address the field holds; None for numbers, and for addresses of objects and of numbers
        in any format.
    length : int
        How many numbers of the type there are, one after the other; with more than 1, the field is an array.
    """

    name: str
    type: np.dtype[Any] = INT64
    points_to: np.dtype[Any] | None = None
    length: int = 1


class Struct:
    """A C struct, ``fastadam_NAME``.

    Parameters
    ----------
    name : str
    says : str
        What it is, for the C header.
    *fields : str or Field
        In order; a name alone is an int64.

    Attributes
    ----------
    dtype : dtype
        Of structured arrays with the same layout.
    points_to : dict
        From the names of fields that hold addresses of arrays to the dtypes of those.
    """

    def __init__(self, name: str, says: str, *fields: str | Field) -> None:
        self.name, self.says = name, says
        self.fields = tuple(Field(each) if isinstance(each, str) else each for each in fields)
        self.dtype = np.dtype(
            [(each.name, each.type, each.length if each.length > 1 else ()) for each in self.fields]
        )
        self.points_to = {each.name: each.points_to for each in self.fields if each.points_to is not None}
        TABLE[name] = self


class Block:
    """One struct in memory, which keeps alive what its fields point at.

    ``block["n"]`` reads a field, and ``block["n"] = 3`` sets one that holds a number or the address of an object;
    addresses of arrays are set by `point`.

    Parameters
    ----------
    struct : Struct

    Attributes
    ----------
    values : ndarray, shape ()
        The struct.
    address : int
        What native code gets; good as long as this object lives.
    """

    def __init__(self, struct: Struct) -> None:
        self._struct = struct
        self.values: Array = np.zeros((), struct.dtype)
        self.address = address(self.values)
        self._kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._struct.points_to:
            raise TypeError(f"{self._struct.name}.{name} is the address of an array; set it with point()")
        self.values[name] = value

    def point(self, name: str, array: Array) -> None:
        """Set the field `name` to the address of an array, and keep the array alive as long as it points there.

        Raises
        ------
        KeyError
            If the field does not hold the address of an array.
        TypeError
            If the array has another dtype than native code reads there.
        ValueError
            If it is not C-contiguous.
        """
        wanted = self._struct.points_to[name]
        if array.dtype != wanted:
            raise TypeError(f"{self._struct.name}.{name} points to {wanted}, not to {array.dtype}")
        if not array.flags.c_contiguous:
            raise ValueError(f"{self._struct.name}.{name} needs a C-contiguous array, got strides {array.strides}")
        # In this order: whenever an interrupt comes, what the field points at is alive.
        before = self._kept.get(name)
        self._kept[name] = array
        self.values[name] = address(array)
        del before

    def twin(self) -> Block:
        """Return another struct with the same values, which keeps the same arrays alive."""
        other = Block(self._struct)
        other._kept.update(self._kept)
        other.values[...] = self.values
        return other


class Constants(NamedTuple):
    """Constants that both sides know; in C their names begin with ``FASTADAM_``."""

    says: str
    values: dict[str, int]


# What cext/header.py writes: structs by name, and constants, in this order.
TABLE: dict[str, Struct] = {}
CONSTANTS: list[Constants] = []


def constants(says: str, **values: int) -> tuple[int, ...]:
    """Enter constants into the list, and return their values."""
    CONSTANTS.append(Constants(says, values))
    return tuple(values.values())


def reals(*names: str) -> tuple[Field, ...]:
    """Return fields that are numbers of type double."""
    return tuple(Field(name, FLOAT64) for name in names)


def places_of(struct: Struct, *names: str) -> list[int]:
    """Return the positions of fields among those of a struct, each of which is one word."""
    return [[each.name for each in struct.fields].index(name) for name in names]
