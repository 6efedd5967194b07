"""Sparse gradients: steps over the rows of a parameter that a gradient has numbers for, and over no others.

A *row* is what one index of a gradient in COO format stands for: the elements of the dense dimensions, one after
the other in a contiguous parameter. Rows that are neighbours are one run, and each run is a span of the plan, with
the coefficients of its parameter. So a step costs what its rows do, whatever the size of the table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadam.memory.arrays import Array
from fastadam.memory.rows import HALF, added_up, in_order
from fastadam.memory.structs import SCALE_BLOCK, SCALES
from fastadam.step.quiet import Quiet
from fastadam.torch.compact import Layout
from fastadam.torch.tensors import DTYPES, goes_with, has_its_memory, view_of

LAZY = "lazy"
REFUSED = (
    "Adam does not support sparse gradients, please consider SparseAdam instead; or "
    'fastadam.torch.Adam(..., sparse="lazy"), which steps the rows that a gradient has, beside dense parameters'
)


class SparseChoice(NamedTuple):
    """What an optimizer is to do with sparse gradients: refuse them, or "lazy"."""

    sparse: str | None = None


def check_choice(sparse: Any) -> None:
    """Check what an optimizer is to do with sparse gradients.

    Raises
    ------
    ValueError
        If it is neither None nor "lazy".
    """
    if sparse is not None and (not isinstance(sparse, str) or sparse != LAZY):
        raise ValueError(
            f'sparse must be None, which refuses sparse gradients, or "lazy", which steps rows that they have, '
            f"got {sparse!r}"
        )


class Rows(NamedTuple):
    """The rows that a gradient has.

    Attributes
    ----------
    numbers : ndarray of int64
        Which, rising.
    places : ndarray of int64
        Which row of the values each one's numbers are.
    n_rows : int
        How many the parameter has.
    """

    numbers: Array
    places: Array
    n_rows: int


def rows_of(grad: Tensor, param: Tensor, layout: Layout, label: str) -> tuple[Rows, Tensor]:
    """Return the rows of a sparse gradient, checked, and their values.

    Parameters
    ----------
    grad : Tensor
        In COO format, coalesced or not: rows that come several times are added in the order in which they come,
        in float32 where they are of 16 bits.
    param : Tensor
        A view of the parameter.
    layout : Layout
        How that lies, with its state.
    label : str
        How error messages call it.

    Returns
    -------
    rows : Rows
    values : Tensor, of shape (rows, width)
        Contiguous, in the order that ``rows.places`` says. It may be the gradient's own memory.

    Raises
    ------
    RuntimeError
        If the gradient does not belong to the parameter, or such steps cannot be taken over it.
    """
    label = f"the gradient of {label}"
    dtype = param.dtype if not goes_with(grad.dtype, param.dtype) else grad.dtype
    for what, found, wanted in (
        ("device", grad.device, param.device),
        ("dtype", grad.dtype, dtype),
        ("shape", tuple(grad.shape), tuple(param.shape)),
    ):
        if found != wanted:
            raise RuntimeError(
                f"{label} has {what} {found}, its parameter has {wanted}; make them alike before the step"
            )
    if param.device.type != "cpu":
        raise RuntimeError(f"{label} is sparse and on {param.device}; step with grad.to_dense() there")
    if not param.is_contiguous():
        raise RuntimeError(
            f"{label} is sparse, and its parameter has the strides {param.stride()}, in which rows are in pieces; "
            f"make it contiguous, or step with grad.to_dense()"
        )
    n_sparse = grad.sparse_dim()
    width = math.prod(param.shape[n_sparse:])
    if _splits_blocks(layout, param, width):
        raise RuntimeError(
            f"{label} is sparse, and its rows of {width} numbers share blocks of {SCALE_BLOCK} with others; take "
            f'state_dtype="bfloat16", rows of a multiple of {SCALE_BLOCK} numbers, or step with grad.to_dense()'
        )
    indices, values = view_of(grad._indices()), view_of(grad._values())
    if not (has_its_memory(indices) and has_its_memory(values)):
        raise RuntimeError(f"{label} has a storage that was freed or shrunk")
    values = values.resolve_conj().resolve_neg().reshape(indices.shape[1], width)
    numbers = _numbers(indices.numpy(), tuple(param.shape[:n_sparse]), label)
    places: Array = np.arange(len(numbers))
    if (numbers[1:] <= numbers[:-1]).any():
        numbers, places = in_order(numbers)
        if (numbers[1:] == numbers[:-1]).any():
            wide = values.float() if values.element_size() == HALF else values
            numbers, sums = Quiet().run(added_up, wide.numpy(), numbers, places)
            values, places = torch.from_numpy(sums), np.arange(len(sums))
    return Rows(numbers, places, math.prod(param.shape[:n_sparse])), values.contiguous()


def in_order_of_rows(values: Tensor, rows: Rows) -> Tensor:
    """Return the values of rows one after the other, in their dtype."""
    if (rows.places == np.arange(len(rows.places))).all():
        return values
    # By NumPy, as torch wakes its threads for that; it has no bfloat16.
    stored = values.view(torch.int16) if values.element_size() == HALF else values
    return torch.from_numpy(stored.numpy().take(rows.places, axis=0)).view(values.dtype)


def _splits_blocks(layout: Layout, param: Tensor, width: int) -> bool:
    blocks = any(layout.stored[name].kept.block > 1 for name in SCALES.values() if name in layout.stored)
    return blocks and width * DTYPES[param.dtype].reals % SCALE_BLOCK != 0


def _numbers(indices: Array, shape: tuple[int, ...], label: str) -> Array:
    """Return the number of each row, in an array of its own, from indices of shape (dimensions, rows)."""
    indices = indices.copy()  # before they are looked at: others may write to theirs
    if indices.size and (indices.min() < 0 or np.any(indices.max(axis=1) >= shape)):
        raise RuntimeError(
            f"{label} has indices from {indices.min(axis=1).tolist()} to {indices.max(axis=1).tolist()}, and its "
            f"parameter has the rows of shape {shape}; make the gradient under "
            f"torch.sparse.check_sparse_tensor_invariants, which shows where they come from"
        )
    if len(shape) == 1:
        return np.ascontiguousarray(indices[0])
    found: Array = np.zeros(indices.shape[1], np.int64)
    for index, length in zip(indices, shape, strict=True):
        found = found * length + index
    return found
