"""The pieces of a parameter that a step with a sparse gradient goes over: spans (see `fastadam.torch.sparse`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE, SCALE_BLOCK, SCALES
from fastadam.torch.part import Part
from fastadam.torch.sparse import Rows
from fastadam.torch.tensors import DTYPES


def in_pieces(spans: Array, parts: Sequence[Part], averages: bool) -> tuple[Array, Array, Array]:
    """Return spans of which those of sparse gradients are one for each run.

    Parameters
    ----------
    spans : ndarray of SPAN
        One for each part, as if it were dense: with the first address of everything; of the gradient, that of its
        values.
    parts : sequence of Part
    averages : bool
        Whether there are averages, which move where there are no rows, too.

    Returns
    -------
    spans : ndarray of SPAN
    of : ndarray of int64
        The part of each.
    idle : ndarray of bool
        Which have nothing but averages to be moved.
    """
    if all(part.rows is None for part in parts):
        return spans, np.arange(len(spans)), np.zeros(len(spans), bool)
    found, of, idle = [], [], []
    for i, part in enumerate(parts):
        each = [spans[i : i + 1]]
        if part.rows is not None:
            each = [_pieces_of(spans[i], part, part.rows)]
            if averages:
                each.append(_pieces_of(spans[i], part, part.rows.between(part.written[0].numel())))
        found += each
        of.append(np.full(sum(map(len, each)), i))
        idle += [np.full(len(some), k > 0) for k, some in enumerate(each)]
    return np.concatenate(found), np.concatenate(of), np.concatenate(idle)


def _pieces_of(span: Any, part: Part, rows: Rows) -> Array:
    pieces: Array = np.repeat(span.reshape(1), len(rows.starts))
    param = part.written[0]
    reals = DTYPES[param.dtype].reals
    pieces["first"], pieces["size"] = rows.starts * reals, rows.lengths * reals
    pieces["grad"] += (np.cumsum(rows.lengths) - rows.lengths) * part.read.element_size()
    for name, tensor in zip(("param", *part.names), part.written, strict=True):
        if name in SCALES.values():
            pieces[name] += rows.starts * reals // SCALE_BLOCK * tensor.element_size()
        else:
            pieces[name] += rows.starts * (tensor.numel() // param.numel() * tensor.element_size())
    if span[AVERAGE]:
        compute = DTYPES[param.dtype].format.compute.itemsize
        pieces[AVERAGE] += rows.starts * reals * compute
    return pieces
