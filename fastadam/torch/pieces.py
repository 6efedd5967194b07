"""The pieces of a parameter that a step with a sparse gradient goes over: spans (see `fastadam.torch.sparse`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE
from fastadam.step.cutting import Cut, Region, Runs, others_of, runs_of, write_runs
from fastadam.torch.part import Part
from fastadam.torch.sparse import Rows
from fastadam.torch.tensors import DTYPES, count_reals


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
            region, cut = _region_of(spans[i : i + 1], part), _cut_of(spans[i], part, part.rows)
            each = [_pieces_of(region, runs_of(cut, cut.like))]
            if averages:
                each.append(_pieces_of(region, others_of(cut)))
        found += each
        of.append(np.full(sum(map(len, each)), i))
        idle += [np.full(len(some), k > 0) for k, some in enumerate(each)]
    return np.concatenate(found), np.concatenate(of), np.concatenate(idle)


def _region_of(span: Array, part: Part) -> Region:
    assert part.rows is not None
    param, n_rows = part.written[0], max(part.rows.n_rows, 1)
    row_bytes = {
        name: tensor.numel() * tensor.element_size() // n_rows
        for name, tensor in zip(("param", *part.names), part.written, strict=True)
    }
    row_size = count_reals(param) // n_rows
    if span[AVERAGE][0]:
        row_bytes[AVERAGE] = row_size * DTYPES[param.dtype].format.compute.itemsize
    return Region(span, 0, 0, row_size, row_bytes, False)


def _cut_of(span: Any, part: Part, rows: Rows) -> Cut:
    numbers = rows.numbers if part.written[0].numel() else rows.numbers[:0]
    grad_bytes = part.read.numel() * part.read.element_size() // max(len(rows.numbers), 1)
    places, row = np.arange(len(numbers)), int(span["row"])
    return Cut(numbers, places, int(span["grad"]), grad_bytes, 0, rows.n_rows, row, places[:0], None)


def _pieces_of(region: Region, runs: Runs) -> Array:
    pieces: Array = np.repeat(region.span, max(len(runs.starts), 1))
    pieces["size"] = 0  # a plan has a span for each of its parts at least
    write_runs(pieces[: len(runs.starts)], region, runs)
    return pieces
