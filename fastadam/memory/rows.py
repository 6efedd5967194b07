"""Gradients of some rows of a parameter: `Rows`, and the way in which steps read them.

A *row* is a slice of a parameter along its first axis: ``param[index]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array, base_view
from fastadam.memory.devices import device_of, is_array, on_host
from fastadam.memory.jax_arrays import is_jax_array, view_on_host
from fastadam.memory.remedies import COPIED, lost_meaning
from fastadam.memory.words import a_name_of, counted, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastadam.memory.kinds import Slope

HALF = 2  # bytes of a number in 16 bits
MOST_AT_ONCE = 1024  # rows that are added up


class Rows:
    """The gradient of some rows of a parameter, its slices along the first axis; the others have none.

    A step with one in the place of a gradient steps those rows alone, with their moments and step counters (see
    docs/guides/rows.md), and costs what they do, whatever the size of the parameter.

    Parameters
    ----------
    indices : array_like of int, shape (n,)
        Which rows, from 0 on, in any order. Rows that come several times are added up, in the order in which they
        come, in float32 where they are of 16 bits.
    grads : array, shape (n, *rest)
        The gradient of each, where the parameter has the shape ``(rows, *rest)``, on its device.

    Attributes
    ----------
    indices, grads
        As given. They are only read, when the step is taken.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> words = np.zeros((1000, 2))
    >>> optimizer = fastadam.Adam({"words": words}, lr=0.1)
    >>> optimizer.step({"words": fastadam.Rows([7, 2], np.array([[1.0, -1.0], [3.0, 0.0]]))})
    >>> words[[2, 3, 7]]
    array([[-0.1,  0. ],
           [ 0. ,  0. ],
           [-0.1,  0.1]])
    """

    __slots__ = ("grads", "indices")

    def __init__(self, indices: Sequence[int] | NDArray[np.integer[Any]], grads: Slope) -> None:
        self.indices, self.grads = indices, grads

    def __repr__(self) -> str:
        return f"Rows({self.indices!r}, {self.grads!r})"


class Read(NamedTuple):
    """Rows of a parameter, as they are stepped.

    Attributes
    ----------
    numbers : ndarray of int64
        Which, rising.
    values : array
        What their gradients lie in, C-contiguous.
    places : ndarray of int64
        Which row of that each one's is.
    given : array
        The gradients as the user gave them.
    """

    numbers: Array
    values: Array
    places: Array
    given: Array


def read_rows(rows: Rows, param: Array, label: str, check: Any, quietly: Any) -> Read:
    """Check rows and return them in order.

    Parameters
    ----------
    rows : Rows
    param : array
        The parameter.
    label : str
        How error messages call it.
    check : callable
        ``check(grads, like, label)`` checks an array as a gradient of an array of the shape, dtype and device of
        `like`, and returns it C-contiguous (see `fastadam.memory.written.Written.check_gradient`).
    quietly : callable
        ``quietly(function, *arguments)`` returns what the function does, and says nothing of numbers that are not
        finite (see `fastadam.step.quiet.Quiet.run`).

    Raises
    ------
    TypeError, ValueError
        If they are not the rows of such a parameter.
    """
    numbers = read_numbers(rows.indices, param, label)
    given: Any = rows.grads
    if not (is_array(given) or is_jax_array(given)):
        raise TypeError(
            f"the rows of {label} have grads of type {a_name_of(given)}; give an array with a row for each "
            f"index, of shape {(len(numbers), *param.shape[1:])}"
        )
    if is_jax_array(given) and isinstance(param, np.ndarray):
        given = view_on_host(given, f"the rows of {label}")
    like = like_rows(param, len(numbers))
    values = check(given, like, f"the rows of {label}")
    places: Array = np.arange(len(numbers))
    if (numbers[1:] <= numbers[:-1]).any():
        numbers, places = in_order(numbers)
        if (numbers[1:] == numbers[:-1]).any():
            device, rest = device_of(values), values.shape[1:]
            flat = on_host(values).reshape(len(values), -1)
            numbers, sums = quietly(added_up, flat, numbers, places)
            values, places = taken_to(device, sums.reshape(len(sums), *rest)), np.arange(len(sums))
    return Read(numbers, values, places, given)


def read_mask(mask: Any, param: Array, label: str) -> Array:
    """Return the numbers of the rows that a mask has, ndarray of int64, rising.

    Raises
    ------
    TypeError, ValueError
        If it is no mask over the first axis of `param`.
    """
    _refuse_scalar(param, label)
    _refuse_meaning(mask, f"the mask of {label}", "pass its .filled(False)")
    found = on_host(mask) if is_array(mask) else mask
    if is_jax_array(mask):
        found = view_on_host(mask, f"the mask of {label}")
    if not isinstance(found, np.ndarray) or found.dtype != np.bool_:
        is_other = isinstance(found, np.ndarray)
        what = f"an array of {found.dtype}" if is_other else a_name_of(mask)
        remedy = "mask != 0" if is_other and found.shape == param.shape[:1] else "np.array([...], dtype=bool)"
        raise TypeError(
            f"the mask of {label} is {what}; give an array of bool with one for each of its "
            f"{counted(len(param), 'row')}, such as {remedy}, or the rows by their numbers, fastadam.Rows"
        )
    if found.shape != param.shape[:1]:
        raise ValueError(
            f"the mask of {label} has shape {found.shape}, its parameter has {counted(len(param), 'row')}; give "
            f"one of shape {param.shape[:1]}"
        )
    numbers: Array = np.flatnonzero(np.array(base_view(found)))  # a copy, which no other thread changes meanwhile
    return numbers


def like_rows(param: Any, n: int) -> Array:
    """Return an array of `n` rows like those of a parameter, which nobody writes."""
    if isinstance(param, np.ndarray):
        shape = (n, *param.shape[1:])  # of one number, which takes no memory
        return np.ndarray(shape, param.dtype, np.zeros((), param.dtype), 0, (0,) * len(shape))
    size = n * math.prod(param.shape[1:])
    made: Array = device_of(param).zeros(size, param.dtype, "grad").reshape(n, *param.shape[1:])
    return made


def _refuse_scalar(param: Array, label: str) -> None:
    if not param.ndim:
        raise ValueError(f"{label} is a single number, shape (), and has no rows; give its gradient as an array")


def _refuse_meaning(value: Any, label: str, remedy: str) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array, whose mask would be ignored; {remedy}")
    lost = lost_meaning(value, COPIED) if isinstance(value, np.ndarray) else None
    if lost is not None:
        raise TypeError(f"{label} {lost}")


def read_numbers(indices: Any, param: Array, label: str) -> Array:
    """Return the numbers of rows, ndarray of int64, in the order in which they were given.

    Raises
    ------
    TypeError, ValueError
        If they are not the numbers of rows of `param`.
    """
    _refuse_scalar(param, label)
    remedy = "pass its .compressed(), and the gradients of those rows"
    _refuse_meaning(indices, f"the array of indices of the rows of {label}", remedy)
    found = on_host(indices) if is_array(indices) else indices
    if is_jax_array(indices):
        found = view_on_host(indices, f"the indices of {label}")
    if isinstance(found, list | tuple | range):
        found = np.asarray(found, None if len(found) else np.int64)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu":
        what = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else a_name_of(indices)
        raise TypeError(f"the indices of the rows of {label} are {what}; {_remedy_for(indices, found)}")
    if found.ndim != 1:
        raise ValueError(
            f"the indices of the rows of {label} have shape {found.shape}; give one number for each, shape (n,)"
        )
    found = base_view(found)
    if found.dtype == np.uint64:
        found = np.minimum(found, np.iinfo(np.int64).max)
    numbers: Array = found.astype(np.int64)  # a copy, before they are looked at: others may write to theirs
    if len(numbers):
        low, high = int(numbers.min()), int(numbers.max())
        if low < 0 or high >= len(param):
            has = f"{counted(len(param), 'row')}, from 0 to {len(param) - 1}" if len(param) else "no rows"
            remedy = "count from the first row on" if low < 0 else "give rows that it has"
            raise ValueError(
                f"the indices of the rows of {label} go from {low} to {high}, and it has {has}; {remedy} (got "
                f"{shown(indices)})"
            )
    return numbers


def _remedy_for(indices: Any, found: Any) -> str:
    if isinstance(found, np.ndarray) and found.dtype == np.bool_:
        return "give np.flatnonzero of a mask"
    if is_array(indices):
        return "give whole numbers, such as indices.astype(int)"
    if isinstance(found, np.ndarray):
        return "give whole numbers, such as np.asarray(indices, int)"
    return "give whole numbers in a list or an array"


def in_order(numbers: Array) -> tuple[Array, Array]:
    """Return row numbers sorted, and where each was; those that are the same stay in their order."""
    bits = len(numbers).bit_length()
    if int(numbers.max()) >> (62 - bits):
        order = np.argsort(numbers, kind="stable")
        return numbers[order], order
    # The places behind the numbers: NumPy sorts numbers ten times as fast as it finds their order.
    keys: Array = np.sort(numbers << bits | np.arange(len(numbers)))
    return keys >> bits, keys & ((1 << bits) - 1)


def added_up(values: Array, numbers: Array, order: Array) -> tuple[Array, Array]:
    """Add up rows of the same number, one after the other; in float32, if they are of 16 bits.

    Parameters
    ----------
    values : ndarray, shape (n, width)
    numbers, order : ndarray of int64
        What `in_order` has returned for the numbers of the rows.

    Returns
    -------
    numbers : ndarray of int64
        Those that there are, rising.
    values : ndarray, shape (len(numbers), width)
        A new array.
    """
    first = np.append(True, numbers[1:] != numbers[:-1])
    each = values.astype(np.float32) if values.itemsize == HALF else values
    found: Array = each.take(order[first], axis=0)
    where, rows = (np.cumsum(first) - 1)[~first], order[~first]
    # Number by number, which NumPy adds several times as fast as rows; in the same order.
    sums, columns = found.reshape(-1), np.arange(found.shape[1])
    for low in range(0, len(rows), MOST_AT_ONCE):
        some = slice(low, low + MOST_AT_ONCE)
        np.add.at(sums, (where[some, None] * found.shape[1] + columns).ravel(), each[rows[some]].ravel())
    return numbers[first], found


def taken_to(device: Any, numbers: Array) -> Array:
    """Return a NumPy array on a device: itself where that is the host."""
    if device.holds(numbers):
        return numbers
    copied: Array = device.zeros(numbers.size, numbers.dtype, "grad")
    copied[...] = numbers.reshape(-1)
    return copied.reshape(numbers.shape)


def in_one_array(read: Read) -> Array:
    """Return the gradients of rows one after the other, in the order of their numbers."""
    # (`numpy.array_equal` takes what a signal's handler raises for an error of its own, and drops it.)
    n = len(read.values)
    if len(read.places) == n and bool((read.places == np.arange(n)).all()):
        return read.values
    return taken_to(device_of(read.values), on_host(read.values).take(read.places, axis=0))
