"""Sorts the gradients that the user gives to a step."""

from __future__ import annotations

import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastadam.memory import remedies
from fastadam.memory.devices import is_array, kind_of
from fastadam.memory.jax_arrays import is_jax_array, view_on_host
from fastadam.memory.packed import Packed
from fastadam.memory.remedies import READ
from fastadam.memory.rows import Rows
from fastadam.memory.words import counted, shown
from fastadam.work.arrays import WorkList
from fastadam.work.planner import Planner


def sort_gradients(grads: Any, planner: Planner) -> tuple[WorkList, tuple[Any, ...]]:
    """Return the work list that gradients belong to, and one gradient for each of its slots.

    Parameters
    ----------
    grads : object
        What the user gave (see `fastadam.Adam.step`).
    planner : Planner
        Up to date.

    Raises
    ------
    TypeError, ValueError
        If these cannot be the gradients of so many parameters of these names; each one is looked at later.
    """
    work = planner.by_member
    if not isinstance(grads, list | tuple):
        if isinstance(grads, np.ndarray | np.generic):
            return _sort_array(grads, planner)
        if is_jax_array(grads) and isinstance(work.arrays[0], np.ndarray):
            return _sort_array(view_on_host(grads, "grads"), planner)
        if is_array(grads):
            return _sort_array(grads, planner)
        if isinstance(grads, Rows):
            return work, _the_one(grads, work)
        if isinstance(grads, Mapping):
            return work, planner.reader.read_mapping(grads)
        if isinstance(grads, Packed):
            raise TypeError("grads is a packed buffer; step() without arguments uses its gradients")
        if callable(grads):
            raise TypeError(f"grads is the callable {shown(grads)}; to pass a closure, write step(closure=f)")
        if (
            isinstance(grads, str | bytes | set | frozenset | range | array.array | memoryview)
            or not isinstance(grads, Iterable)
            or remedies.looks_like_an_array(grads)
        ):
            raise TypeError(
                f"grads must be a list of arrays or a mapping of names to arrays, got {shown(grads)}; "
                f"{_remedy_for(grads, work)}"
            )
        grads = tuple(grads)
    if planner.reader.reads_lists:
        found = planner.reader.read_list(grads)
        if found is not None:
            return work, found
    grads = tuple(grads)  # a list could change while native code reads it
    if len(grads) != len(work.owners):
        is_one = len(work.owners) == 1 and remedies.makes_an_array(grads)
        remedy = f"; for one array, {_remedy_for(grads, work)}" if is_one else ""
        raise ValueError(f"grads has {counted(len(grads), 'item')}, but {_number_of(work)}{remedy}")
    return work, grads


def _sort_array(grad: Any, planner: Planner) -> tuple[WorkList, tuple[Any, ...]]:
    """Return the work list of one bare gradient: for a whole packed buffer, or for a single parameter."""
    whole, work = planner.in_pieces, planner.by_member
    shape = kind_of(grad).shape_of(grad)
    if len(whole.owners) == 1 and shape == whole.arrays[0].shape:
        return whole, (grad,)
    if len(work.owners) == 1:
        return work, (grad,)
    packed = planner.groups[0].packed
    if packed is not None and len(planner.groups) == 1 and shape == packed.param.shape:
        # Its members have taken different numbers of steps.
        return work, tuple(packed.views_of(kind_of(grad).own_view(grad)))
    remedy = "pass a list of gradients"
    if packed is not None and len(planner.groups) == 1:
        remedy += f", or one array of shape {packed.param.shape} for the whole packed buffer, not of {shape}"
    raise TypeError(f"grads is one array, but {_number_of(work)}; {remedy}")


def _the_one(rows: Rows, work: WorkList) -> tuple[Rows]:
    if len(work.owners) > 1:
        raise TypeError(
            f"grads is fastadam.Rows by itself, but {_number_of(work)}; pass a list with a gradient for each, or "
            f"a mapping of names"
        )
    return (rows,)


def _number_of(work: WorkList) -> str:
    """Say how many parameters there are."""
    count = len(work.owners)
    return f"there {'is' if count == 1 else 'are'} {counted(count, 'parameter')}"


def _remedy_for(grads: Any, work: WorkList) -> str:
    """Say what to do about gradients that are no array and in no container."""
    if isinstance(grads, set | frozenset):
        return "a set has no order, so use a list"
    if len(work.owners) > 1:
        return f"pass one for each of the {len(work.owners)} parameters"
    param = work.arrays[0]
    return remedies.remedy_for(grads, READ, remedies.dtype_of_gradient(param), param.shape)
