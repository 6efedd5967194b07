"""Gradients of some rows, as the stateful test gives them to an optimizer, and as its model sees them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import fastadam

INDICES = ("list", "tuple", "int64", "uint8", "uint64", "big-endian", "reversed", "subclass")
BAD_INDICES = ("negative", "behind", "float", "bool", "2-D", "masked", "None", "objects", "too many")
BAD_MASKS = ("numbers", "short", "list", "masked", "2-D")


class Indices(np.ndarray):
    """A subclass of the user's."""


class Touched(NamedTuple):
    """The rows that a step is over.

    Attributes
    ----------
    numbers : ndarray
        Which, rising, each of them once.
    values : ndarray
        The gradient of each.
    """

    numbers: np.ndarray
    values: np.ndarray


def indices_as(kind: str, numbers: list[int]) -> Any:
    """Return row numbers as somebody may have them."""
    if kind == "list":
        return list(numbers)
    if kind == "tuple":
        return tuple(np.int32(each) for each in numbers)
    if kind == "reversed":
        return np.array(numbers[::-1], np.int32)[::-1]
    if kind == "subclass":
        return np.array(numbers, np.int64).view(Indices)
    dtypes = {"big-endian": ">i4"}
    return np.array(numbers, dtypes.get(kind, kind))


def touched(numbers: list[int], grads: np.ndarray) -> Touched:
    """Return what rows stand for: those of the same number are added one after the other."""
    found: dict[int, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for number, grad in zip(numbers, np.asarray(grads), strict=True):
            found[number] = found[number] + grad if number in found else grad
    order = sorted(found)
    values = np.array([found[number] for number in order], grads.dtype)
    return Touched(np.array(order, np.int64), values.reshape(len(order), *grads.shape[1:]))


def masked(mask: np.ndarray, grad: np.ndarray) -> Touched:
    """Return what a gradient of a whole parameter is with a mask."""
    return Touched(np.flatnonzero(mask), np.asarray(grad)[mask])


def bad_rows(kind: str, n_rows: int, right: np.ndarray) -> fastadam.Rows:
    """Return what are no rows of a parameter.

    Parameters
    ----------
    kind : str
        Of `BAD_INDICES`.
    n_rows : int
        How many it has.
    right : ndarray
        The gradient of one row, shape (1, ...).
    """
    found: dict[str, Any] = {
        "negative": [-1],
        "behind": np.array([n_rows], np.uint64),
        "float": np.array([0.0]),
        "bool": np.array([True]),
        "2-D": np.array([[0]]),
        "masked": np.ma.masked_array([0], mask=[True]),
        "None": None,
        "objects": np.array([0], object),
        "too many": [0, 0],
    }
    return fastadam.Rows(found[kind], right)


def bad_mask(kind: str, n_rows: int) -> Any:
    """Return what is no mask of so many rows."""
    right = np.ones(n_rows, bool)
    found: dict[str, Any] = {
        "numbers": np.ones(n_rows, np.uint8),
        "short": np.ones(n_rows + 1, bool),
        "list": right.tolist(),
        "masked": np.ma.masked_array(right, mask=right),
        "2-D": right[:, None],
    }
    return found[kind]
