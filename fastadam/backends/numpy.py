"""The reference backend: the formula over NumPy's ufuncs, in blocks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array, array_at
from fastadam.memory.formats import BFLOAT16, Format
from fastadam.memory.structs import APPLY, INSPECT, REDUCE, ROLES, TAKEN
from fastadam.step.backend import PartOfPlan, Run
from fastadam.step.coefficients import Row
from fastadam.step.counters import Counting
from fastadam.step.element import make_element
from fastadam.step.interrupts import in_one_go, uninterrupted
from fastadam.step.reduce import reduce
from fastadam.step.rounding import make_maximum, make_narrow_bfloat16, make_widen_bfloat16
from fastadam.step.variants import Variant, variant_of

# Elements per block: temporaries stay in the cache and never reach the size of the parameters.
BLOCK = 8192


def _float_of(bits: Array) -> Array:
    return bits.view(np.float32)


def _bits_of(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers).view(np.uint32)


_uint16, _uint32 = (functools.partial(np.asarray, dtype=dtype) for dtype in (np.uint16, np.uint32))
_widen_bfloat16 = make_widen_bfloat16(_uint32, _float_of)
_narrow_bfloat16 = make_narrow_bfloat16(_uint16, _uint32, _bits_of, np.where)
_ELEMENTS = {
    (l2_on, amsgrad_on): make_element(
        np.multiply,
        np.add,
        np.subtract,
        np.divide,
        np.sqrt,
        make_maximum(np.where),
        l2_on=l2_on,
        amsgrad_on=amsgrad_on,
    )
    for l2_on in (False, True)
    for amsgrad_on in (False, True)
}


def widen(stored: Array, number_format: Format) -> Array:
    """Return the numbers in the dtype that kernels compute in; `stored` itself where it is that already."""
    if number_format is BFLOAT16:
        found: Array = _widen_bfloat16(stored)
        return found
    return stored.astype(number_format.compute, copy=False)


def narrow(computed: Array, number_format: Format) -> Array:
    """Return the numbers as they lie in memory; `computed` itself where it is that already."""
    if number_format is BFLOAT16:
        found: Array = _narrow_bfloat16(computed)
        return found
    return computed.astype(number_format.stored, copy=False)


def why_missing() -> str | None:
    """Return None: NumPy is always there."""
    return None


def bind(part: PartOfPlan) -> Run:
    """Return the function that runs a part of a plan (see `fastadam.step.backend.Backend`)."""
    counting = Counting(part)

    def run(stages: int) -> int:
        if stages & INSPECT:
            return 0  # Python looks at the gradients
        uninterrupted(functools.partial(_run, part, counting, stages))
        return TAKEN

    return run


def _run(part: PartOfPlan, counting: Counting, stages: int) -> None:
    if stages & REDUCE:
        reduce(part)
    if stages & APPLY:
        with np.errstate(all="ignore"):  # non-finite numbers propagate, as in compiled code
            for batch in part.batches:
                variant = variant_of(batch["variant"].item())
                for span in part.spans[batch["first"] : batch["first"] + batch["count"]]:
                    step_span(variant, span, part.rows[span["row"]])
        in_one_go(counting.calls())


def step_span(variant: Variant, span: Any, row: Any) -> None:
    """Step one span.

    Parameters
    ----------
    variant : Variant
    span : structured scalar
        The addresses of `ROLES`, and the size.
    row : structured scalar of ROW
    """
    element = _ELEMENTS[variant.l2_on, variant.amsgrad_on]
    scalars = Row._make(variant.compute.type(scalar) for scalar in row.tolist())
    size = span["size"].item()
    roles = ROLES if variant.amsgrad_on else ROLES[:-1]
    formats = variant.formats[: len(roles)]
    arrays = [array_at(span[role].item(), size, each.stored) for role, each in zip(roles, formats, strict=True)]
    written = [i for i, role in enumerate(roles) if role != "grad"]
    for low in range(0, size, BLOCK):
        at = slice(low, low + BLOCK)
        old = [widen(array[at], each) for array, each in zip(arrays, formats, strict=True)]
        new = element(*old, *[None] * (len(ROLES) - len(old)), scalars)
        for i, numbers in zip(written, new, strict=False):
            arrays[i][at] = narrow(numbers, formats[i])
