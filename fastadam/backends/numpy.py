"""The reference backend: the formula over NumPy's ufuncs, in blocks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadam.arrays import Array, as_reals
from fastadam.element import make_element
from fastadam.spans import variant_of

if TYPE_CHECKING:
    from fastadam.spans import WorkList

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


def bind(work: WorkList) -> Callable[[bool], int]:
    """Return the function that runs `work` (see `fastadam.backends.Backend`)."""
    weak_work = weakref.ref(work)  # work holds this function; a cycle would keep the arrays alive

    def run(check: bool) -> int:
        work = weak_work()
        if check or work is None:
            return 0  # Python checks the gradients
        with np.errstate(all="ignore"):  # non-finite numbers propagate, as in compiled code
            for batch in work.batches:
                for i in range(batch["first"], batch["first"] + batch["count"]):
                    _step_span(work, work.spans[i], batch["kind"])
        return -1

    return run


def _step_span(work: WorkList, span: Any, kind: int) -> None:
    dtype, l2_on, amsgrad_on = variant_of(kind)
    element = _ELEMENTS[l2_on, amsgrad_on]
    scalars = [dtype.type(scalar) for scalar in work.rows[span["row"]].tolist()]
    grad = as_reals(work.checked[span["slot"]])
    param, exp_avg, exp_avg_sq, max_exp_avg_sq = work.reals(span["slot"])
    assert param is not None
    assert exp_avg is not None
    assert exp_avg_sq is not None
    for low in range(0, param.size, BLOCK):
        at = slice(low, low + BLOCK)
        old_max = None if max_exp_avg_sq is None else max_exp_avg_sq[at]
        new = element(param[at], grad[at], exp_avg[at], exp_avg_sq[at], old_max, *scalars)
        param[at], exp_avg[at], exp_avg_sq[at] = new[:3]
        if amsgrad_on:
            assert max_exp_avg_sq is not None
            max_exp_avg_sq[at] = new[3]
