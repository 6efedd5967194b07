"""The norm of gradients that no optimizer has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastadam import backends
from fastadam.memory.arrays import ALL_DTYPES, Array, address, as_reals
from fastadam.memory.native import Block
from fastadam.memory.structs import BATCH, COUNTER, PLAN, ROW, ROW_INPUTS, SPAN
from fastadam.step.after import After
from fastadam.step.backend import PartOfPlan
from fastadam.step.norm import Norm
from fastadam.step.reduce import reduce
from fastadam.step.threads import check_limit, threads_for
from fastadam.step.variants import variants_of


def measure(grads: Sequence[Array], norm: Norm, backend: str = "auto", limit: int | None = None) -> int:
    """Compute the norm of gradients, and what clips them.

    Parameters
    ----------
    grads : sequence of ndarray
        Plain ones of dtypes that are stepped, on the host, with any strides: numbers are taken in the order of
        their indices.
    norm : Norm
        Says what is wanted; written to.
    backend : str, default "auto"
    limit : int, optional
        Of threads.

    Returns
    -------
    int
        TAKEN, or what `norm` says of numbers that are not finite.
    """
    numbers = [as_reals(np.ascontiguousarray(grad)) for grad in grads]  # kept until they are measured
    codes = np.array([ALL_DTYPES[each.dtype].format.code for each in grads], np.int64)
    order = np.argsort(codes, kind="stable")
    spans = np.zeros(len(numbers), SPAN.dtype)
    spans["grad"] = [address(numbers[i]) for i in order]
    spans["size"] = [numbers[i].size for i in order]
    variants, first, count = np.unique(variants_of(codes[order], 0), return_index=True, return_counts=True)
    batches = np.zeros(len(variants), BATCH.dtype)
    batches["variant"], batches["first"], batches["count"] = variants, first, count
    batches["elements"] = np.add.reduceat(spans["size"], first) if len(first) else 0
    most = check_limit(limit)
    batches["threads"] = [threads_for(each, most) for each in batches["elements"].tolist()]
    norm.reserve(int(batches["threads"].max(initial=1)))
    memory = Block(PLAN)
    memory.point("spans", spans)
    memory.point("batches", batches)
    memory.point("norm", norm.block.values)
    memory["n_batches"] = len(batches)
    rows, row_inputs, counters = (np.zeros(0, struct.dtype) for struct in (ROW, ROW_INPUTS, COUNTER))
    weights: Array = np.zeros(0)
    part = PartOfPlan(
        *(spans, rows, row_inputs, batches, counters, memory, limit is not None, norm),
        *(After(), weights, np.zeros(0, np.int64)),
    )
    _, chosen = backends.choose(backend)
    chosen.bind_measure(part)()
    return reduce(part)
