"""The plan of a step: all that a native call needs, in the structs of `fastadam.memory.structs`.

A *span* is a run of numbers with the addresses of its parameter, gradient and moments, and the row of
coefficients that it shares with all spans that have taken the same steps. A *batch* is the spans that one compiled
variant takes, and a *part* of the plan the batches that one backend runs, where there are several.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from fastadam.memory.arrays import Array
from fastadam.memory.native import Block
from fastadam.memory.structs import (
    APPLY,
    BATCH,
    IDLE,
    INSPECT,
    MEASURE,
    MEASURES,
    PLAN,
    REDUCE,
    ROW,
    ROW_INPUTS,
    Constant,
    Rates,
)
from fastadam.step import threads
from fastadam.step.after import After
from fastadam.step.backend import Backend, PartOfPlan, Prepare, Prepared, Run
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import Counting
from fastadam.step.norm import Norm
from fastadam.step.prepared import run_of
from fastadam.step.reduce import reduce


class Plan:
    """Spans and coefficients, bound to the backends that step them.

    Parameters
    ----------
    spans : ndarray of SPAN
        What their addresses point at is kept alive by who made them, as long as the plan takes steps.
    variants : ndarray of int64
        The compiled variant of each span (see `fastadam.step.variants`).
    step_counters : ndarray of COUNTER
        For each row of coefficients, where the steps that its spans have taken are counted.
    counters : ndarray of COUNTER
        What to add 1 to when a step has been taken. The memory of both is kept alive as that of the spans.
    backends : sequence of Backend
        Who steps the spans.
    limit : int
        Upper limit of threads.
    limit_given : bool
        Whether the user asked for that many.
    backend_of : ndarray of int64, optional
        For each span, its backend's position in `backends`; by default all are the first one's. The parts of the
        plan are run from the last backend to the first: if that is the host's, it steps its spans while what the
        others have started on their devices goes on.
    norm : Norm, optional
        What is wanted of the gradients' norm; by default nothing.
    after : After, optional
        What is done with numbers that have been stepped; by default nothing. Where averages are kept, all spans
        have one, and those of variants that are IDLE have nothing else to be moved.

    Attributes
    ----------
    spans : ndarray of SPAN
        Sorted by backend and variant.
    order : ndarray of int64
        Where each of them was in the spans given.
    counters : ndarray of COUNTER
    rows : ndarray of ROW
        Written by each step, for itself.
    row_inputs : ndarray of ROW_INPUTS
        What they are computed from.
    ema_weights : ndarray of float64
        Those of the rows' averages, written as the rows are.
    random_keys : ndarray of int64
        What the rows' random bits come from (see `fastadam.step.compact`), written as the rows are.
    batches : ndarray of BATCH
    memory : Block of PLAN
        What native code gets the address of.
    attempt : callable
        ``attempt()`` takes and counts the step if every gradient's object is plain; it returns TAKEN, or the slot
        of a gradient that Python has to look at, and then nothing was written.
    take : callable
        ``take()`` takes and counts the step with the gradients at the addresses in the spans; it returns TAKEN.
    """

    def __init__(
        self,
        spans: Array,
        variants: Array,
        step_counters: Array,
        counters: Array,
        backends: Sequence[Backend],
        limit: int,
        limit_given: bool,
        backend_of: Array | None = None,
        norm: Norm | None = None,
        after: After | None = None,
    ) -> None:
        part_of = np.zeros(len(spans), np.int64) if backend_of is None else backend_of
        self.order = np.lexsort((variants, part_of))
        self.spans = spans[self.order]
        self.spans["length"] = self.spans["size"]
        self.rows = np.zeros(len(step_counters), ROW.dtype)
        self.row_inputs = np.zeros(len(step_counters), ROW_INPUTS.dtype)
        self.row_inputs["counter"] = step_counters
        self.ema_weights: Array = np.zeros(len(step_counters))
        self.random_keys: Array = np.zeros(len(step_counters), np.int64)
        self.batches, batch_part = self._batches(variants[self.order], part_of[self.order], limit)
        self.counters = np.ascontiguousarray(counters)
        self.memory = Block(PLAN)
        for name in ("spans", "rows", "row_inputs", "ema_weights", "random_keys", "batches", "counters"):
            self.memory.point(name, getattr(self, name))
        self.memory["n_batches"], self.memory["n_counters"] = len(self.batches), len(self.counters)
        self.norm = norm or Norm()
        self.norm.reserve(self.batches["threads"].max(initial=1))
        self.memory.point("norm", self.norm.block.values)
        self.after = after or After()
        self.memory.point("after", self.after.block.values)
        self._whole = PartOfPlan(
            *(self.spans, self.rows, self.row_inputs, self.batches, self.counters),
            *(self.memory, limit_given, self.norm, self.after),
            *(self.ema_weights, self.random_keys),
        )
        used = np.unique(batch_part)[::-1].tolist()
        self._backends = [backends[number] for number in used]
        self._parts = [self._whole]
        if len(used) > 1:
            self._parts = [self._part(np.flatnonzero(batch_part == number)) for number in used]
        self._prepare: Prepare | None = None
        self.bind()
        _built.add(self)

    def _batches(self, variants: Array, part_of: Array, limit: int) -> tuple[Array, Array]:
        """Return the batches of sorted spans, and the number of each one's backend."""
        begins = (variants[1:] != variants[:-1]) | (part_of[1:] != part_of[:-1])
        first = np.flatnonzero(np.concatenate([np.ones(min(len(variants), 1), bool), begins]))
        batches = np.zeros(len(first), BATCH.dtype)
        batches["variant"], batches["first"] = variants[first], first
        batches["count"] = np.diff(first, append=len(variants))
        batches["elements"] = np.add.reduceat(self.spans["size"], first)
        batches["most_threads"] = [threads.threads_for(each, limit) for each in batches["elements"].tolist()]
        batches["threads"] = batches["most_threads"]
        return batches, part_of[first]

    def _part(self, which: Array) -> PartOfPlan:
        """Return the part of these batches, which stand one after the other; rows and counters are the plan's."""
        batches = self.batches[which[0] : which[-1] + 1]
        memory = self.memory.twin()
        memory.point("batches", batches)
        memory["n_batches"], memory["n_row_inputs"], memory["n_counters"] = len(batches), 0, 0
        norm = Norm()  # with totals of its own
        norm.reserve(batches["threads"].max())
        norm.block["wanted"] = MEASURES
        memory.point("norm", norm.block.values)
        return self._whole._replace(batches=batches, memory=memory, norm=norm)

    def bind(self) -> None:
        """Make `attempt` and `take` anew, after a change of the plan's memory that backends read only once."""
        run = self._backends[0].bind(self._whole) if len(self._parts) == 1 else None
        if run is not None:
            self._set_run(run)
        else:
            prepare = self._bind_calls()  # once: on a device, it reserves memory
            parts = zip(self._backends, self._parts, strict=True) if self.norm.wanted & MEASURES else ()
            measures = [each.bind_measure(part) for each, part in parts]
            measure = functools.partial(_call_all, measures)
            self._set_run(run_of(self._whole, prepare, measure, self._parts), prepare)

    def _bind_calls(self) -> Prepare:
        """Return what makes the whole step ready (see `fastadam.step.backend.Backend.bind_calls`)."""
        parts = [backend.bind_calls(part) for backend, part in zip(self._backends, self._parts, strict=True)]
        return parts[0] if len(parts) == 1 else functools.partial(prepare_all, parts, Counting(self._whole))

    def measure(self) -> int:
        """Let the host have the norm and what it clips to; return TAKEN, or what stands in the way of a step."""
        for backend, part in zip(self._backends, self._parts, strict=True):
            backend.bind_measure(part)()
        return reduce(self._whole, self._parts)

    def prepare(self) -> Prepared:
        """Make a step ready, which `take` would take, for work that goes together with other work in one go.

        The scalars are computed here: the counters are read now, and are what they are until the step is taken. No
        norm is: where one is wanted, it has to be known.
        """
        if self._prepare is None:
            self._prepare = self._bind_calls()
        reduce(self._whole)
        return self._prepare()

    def _set_run(self, run: Run, prepare: Prepare | None = None) -> None:
        self._run, self._prepare = run, prepare
        self.attempt = functools.partial(run, INSPECT | MEASURE | REDUCE | APPLY)
        # The same in parts, for who adds other squares in between.
        self.inspect, self.add_up_squares = functools.partial(run, INSPECT), functools.partial(run, MEASURE)
        self.finish = functools.partial(run, REDUCE | APPLY)
        self.take = functools.partial(run, MEASURE | REDUCE | APPLY)

    @property
    def totals(self) -> Array:
        """What `add_up_squares` has added up in, ndarray of TOTAL."""
        return self.norm.totals[: self.batches["threads"].max(initial=1)]

    def set_written(self, starts: Array, ends: Array) -> None:
        """Set the memory that the step writes, as sorted intervals of addresses that do not meet."""
        self.memory.point("written_starts", starts)
        self.memory.point("written_ends", ends)
        self.memory["n_written"] = len(starts)

    def write_options(self, coefficients: Sequence[Coefficients], which: Array | None = None) -> None:
        """Set what the options say.

        Parameters
        ----------
        coefficients : sequence of Coefficients
        which : ndarray of int64, optional
            The position in it, for each of the first rows, which are those in use from now on; by default there is
            one row for each.
        """
        which = np.arange(len(coefficients)) if which is None else which
        n = self.memory["n_row_inputs"] = len(which)
        constants, rates = self.rows[list(Constant._fields)][:n], self.row_inputs[list(Rates._fields)][:n]
        constants[:] = np.array([each.constant for each in coefficients], constants.dtype)[which]
        rates[:] = np.array([each.rates for each in coefficients], rates.dtype)[which]
        self.row_inputs["seed"][:n] = np.array([each.seed for each in coefficients], np.int64)[which]

    def accept_none(self, n_slots: int) -> None:
        """Have native code that looks at the objects of gradients leave out those that are None (see PLAN)."""
        self.memory["n_slots"], self.memory["none_object"] = n_slots, id(None)

    def leave_none_out(self) -> None:
        """Have the next step be over all spans but idle ones, where native code does not look at the gradients."""
        is_idle = np.repeat(self.batches["variant"] & IDLE != 0, self.batches["count"])
        self.spans["size"] = np.where(is_idle, 0, self.spans["length"])
        self.row_inputs["left_out"] = 0
        self.batches["elements"] = np.add.reduceat(self.spans["size"], self.batches["first"])
        self.batches["threads"] = self.batches["most_threads"]

    def go_serial(self) -> None:
        """Take one thread from now on; the backends find out at the next step."""
        self.batches["most_threads"] = self.batches["threads"] = 1

        def bind_first(stages: int) -> int:
            self.bind()
            return self._run(stages)

        self._set_run(bind_first)


def _call_all(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()


def prepare_all(parts: Sequence[Prepare], counting: Counting) -> Prepared:
    """Make all parts of a plan ready: what one has stepped, the others step, and then it is counted."""
    ready = [prepare() for prepare in parts]

    def check() -> None:
        try:
            for each in ready:
                if each.check is not None:
                    each.check()
        except BaseException:
            counting.take_back()
            raise

    calls = [call for each in ready for call in each.calls]
    return Prepared(calls + counting.calls(), check if any(each.check for each in ready) else None)


_built: weakref.WeakSet[Plan] = weakref.WeakSet()


def _go_serial() -> None:
    """In a forked child: OpenMP runtimes hang or end the process where a parent has used them."""
    threads.forbid()
    for plan in list(_built):
        plan.go_serial()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_go_serial)
