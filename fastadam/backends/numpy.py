"""The reference backend: the formula over NumPy's ufuncs, in blocks."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadam.memory.arrays import Array, array_at
from fastadam.step.element import make_element
from fastadam.step.formats import variant_of
from fastadam.step.halves import narrow, widen
from fastadam.step.interrupts import uninterrupted
from fastadam.step.plan import COUNTER_TYPES, MOMENTS, write_rows

if TYPE_CHECKING:
    from fastadam.step.plan import Plan, Share

# Elements per block: temporaries stay in the cache and never reach the size of the parameters.
BLOCK = 8192


def maximum(old: Array, new: Array) -> Array:
    """Return the larger one; a NaN on either side gives NaN. Unlike np.maximum, fixed for signed zeros."""
    return np.where((old >= new) | (old != old), old, new)


_ELEMENTS = {
    (l2_on, amsgrad_on): make_element(
        np.multiply,
        np.add,
        np.subtract,
        np.divide,
        np.sqrt,
        maximum,
        l2_on=l2_on,
        amsgrad_on=amsgrad_on,
    )
    for l2_on in (False, True)
    for amsgrad_on in (False, True)
}


def why_missing() -> str | None:
    """Return None: NumPy is always there."""
    return None


def bind(plan: Plan | Share) -> Callable[[int], int]:
    """Return the function that runs `plan` (see `fastadam.backends.Backend`)."""
    weak_plan = weakref.ref(plan)  # the plan holds this function; a cycle would keep its memory alive

    def run(check: int) -> int:
        plan = weak_plan()
        if check or plan is None:
            return 0  # Python checks the gradients
        uninterrupted(functools.partial(_step, plan))
        return -1

    return run


def _step(plan: Plan | Share) -> None:
    write_rows(plan.memory, plan.rows, plan.paces)
    with np.errstate(all="ignore"):  # non-finite numbers propagate, as in compiled code
        for kind, first, count, *_ in plan.batches.tolist():
            for span in plan.spans[first : first + count]:
                _step_span(kind, span, plan.rows[span["row"]])
    for place, code in plan.counters[: plan.memory["n_counters"]].tolist():
        counter = array_at(place, 1, COUNTER_TYPES[code])
        counter += 1


def _step_span(kind: int, span: Any, row: Any) -> None:
    number_format, l2_on, amsgrad_on = variant_of(kind)
    element = _ELEMENTS[l2_on, amsgrad_on]
    scalars = [number_format.compute.type(scalar) for scalar in row.tolist()]
    size = span["size"].item()
    names = ("param", "grad", *MOMENTS) if amsgrad_on else ("param", "grad", *MOMENTS[:2])
    param, grad, *moments = (array_at(span[name].item(), size, number_format.stored) for name in names)
    for low in range(0, size, BLOCK):
        at = slice(low, low + BLOCK)
        old = [widen(array[at], number_format) for array in (param, grad, *moments)]
        new_param, *new_moments = element(*old, *[None] * (5 - len(old)), *scalars)
        for array, new in zip((param, *moments), (new_param, *new_moments), strict=False):
            array[at] = narrow(new, number_format)
