"""The plan of a step in which some gradients are sparse: of their parameters, it is over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fastadam.memory.arrays import Array
from fastadam.memory.structs import AVERAGE, IDLE, SPAN
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

_NOTHING: Array = np.zeros(0, np.int64)


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
            span, variant, backend = spans[i], int(variants[i]), int(backend_of[i])
            region = region_of(part)._replace(span=spans[i : i + 1], variant=variant, backend=backend)
            cut = cut_of(part.rows, part.read, region.row_size, int(span["grad"]), int(span["row"]))
            regions.append(region)
            cuts.append(cut)
            if after.averages:  # these move where there are no rows, too
                average = DTYPES[part.written[0].dtype].format.compute
                region.row_bytes[AVERAGE] = region.row_size * average.itemsize
                regions.append(region._replace(variant=number_of(part.formats, IDLE), idle=True))
                cuts.append(cut)
    whole = spans[is_whole], variants[is_whole], backend_of[is_whole]
    plan = RowPlan(*whole, regions, step_counters, counters, backends, limit, False, norm, after)
    plan.write_options(coefficients, np.arange(len(coefficients)))
    plan.lay(spans["grad"][is_whole], cuts)
    _, prepared = plan.prepare()
    assert prepared is not None
    return plan, prepared


def region_of(part: Part) -> Region:
    """Return the parameter of a sparse gradient, all of it, where it lies; without its row of coefficients."""
    assert part.rows is not None
    param, n_rows = part.written[0], max(part.rows.n_rows, 1)
    span, row_bytes = np.zeros(1, SPAN.dtype), {}
    for name, tensor in zip(("param", *part.names), part.written, strict=True):
        span[name] = tensor.data_ptr()
        row_bytes[name] = tensor.numel() * tensor.element_size() // n_rows
    span["position"], span["size"] = part.position, count_reals(param)
    return Region(span, 0, 0, count_reals(param) // n_rows, row_bytes, False)


def cut_of(rows: Rows, values: Tensor, row_size: int, grad: int, row: int) -> Cut:
    """Return what a step steps of a region.

    Parameters
    ----------
    rows : Rows
    values : Tensor
        Those of the gradient.
    row_size : int
        Of a row of the parameter, in real numbers.
    grad : int
        Where the values lie.
    row : int
        The number of the row of coefficients.
    """
    numbers, places = (rows.numbers, rows.places) if row_size else (_NOTHING, _NOTHING)
    grad_bytes = values.numel() * values.element_size() // max(len(rows.numbers), 1)
    return Cut(numbers, places, grad, grad_bytes, 0, rows.n_rows, row, _NOTHING, None)
