"""The plan of a step in which some gradients are sparse: of their parameters, it is over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE, IDLE
from fastadam.step.after import After
from fastadam.step.backend import Backend, Prepared
from fastadam.step.coefficients import Coefficients
from fastadam.step.cutting import Cut, Region
from fastadam.step.norm import Norm
from fastadam.step.row_plan import RowPlan
from fastadam.step.variants import number_of
from fastadam.torch.part import Part
from fastadam.torch.sparse import Rows
from fastadam.torch.tensors import DTYPES, count_reals


def prepared_over_rows(
    parts: Sequence[Part],
    spans: Array,
    variants: Array,
    backend_of: Array,
    *,
    coefficients: Sequence[Coefficients],
    step_counters: Array,
    counters: Array,
    backends: Sequence[Backend],
    limit: int,
    norm: Norm,
    after: After,
) -> tuple[RowPlan, Prepared]:
    """Make a step ready that is over the rows of sparse gradients, and over the whole of other parameters.

    Parameters
    ----------
    parts : sequence of Part
    spans, variants, backend_of : ndarray
        For each part, as if it were dense: with the first address of everything; of the gradient, that of its
        values.
    coefficients : sequence of Coefficients
        For each row of coefficients.
    step_counters, counters, backends, limit, norm, after
        See `fastadam.step.row_plan.RowPlan`. Nothing is wanted of the norm.

    Returns
    -------
    plan : RowPlan
        To be kept until the step is taken.
    prepared : Prepared
    """
    is_whole: Array = np.array([part.rows is None for part in parts], bool)
    regions: list[Region] = []
    cuts: list[Cut] = []
    for i, part in enumerate(parts):
        if part.rows is not None:
            span, cut = spans[i : i + 1], _cut_of(spans[i], part, part.rows)
            region = _region_of(span, part, part.rows, int(variants[i]), int(backend_of[i]))
            regions.append(region)
            cuts.append(cut)
            if after.averages:  # these move where there are no rows, too
                regions.append(region._replace(variant=number_of(part.formats, IDLE), idle=True))
                cuts.append(cut)
    whole = spans[is_whole], variants[is_whole], backend_of[is_whole]
    plan = RowPlan(*whole, regions, step_counters, counters, backends, limit, False, norm, after)
    plan.write_options(coefficients, np.arange(len(coefficients)))
    plan.lay(spans["grad"][is_whole], cuts)
    _, prepared = plan.prepare()
    assert prepared is not None
    return plan, prepared


def _region_of(span: Array, part: Part, rows: Rows, variant: int, backend: int) -> Region:
    param, n_rows = part.written[0], max(rows.n_rows, 1)
    row_bytes = {
        name: tensor.numel() * tensor.element_size() // n_rows
        for name, tensor in zip(("param", *part.names), part.written, strict=True)
    }
    row_size = count_reals(param) // n_rows
    if span[AVERAGE][0]:
        row_bytes[AVERAGE] = row_size * DTYPES[param.dtype].format.compute.itemsize
    return Region(span, variant, backend, row_size, row_bytes, False)


def _cut_of(span: Any, part: Part, rows: Rows) -> Cut:
    has_numbers = part.written[0].numel() > 0
    numbers, places = (rows.numbers, rows.places) if has_numbers else (rows.numbers[:0], rows.places[:0])
    grad_bytes = part.read.numel() * part.read.element_size() // max(len(rows.numbers), 1)
    return Cut(numbers, places, int(span["grad"]), grad_bytes, 0, rows.n_rows, int(span["row"]), places[:0], None)
