"""Cuts parameters into runs of rows.

Rows of a run follow each other, as their gradients do, and have taken the same number of steps. The C extension
does the same in one pass (cext/cutting.c).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastadam.memory.arrays import Array


class Region(NamedTuple):
    """A span that is cut into runs.

    Attributes
    ----------
    span : ndarray of SPAN, shape (1,)
        All of it.
    variant : int
    backend : int
        The position of its backend.
    row_size : int
        Of a row, in real numbers.
    row_bytes : dict of str to int
        Of a row in each of its arrays but the gradient.
    idle : bool
        Whether its runs are those of all other rows, which have nothing but averages to be moved.
    """

    span: Array
    variant: int
    backend: int
    row_size: int
    row_bytes: dict[str, int]
    idle: bool


class Cut(NamedTuple):
    """The rows of a parameter that a step is to be over.

    Attributes
    ----------
    numbers : ndarray of int64
        Which, rising where there are others, which only have averages.
    places : ndarray of int64
        Which row of the gradient each one's is; `numbers` itself where the gradient is of the whole parameter.
    grad, grad_bytes : int
        The gradient's address, and the bytes of a row in it.
    counters : int
        The address of the counters of all rows, int64, which their steps raise; 0 where rows have none, and count
        as their parameter does.
    n_rows : int
        How many rows there are in all.
    like : int
        The row of coefficients whose options they have.
    firsts : ndarray of int64
        For each number of steps that they have taken, one of the rows; nothing where they have no counters.
    of : ndarray of int64 or None
        Which of these each row is like; None where there is one.
    """

    numbers: Array
    places: Array
    grad: int
    grad_bytes: int
    counters: int
    n_rows: int
    like: int
    firsts: Array
    of: Array | None


class Runs(NamedTuple):
    """Runs, ndarrays of int64 of the same length.

    Attributes
    ----------
    starts, lengths : ndarray
        In rows.
    grads : ndarray or int
        The address of each one's gradient.
    rows : ndarray or int
        The number of each one's row of coefficients.
    """

    starts: Array
    lengths: Array
    grads: Array | int
    rows: Array | int


def runs_of(cut: Cut, row: int) -> Runs:
    """Return the rows of a cut as runs.

    Parameters
    ----------
    cut : Cut
    row : int
        The number of the first of its rows of coefficients.
    """
    numbers, places = cut.numbers, cut.places
    follows = numbers[1:] == numbers[:-1] + 1
    follows &= places[1:] == places[:-1] + 1
    if cut.of is not None:
        follows &= cut.of[1:] == cut.of[:-1]
    first = np.flatnonzero(np.append(True, ~follows)) if len(numbers) else np.zeros(0, np.int64)
    lengths = np.diff(first, append=len(numbers))
    rows = row if cut.of is None else cut.of[first] + row
    return Runs(numbers[first], lengths, cut.grad + cut.grad_bytes * places[first], rows)


def others_of(cut: Cut) -> Runs:
    """Return the runs of all other rows, which have no gradients."""
    starts, stops = np.append(0, cut.numbers + 1), np.append(cut.numbers, cut.n_rows)
    some = stops > starts
    return Runs(starts[some], (stops - starts)[some], 0, cut.like)


def write_runs(spans: Array, region: Region, runs: Runs) -> None:
    """Write runs into as many spans, which were like the whole region, or like runs of it."""
    starts, whole = runs.starts, region.span[0]
    for name, nbytes in region.row_bytes.items():
        spans[name] = starts * nbytes + whole[name]
    spans["first"] = starts * region.row_size + whole["first"]
    spans["size"] = sizes = runs.lengths * region.row_size
    spans["length"] = sizes
    spans["grad"], spans["row"] = runs.grads, runs.rows


def sets_of(steps: Array) -> tuple[Array, Array | None]:
    """Return one place of each number of steps, and which of those each one has; None where there is one."""
    if not len(steps):
        return np.zeros(0, np.int64), None
    low, high = int(steps.min()), int(steps.max())
    if low == high:
        return np.zeros(1, np.int64), None
    if high - low < 4 * len(steps):  # counted sooner than sorted
        places: Array = np.full(high - low + 1, -1)
        places[steps - low] = np.arange(len(steps))
        used = np.flatnonzero(places >= 0)
        number: Array = np.zeros(high - low + 1, np.int64)
        number[used] = np.arange(len(used))
        return places[used], number[steps - low]
    _, firsts, of = np.unique(steps, return_index=True, return_inverse=True)
    return firsts, of.reshape(-1)
