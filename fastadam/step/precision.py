"""In which format each array of a parameter lies, by the options of its group and its dtype."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.formats import (
    BFLOAT16,
    BFLOAT16_MASTER,
    BFLOAT16_STOCHASTIC,
    FLOAT16,
    FLOAT16_MASTER,
    FLOAT16_STOCHASTIC,
    FLOAT32,
    INT8,
    ROOT8,
    Element,
    Format,
)
from fastadam.memory.structs import AVERAGE, MASTER, MOMENTS, SCALE_BLOCK, SCALES
from fastadam.step.compact import AT_RANDOM
from fastadam.step.hyperparameters import DEFAULTS, Hyperparameters, StateDtype

# What `state_dtype` stands for: the formats of `MOMENTS`. A running maximum is not rounded at random, with which
# it would not stay what it is.
STATE_FORMATS: dict[str, tuple[Format, ...]] = {
    "float32": (FLOAT32, FLOAT32, FLOAT32),
    "bfloat16": (BFLOAT16_STOCHASTIC, BFLOAT16_STOCHASTIC, BFLOAT16),
    "int8": (INT8, ROOT8, ROOT8),
}
# Of each moment, where its numbers are codes.
CODES = dict(zip(MOMENTS, STATE_FORMATS["int8"], strict=True))
# What amsgrad needs beside the other moments.
OF_MAXIMUM = MOMENTS[2], SCALES[MOMENTS[2]]
_WITH_MASTER = {BFLOAT16: BFLOAT16_MASTER, FLOAT16: FLOAT16_MASTER}
_STOCHASTIC = {BFLOAT16: BFLOAT16_STOCHASTIC, FLOAT16: FLOAT16_STOCHASTIC}
# What lies beside a weight that has a master.
_RESTS: dict[Format, np.dtype[Any]] = {BFLOAT16_MASTER: np.dtype(np.int16), FLOAT16_MASTER: np.dtype(np.float32)}


class Kept(NamedTuple):
    """How one array of a parameter's state lies in memory.

    Attributes
    ----------
    format : Format
        Of its numbers.
    stored : dtype or None
        Of the array, in which complex numbers are pairs; None where it is the parameter's own.
    block : int
        How many of the parameter's numbers one of them is for: `SCALE_BLOCK` for scales, else 1.
    """

    format: Format
    stored: np.dtype[Any] | None
    block: int

    def length(self, size: int, reals: int) -> int:
        """Return how many numbers of `stored` belong to a parameter of `size` elements of so many `reals`."""
        return size if self.stored is None else -(-size * reals // self.block)

    def shape(self, shape: tuple[int, ...], reals: int) -> tuple[int, ...]:
        """Return the shape of the array, for a parameter of a shape; scales are in one row."""
        if self.block > 1:
            return (self.length(int(np.prod(shape, dtype=np.int64)), reals),)
        return shape if self.stored is None or reals == 1 else (*shape, reals)


def formats_of(hyper: Hyperparameters, element: Element, grad: Format | None = None) -> tuple[Format, ...]:
    """Return the formats of the arrays of a parameter, in the order of `ROLES`.

    Parameters
    ----------
    hyper : Hyperparameters
        The options of its group.
    element : Element
        What its elements are.
    grad : Format, optional
        That of its gradient; by default the parameter's own.
    """
    own = element.format
    param = own
    if hyper.master_weights:
        param = _WITH_MASTER.get(own, own)
    elif hyper.rounding == "stochastic":
        param = _STOCHASTIC.get(own, own)
    if hyper.state_dtype is None:
        moments = (FLOAT32 if param in _RESTS else own,) * len(MOMENTS)
    else:
        moments = STATE_FORMATS[hyper.state_dtype]
    return param, grad or own, *moments


def kept_of(hyper: Hyperparameters, element: Element) -> Mapping[str, Kept]:
    """Return the arrays of a parameter's state by name, with those that amsgrad and averages need.

    Parameters
    ----------
    hyper : Hyperparameters
        The options of its group.
    element : Element
        What its elements are.
    """
    return _kept_of(hyper.state_dtype, hyper.master_weights, element)


@functools.lru_cache(maxsize=256)  # checkpoints ask for it for each of very many parameters
def _kept_of(state_dtype: StateDtype, master_weights: bool, element: Element) -> Mapping[str, Kept]:
    hyper = DEFAULTS._replace(state_dtype=state_dtype, master_weights=master_weights)
    param, _, *moments = formats_of(hyper, element)
    kept = {}
    for name, number_format in zip(MOMENTS, moments, strict=True):
        # State that was asked for in bfloat16 lies in the same dtype throughout, whatever the parameter has.
        is_own = number_format == element.format and state_dtype != BFLOAT16.name
        kept[name] = Kept(number_format, None if is_own else number_format.stored, 1)
        if number_format in (INT8, ROOT8):
            kept[SCALES[name]] = Kept(FLOAT32, FLOAT32.stored, SCALE_BLOCK)
    if param in _RESTS:
        kept[MASTER] = Kept(param, _RESTS[param], 1)
    kept[AVERAGE] = Kept(element.format, None, 1)
    return MappingProxyType(kept)


def is_for_one(formats: tuple[Format, ...]) -> bool:
    """Whether a span in these formats has to be one parameter, from whose start blocks and random bits count."""
    return any(each in AT_RANDOM for each in formats)


def codes_of(formats: tuple[Format, ...]) -> list[int]:
    """Return the codes of formats."""
    return [each.code for each in formats]
