"""Compiled variants: in which formats a step reads and writes its arrays, and which options are compiled in.

A variant is one number for native code; `fastadam.memory.structs` has the places of its parts.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.formats import ALL_FORMATS, COMPACT, FLOAT64, FORMATS, Format
from fastadam.memory.structs import AMSGRAD, COMPUTE_AT, DECOUPLED, FORMAT_BITS, FORMATS_AT, IDLE, L2, ROLES
from fastadam.step.hyperparameters import Hyperparameters

_MASK = (1 << FORMAT_BITS) - 1
_FLAGS = (1 << COMPUTE_AT) - 1
_COMPUTE_CODES = np.array([next(f.code for f in FORMATS if f.stored == each.compute) for each in ALL_FORMATS])


class Variant(NamedTuple):
    """What a compiled kernel is made for.

    Attributes
    ----------
    compute : dtype
        Of all arithmetic.
    formats : tuple of Format
        Of the arrays, in the order of `fastadam.memory.structs.ROLES`.
    flags : int
        The options that are compiled in (see `flags_of`).
    """

    compute: np.dtype[Any]
    formats: tuple[Format, ...]
    flags: int

    @property
    def l2_on(self) -> bool:
        """Whether there is coupled weight decay."""
        return bool(self.flags & L2)

    @property
    def decoupled_on(self) -> bool:
        """Whether there is decoupled weight decay."""
        return bool(self.flags & DECOUPLED)

    @property
    def amsgrad_on(self) -> bool:
        """Whether the running maximum is used."""
        return bool(self.flags & AMSGRAD)

    @property
    def idle(self) -> bool:
        """Whether there is no gradient, and only averages move."""
        return bool(self.flags & IDLE)

    @property
    def is_compact(self) -> bool:
        """Whether an array is in one of the formats that only a step knows how to write."""
        return any(each in COMPACT for each in self.formats)

    @property
    def common_format(self) -> Format | None:
        """The format of all arrays, or None where they differ."""
        return self.formats[0] if len(set(self.formats)) == 1 else None


def flags_of(hyper: Hyperparameters) -> int:
    """Return the flags of the options that kernels are compiled for apart."""
    return L2 * hyper.l2_on + DECOUPLED * hyper.decoupled_on + AMSGRAD * hyper.amsgrad


def variants_of(codes: Any, flags: Any) -> Array:
    """Return the variants of spans.

    Parameters
    ----------
    codes : array_like of int64, shape (n,) or (5, n)
        The codes of the spans' formats: one for all arrays of a span, or those of each of `ROLES`. Without
        AMSGRAD that of the running maximum does not matter.
    flags : array_like of int64, shape (n,) or ()
        See `flags_of`; or IDLE.

    Returns
    -------
    ndarray of int64, shape (n,)

    Raises
    ------
    ValueError
        If formats that are computed with in different dtypes meet in one span, other than moments in short
        formats beside a float64 parameter.
    """
    codes = np.asarray(codes, np.int64)
    each = [*codes] if codes.ndim == 2 else [codes] * len(ROLES)
    flags = np.asarray(flags, np.int64)
    each[-1] = np.where(flags & AMSGRAD, each[-1], each[-2])
    compute = _COMPUTE_CODES[each[0]]
    for i, (role, code) in enumerate(zip(ROLES, each, strict=True)):
        # Moments may have less digits than are computed with: those of float64 parameters, too.
        less = (compute == FLOAT64.code) if i > 1 else False
        if np.any((_COMPUTE_CODES[code] != compute) & ~np.asarray(less)):
            raise ValueError(f"the parameter and its {role} are in formats that are computed with in other dtypes")
    found: Array = flags + (compute << COMPUTE_AT)
    for i, code in enumerate(each):
        found = found + (code << (FORMATS_AT + FORMAT_BITS * i))
    return found


@functools.lru_cache(maxsize=1024)
def number_of(formats: tuple[int, ...], flags: int) -> int:
    """Return the variant of one span with arrays in these formats (see `variants_of`)."""
    return int(variants_of(np.array(formats, np.int64)[:, None], flags)[0])


def variant_of(number: int) -> Variant:
    """Return what the number of a variant stands for."""
    codes = [number >> (FORMATS_AT + FORMAT_BITS * i) & _MASK for i in range(len(ROLES))]
    compute = FORMATS[number >> COMPUTE_AT & _MASK].stored
    return Variant(compute, tuple(ALL_FORMATS[code] for code in codes), number & _FLAGS)
