"""A look at parameters and their gradients by native code, apart from a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastadam.groups.members import Member
from fastadam.memory.array_offsets import TUPLE_ITEMS, array_offsets
from fastadam.memory.arrays import ALL_DTYPES, Array
from fastadam.memory.native import Block
from fastadam.memory.structs import BATCH, COUNTER, INSPECT, PLAN, ROW, ROW_INPUTS, SLOT, SPAN, TAKEN
from fastadam.memory.written import Written
from fastadam.step.after import After
from fastadam.step.backend import PartOfPlan
from fastadam.step.norm import Norm
from fastadam.step.variants import variants_of


class Inspector:
    """Looks at gradients before something else is done with them than a step.

    Parameters
    ----------
    members : sequence of Member
        Whole parameters on the host; kept, with the arrays whose addresses native code has.
    written : Written
        The memory that gradients may not share.
    """

    def __init__(self, members: Sequence[Member], written: Written) -> None:
        from fastadam.backends import c  # not loaded where nobody asks

        self._kept: tuple[Any, ...] = (list(members), written)
        self._after = After()
        self._run: Callable[[int], int] | None = None
        offsets = array_offsets()
        if c.why_missing() is not None or offsets is None or not members:
            return
        elements = [ALL_DTYPES[member.dtype] for member in members]
        codes: Array = np.array([each.format.code for each in elements], np.int64)
        order = np.argsort(codes, kind="stable")
        spans = np.zeros(len(members), SPAN.dtype)
        spans["param"] = [members[i].address for i in order]
        spans["size"] = spans["length"] = [members[i].size * elements[i].reals for i in order]
        spans["slot"] = order
        objects = np.zeros(len(members), SLOT.dtype)
        objects["param_object"] = [id(member.owner) for member in members]
        objects["dtype_object"] = objects["grad_dtype_object"] = [id(member.dtype) for member in members]
        objects["elements"] = [member.size for member in members]
        variants, first, count = np.unique(variants_of(codes[order], 0), return_index=True, return_counts=True)
        batches = np.zeros(len(variants), BATCH.dtype)
        batches["variant"], batches["first"], batches["count"] = variants, first, count
        memory = Block(PLAN)
        written_memory = {"written_starts": written.starts, "written_ends": written.ends}
        for name, each in {"spans": spans, "batches": batches, "slots": objects, **written_memory}.items():
            memory.point(name, each)
        memory.point("after", self._after.block.values)
        memory["n_batches"], memory["n_written"], memory["offsets"] = len(batches), len(written.starts), offsets
        rows, row_inputs, counters = (np.zeros(0, struct.dtype) for struct in (ROW, ROW_INPUTS, COUNTER))
        no_weights: Array = np.zeros(0)
        part = PartOfPlan(
            *(spans, rows, row_inputs, batches, counters, memory, False, Norm()),
            *(self._after, no_weights, np.zeros(0, np.int64)),
        )
        self._kept += (part,)
        self._memory, self._run = memory, c.bind(part)

    def are_plain(self, grads: tuple[Any, ...], zeroes: bool) -> bool:
        """Whether all is right, and nothing has to be copied or converted; else Python has to look.

        Parameters
        ----------
        grads : tuple
            One for each parameter.
        zeroes : bool
            Whether they have to be writable.
        """
        if self._run is None or any(grad is None for grad in grads):
            return False
        if zeroes is not self._after.zeroes:
            self._after.zero(zeroes)
        self._memory["grad_objects"] = id(grads) + TUPLE_ITEMS
        return self._run(INSPECT) == TAKEN
