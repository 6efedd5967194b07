"""The plan of steps of which some are over rows, and the gradients that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.devices import device_of
from fastadam.memory.rows import Read
from fastadam.memory.structs import TAKEN
from fastadam.step import threads
from fastadam.step.backend import Call
from fastadam.step.interrupts import in_one_go
from fastadam.step.norm import Norm
from fastadam.step.row_plan import RowPlan
from fastadam.work.devices import share_out
from fastadam.work.planner import Planner
from fastadam.work.row_options import RowOptions
from fastadam.work.row_slots import RowSlots


class Entry(NamedTuple):
    """The gradient of a parameter.

    Attributes
    ----------
    grad : array or None
        Of all of it, as kernels read it.
    read : Read or None
        Of some rows, or of all that have stepped apart.
    given : array
        As the user gave it.
    held : weakref or None
        Of that array: as long as there is one, NumPy refuses to give it other memory in ``resize``.
    """

    grad: Array | None
    read: Read | None
    given: Any
    held: Any = None


class RowWork:
    """The plan of steps with gradients for the same parameters, of the same of them for some rows.

    Parameters
    ----------
    planner : Planner
    active, apart : ndarray of bool
        Which of the parameters have a gradient, and which of them are stepped row by row.
    dtypes : sequence of dtype
        Those of the gradients.
    is_exact : bool
        Whether rows that are not touched catch up later.
    """

    def __init__(
        self,
        planner: Planner,
        active: Array,
        apart: Array,
        dtypes: Sequence[np.dtype[Any]],
        is_exact: bool,
    ) -> None:
        groups = planner.groups
        # In rows that will catch up, averages do, too.
        slots = RowSlots(groups, active, apart, dtypes, planner.after.averages, others=not is_exact)
        self._slots = slots
        used, backend_of = share_out(slots.devices, planner.backends)
        self._norm = Norm()  # what gradients are multiplied by is known before
        self._options = RowOptions(slots.rows, slots.n_stepped)
        self._plan = RowPlan(
            *(slots.spans, slots.variants, backend_of[slots.whole], slots.regions(backend_of)),
            *(slots.counters, slots.counters[: slots.n_stepped], used, threads.check_limit(planner.threads)),
            *(planner.threads is not None, self._norm, planner.after),
        )
        self.write_options()

    def write_options(self) -> None:
        """Take over the groups' options, after they were checked."""
        self._options.write_to(self._plan)

    def make_ready(self, norm: Norm) -> None:
        """Set what the next step depends on: the norm of its gradients, and the learning rates of schedules."""
        self._options.call_schedules(self._plan)
        self._norm.follow(norm)

    @property
    def scale(self) -> float:
        """What the gradients of the next step are multiplied by."""
        return float(self._norm.block["coefficient"]) / float(self._norm.block["divisor"])

    @property
    def rates(self) -> list[float]:
        """The learning rates of the parameters that are stepped row by row."""
        return [float(self._plan.row_inputs["lr"][row]) for row in self._slots.rows_of_tables]

    def take(self, given: Sequence[Entry], calls: Sequence[Call]) -> list[Any]:
        """Take and count a step, and make more native calls that belong to it; return what they return.

        Parameters
        ----------
        given : sequence of Entry
            For each parameter that has a gradient.
        calls : sequence of callable
        """
        slots = self._slots
        grads: Array = np.zeros(slots.n_whole, np.int64)
        dense = [entry.grad for entry in given if entry.read is None and entry.grad is not None]
        grads[: len(dense)] = [device_of(grad).address(grad) for grad in dense]
        self._plan.lay(grads, slots.cuts([entry.read for entry in given if entry.read is not None]))
        outcome, ready = self._plan.prepare()
        assert outcome == TAKEN
        assert ready is not None
        returned = in_one_go([*ready.calls, *calls])
        if ready.check is not None:
            ready.check()
        return returned[len(ready.calls) :]
