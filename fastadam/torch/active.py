"""The parameters that have a gradient, as the plan of a step over tensors where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.native import Block
from fastadam.memory.structs import AVERAGE, COUNTER, COUNTER_FLOAT32, COUNTER_FLOAT64, IDLE, MOMENTS, SPAN
from fastadam.memory.tensor_structs import ACTIVE_PLAN
from fastadam.step import threads
from fastadam.step.backend import Backend
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.norm import Norm
from fastadam.step.plan import Plan
from fastadam.step.variants import flags_of, variants_of
from fastadam.torch.averages import Averages
from fastadam.torch.cache import TensorCache
from fastadam.torch.staging import shares
from fastadam.torch.tensors import apart, in_order

# A step of so few takes some microseconds, in which other threads of Python can wait: then none of them can free
# memory that is being stepped, and the lock is not given up and taken back.
ELEMENTS_WITH_GIL = 32_768


class ActivePlan:
    """The plan of a step over parameters that are known to a cache.

    Parameters
    ----------
    cache : TensorCache
    active : ndarray of bool
        Which of its parameters have a gradient; all of them are known.
    idle : ndarray of bool
        Which have averages that move when they have no gradient; all of them are known.
    hypers : sequence of Hyperparameters
        Of each group.
    backends : mapping of int or None to Backend
        For each CUDA device, and for the host.
    limit : int
        Upper limit of threads.
    limit_given : bool
        Whether the user asked for that many.
    norm : Norm
        What is wanted of the norm of the gradients.
    averages : Averages
    leaves_out : bool, default False
        Whether any of those that are active may be without a gradient, and is left out then. Otherwise others are
        idle than those that are active.

    Attributes
    ----------
    leaves_out : bool
    params : list of Tensor
        Those that are stepped, or can be.
    n_active : int
        How many those are.
    which : list of int
        Their positions in the cache, and then those of the idle ones.
    plan : Plan
    backend : Backend or None
        What runs the plan, if it is one for all.
    devices : list of Backend
        Those of CUDA devices, whose streams are to be set before a step.
    limit : int
    is_serial : bool
        Whether there is work for one thread only, whatever the limit.
    is_apart : bool
        Whether what the step writes lies apart, as the plan needs it.
    span_of, idle_of : ndarray of int64
        Positions in the plan of each of the cache's parameters with and without a gradient, or -1.
    steps_taken : ndarray of float64
        How many steps the members of each row have taken; NaN where there is no such row. Not in use where spans
        are left out: then each active parameter has a row.
    written : (ndarray of int64, ndarray of int64)
        Where the intervals of memory that it writes, or reads beside gradients, start and end.
    block : Block of ACTIVE_PLAN
        For native code.
    """

    def __init__(
        self,
        cache: TensorCache,
        active: Array,
        idle: Array,
        hypers: Sequence[Hyperparameters],
        backends: Mapping[int | None, Backend],
        limit: int,
        limit_given: bool,
        norm: Norm,
        averages: Averages,
        leaves_out: bool = False,
    ) -> None:
        self.leaves_out = leaves_out
        self.n_active = int(active.sum())
        which = np.concatenate([np.flatnonzero(active), np.flatnonzero(idle)])
        self.which: list[int] = which.tolist()
        self._idle = np.arange(len(which)) >= self.n_active
        self.params = [cache.tensors[i] for i in self.which[: self.n_active]]
        known = cache.params[which]
        self._groups = cache.group_of[which]
        spans = np.zeros(len(which), SPAN.dtype)
        for name in ("param", *MOMENTS, "size"):
            spans[name] = known[name]
        for name, addresses in cache.beside.items():
            spans[name] = addresses[which]
        spans["position"] = which
        flags = np.where(self._idle, IDLE, np.array([flags_of(hyper) for hyper in hypers])[self._groups])
        variants = variants_of(cache.formats[:, which], flags)
        # As many rows as there could ever be, so that they stay where they are. No counter is NaN, so that the
        # first attempt groups the rows.
        self.steps_taken = np.full(len(which), np.nan)
        if averages.are_kept:
            # Kept, as the spans have their addresses.
            self._averages = [averages.of(cache.tensors[i]) for i in self.which]
            spans[AVERAGE] = [average.data_ptr() for average in self._averages]
        counters = np.zeros(self.n_active, COUNTER.dtype)
        counters["address"] = known["step"][: self.n_active]
        is_float64 = known["step_is_float64"][: self.n_active]
        counters["type"] = np.where(is_float64, COUNTER_FLOAT64, COUNTER_FLOAT32)
        self._row_groups: Array = np.zeros(0, np.int64)
        if leaves_out:
            of_rows = counters
            self._row_groups = self._groups[: self.n_active]
            spans["row"] = np.cumsum(active)[which] - 1
        else:
            of_rows = counters_in(self.steps_taken)
            counters = np.concatenate([counters, of_rows])
        ordinals = [cache.ordinals[i] for i in self.which]
        used, backend_of = shares(ordinals, backends)
        self.backend = used[0] if len(used) == 1 else None
        self.devices: list[Any] = [backends[each] for each in set(ordinals) - {None}]
        self.plan = Plan(
            *(spans, variants, of_rows, counters, used, limit, limit_given),
            *(backend_of, norm, averages.after),
        )
        self.limit = limit
        most = int(self.plan.batches["elements"].max())
        self.is_serial = threads.threads_for(most, threads.MOST) == 1
        place_of = np.argsort(self.plan.order)
        self.span_of, self.idle_of = (np.full(len(active), -1, np.int64) for _ in range(2))
        self.span_of[which[: self.n_active]] = place_of[: self.n_active]
        self.idle_of[which[self.n_active :]] = place_of[self.n_active :]
        written = in_order(extent for i in sorted({*self.which}) for extent in cache.extents[i])
        self.is_apart = apart(written)
        starts, ends = np.array(written, np.int64).reshape(-1, 2).T.copy()
        self.written = starts, ends
        self.plan.set_written(*self.written)
        self.block = Block(ACTIVE_PLAN)
        self.block["plan"] = self.plan.memory.address
        self.block.point("span_of", self.span_of)
        self.block.point("idle_of", self.idle_of)
        self.block["leaves_out"] = leaves_out
        self.block.point("steps_taken", self.steps_taken)
        self.block["keeps_gil"] = self.plan.spans["size"].sum() <= ELEMENTS_WITH_GIL

    def group_rows(self, steps: Array, coefficients: Sequence[Coefficients]) -> bool:
        """Give a row of coefficients to each distinct pair of group and step counter.

        Parameters
        ----------
        steps : ndarray of float64
            The counters of all the cache's parameters.
        coefficients : sequence of Coefficients
            Of each group.

        Returns
        -------
        bool
            Whether all counters are numbers that one can count on from.
        """
        if not np.all((steps[self.which] >= 0) & (steps[self.which] < 2**53)):
            return False
        keys = np.stack([self._idle, self._groups, steps[self.which]])  # rows that are idle come last
        distinct, row_of = np.unique(keys, axis=1, return_inverse=True)
        self.steps_taken.fill(np.nan)  # an interrupt on the way leaves rows that the next attempt groups anew
        self.plan.memory["n_counters"] = self.n_active + np.count_nonzero(distinct[0] == 0)
        self.plan.spans["row"] = row_of.reshape(-1)[self.plan.order]
        self._row_groups = distinct[1].astype(np.int64)
        self.write_options(coefficients)
        self.steps_taken[: distinct.shape[1]] = distinct[2]
        return True

    def write_options(self, coefficients: Sequence[Coefficients]) -> None:
        """Take over the options of the groups."""
        if len(self._row_groups):
            self.plan.write_options(coefficients, self._row_groups)
