"""What users have instead of NumPy arrays of floats: arrays of other kinds, of other libraries, and none at all.

Of a library that is not installed, stand-ins have what tells its arrays from others.
"""

from __future__ import annotations

import array
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NUMBERS = (1.0, 2.0, 4.0)


def library(name: str) -> Any:
    """Return a module, or skip the test where its library is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what they do while they are imported
        pytest.importorskip(name.partition(".")[0])
        return importlib.import_module(name)


class WithUnit(np.ndarray):
    """Stands in for the arrays of astropy and unyt: a subclass whose instances have a unit."""

    def __array_finalize__(self, other: Any) -> None:
        self.unit = getattr(other, "unit", "m")


class WithUnits(np.ndarray):
    """The same, by a property."""

    units = property(lambda self: "km")


class WithSlot(np.ndarray):
    """The same, in a slot."""

    __slots__ = ("unit",)


class WithMask(np.ndarray):
    """Stands in for the masked arrays of astropy, which are none of NumPy's."""

    mask = property(lambda self: np.zeros(self.shape, bool))


class Convertible:
    """Stands in for the arrays of libraries that NumPy can convert (TensorFlow's, Keras' variables, xarray's)."""

    def __init__(self, numbers: Any, dtype: Any = None) -> None:
        self.numbers = np.array(numbers)
        self.dtype = dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.numbers, dtype)

    def __iter__(self) -> Any:
        return iter(self.numbers)


class Exchangeable:
    """Stands in for those that only have DLPack."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = np.array(numbers)

    def __dlpack__(self, **options: Any) -> Any:
        return self.numbers.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Pint:
    """Stands in for the quantities of pint: numbers with units around them."""

    units = property(lambda self: "meter")

    def __init__(self, numbers: Any) -> None:
        self._numbers = np.array(numbers)

    @property
    def magnitude(self) -> np.ndarray:
        return self._numbers

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._numbers, dtype)


class Sparse:
    """Stands in for sparse matrices."""

    def __init__(self, numbers: Any) -> None:
        self._numbers = np.array(numbers)

    def toarray(self) -> np.ndarray:
        return self._numbers.copy()


def with_slot() -> np.ndarray:
    made = np.array(NUMBERS).view(WithSlot)
    made.unit = "s"  # type: ignore[attr-defined]
    return made


def read_only() -> np.ndarray:
    made = np.array(NUMBERS)
    made.flags.writeable = False
    return made


def unaligned() -> np.ndarray:
    made = np.zeros(8 * len(NUMBERS) + 1, np.uint8)[1:].view(np.float64)
    made[...] = NUMBERS
    return made


def in_a_file(mode: Any) -> Callable[[Path], np.ndarray]:
    """Return a function that maps an array of a file."""

    def make(folder: Path) -> np.ndarray:
        np.array(NUMBERS).tofile(folder / "numbers")
        return np.memmap(folder / "numbers", np.float64, mode)

    return make


# By name, what makes one that holds `NUMBERS`; it gets a folder to write to, if it asks for one.
NUMPY: dict[str, Callable[..., Any]] = {
    "bool": lambda: np.array(NUMBERS) > 0,
    "int64": lambda: np.array(NUMBERS, np.int64),
    "uint8": lambda: np.array(NUMBERS, np.uint8),
    "longdouble": lambda: np.array(NUMBERS, np.longdouble),
    "byte-swapped": lambda: np.array(NUMBERS, np.dtype(np.float64).newbyteorder()),
    "object": lambda: np.array(NUMBERS, object),
    "strings": lambda: np.array(["1", "2", "4"]),
    "structured": lambda: np.array([(x, x) for x in NUMBERS], [("x", float), ("y", float)]),
    "masked": lambda: np.ma.array(NUMBERS, mask=[0, 1, 0]),
    "unit": lambda: np.array(NUMBERS).view(WithUnit),
    "units": lambda: np.array(NUMBERS).view(WithUnits),
    "unit in a slot": with_slot,
    "mask": lambda: np.array(NUMBERS).view(WithMask),
}
LAYOUTS: dict[str, Callable[..., Any]] = {
    "read-only": read_only,
    "broadcast": lambda: np.broadcast_to(np.array(NUMBERS), (2, 3)),
    "read-only in a file": in_a_file("r"),
    "every other": lambda: np.array(NUMBERS * 2)[::2],
    "transposed": lambda: np.array([NUMBERS, NUMBERS]).T,
    "unaligned": unaligned,
}
OTHERS: dict[str, Callable[..., Any]] = {
    "list": lambda: list(NUMBERS),
    "tuple": lambda: NUMBERS,
    "range": lambda: range(1, 4),
    "nested list": lambda: [list(NUMBERS), list(NUMBERS)],
    "float": lambda: 2.5,
    "int": lambda: 3,
    "NumPy scalar": lambda: np.float64(2.5),
    "complex": lambda: 2.5j,
    "array.array": lambda: array.array("d", NUMBERS),
    "memoryview": lambda: np.array(NUMBERS).data,
    "convertible": lambda: Convertible(NUMBERS),
    "convertible float32": lambda: Convertible(NUMBERS, np.dtype(np.float32)),
    "convertible bfloat16": lambda: Convertible(NUMBERS, "library.bfloat16"),
    "exchangeable": lambda: Exchangeable(NUMBERS),
    "like pint's": lambda: Pint(NUMBERS),
    "like a sparse matrix": lambda: Sparse([NUMBERS, NUMBERS]),
}
LIBRARIES: dict[str, Callable[..., Any]] = {
    "astropy": lambda: np.array(NUMBERS) * library("astropy.units").m,
    "astropy, masked": lambda: library("astropy.utils.masked").Masked(np.array(NUMBERS), mask=[0, 1, 0]),
    "pint": lambda: np.array(NUMBERS) * library("pint").UnitRegistry().meter,
    "pandas.Series": lambda: library("pandas").Series(NUMBERS),
    "pandas.DataFrame": lambda: library("pandas").DataFrame({"a": NUMBERS, "b": NUMBERS}),
    "scipy.csr_matrix": lambda: library("scipy.sparse").csr_matrix([NUMBERS, NUMBERS]),
    "scipy.csc_array": lambda: library("scipy.sparse").csc_array([NUMBERS, NUMBERS]),
    "torch": lambda: library("torch").tensor(NUMBERS, dtype=library("torch").float64),
    "JAX on NumPy": lambda: np.asarray(library("jax.numpy").asarray(np.array(NUMBERS, np.float32))),
}
