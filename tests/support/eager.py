"""The NumPy backend without its recording: the same formulas, called with arrays and ufuncs as they are."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastadam.memory.arrays import array_at
from fastadam.memory.formats import BFLOAT16, Format
from fastadam.memory.structs import ROLES
from fastadam.step.coefficients import Row
from fastadam.step.element import make_element
from fastadam.step.rounding import make_flush, make_maximum, make_narrow_bfloat16, make_widen_bfloat16
from fastadam.step.variants import Variant


def _float_of(bits: np.ndarray) -> np.ndarray:
    return bits.view(np.float32)


def _bits_of(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers).view(np.uint32)


_uint16, _uint32 = (functools.partial(np.asarray, dtype=dtype) for dtype in (np.uint16, np.uint32))
_widen_bfloat16 = make_widen_bfloat16(_uint32, _float_of)
_narrow_bfloat16 = make_narrow_bfloat16(_uint16, _uint32, _bits_of, np.where)


def widen(stored: np.ndarray, number_format: Format) -> np.ndarray:
    """Return the numbers in the dtype that kernels compute in; `stored` itself where it is that already."""
    if number_format is BFLOAT16:
        found: np.ndarray = _widen_bfloat16(stored)
        return found
    return stored.astype(number_format.compute, copy=False)


def narrow(computed: np.ndarray, number_format: Format) -> np.ndarray:
    """Return the numbers as they lie in memory; `computed` itself where it is that already."""
    if number_format is BFLOAT16:
        found: np.ndarray = _narrow_bfloat16(computed)
        return found
    return computed.astype(number_format.stored, copy=False)


def step_span(variant: Variant, span: Any, row: Any) -> None:
    """Step one span.

    Parameters
    ----------
    variant : Variant
    span : structured scalar
        The addresses of `ROLES`, and the size.
    row : structured scalar of ROW
    """
    choices = make_maximum(np.where), make_flush(np.where, np.abs, variant.compute.type(0))
    operations = (np.multiply, np.add, np.subtract, np.divide, np.sqrt, *choices)
    flags = {"l2_on": variant.l2_on, "decoupled_on": variant.decoupled_on, "amsgrad_on": variant.amsgrad_on}
    element = make_element(*operations, **flags)
    scalars = Row._make(variant.compute.type(scalar) for scalar in row.tolist())
    scalars = scalars._replace(tiny=scalars.tiny * np.finfo(variant.compute).smallest_normal)
    size = span["size"].item()
    roles = ROLES if variant.amsgrad_on else ROLES[:-1]
    formats = variant.formats[: len(roles)]
    arrays = [array_at(span[role].item(), size, each.stored) for role, each in zip(roles, formats, strict=True)]
    written = [i for i, role in enumerate(roles) if role != "grad"]
    old = [widen(array, each) for array, each in zip(arrays, formats, strict=True)]
    new = element(*old, *[None] * (len(ROLES) - len(old)), scalars)
    for i, numbers in zip(written, new, strict=False):
        arrays[i][...] = narrow(numbers, formats[i])
