"""The plan of a step: all that a native call needs, in memory laid out as the C structs of cext/adam.h.

A *span* is a run of numbers with the addresses of its parameter, gradient and moments, and the row of
coefficients that it shares with all spans that have taken the same steps. A *batch* is the spans that one
compiled variant takes, and a *share* the batches that one backend runs, where there are several.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastadam.memory.array_offsets import HEADERS
from fastadam.memory.arrays import Array, address
from fastadam.memory.buffers import ROLES
from fastadam.step import threads
from fastadam.step.coefficients import COEFFICIENTS, CONSTANT, PACE, VARYING, Coefficients, varying

if TYPE_CHECKING:
    from fastadam.backends import Backend

MOMENTS = ROLES[2:]


def words(*names: str) -> np.dtype[Any]:
    """Return the dtype of a C struct whose fields are all 64-bit integers."""
    return np.dtype([(name, np.int64) for name in names])


SPAN = words(*ROLES, "size", "row", "slot")
# An array that gets one gradient.
SLOT = words("param_object", "descr")
# The last word is for native code: how many shares of the batch threads have taken.
BATCH = words("kind", "first", "count", "elements", "threads", "taken")
COUNTER = words("place", "type")
# The numbers of their types.
COUNTER_TYPES = (np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.float32))
_READ = (ctypes.c_int64, ctypes.c_double, ctypes.c_float)
# What the scalars of a row that move with the step are computed from, and the counter of the steps taken before.
PACES = np.dtype([*((name, np.float64) for name in PACE), *COUNTER.descr])
_PLAN_WORDS = words(
    "spans",
    "rows",
    "paces",
    "n_paces",
    "batches",
    "n_batches",
    "counters",
    "n_counters",
    "slots",
    "grad_objects",
    "fence_starts",
    "fence_ends",
    "n_fences",
)
PLAN = np.dtype([*_PLAN_WORDS.descr, ("headers", HEADERS)])


def counters_in(steps: Array) -> Array:
    """Return where the elements of an array are, of one of `COUNTER_TYPES`, as an array of `COUNTER`."""
    found = np.zeros(len(steps), COUNTER)
    found["place"] = address(steps) + steps.itemsize * np.arange(len(steps))
    found["type"] = COUNTER_TYPES.index(steps.dtype)
    return found


class Plan:
    """Spans and coefficients, bound to the backend that steps them.

    Parameters
    ----------
    spans : ndarray of SPAN
        Taken over.
    kinds : ndarray of int64
        The compiled variant of each span (see `fastadam.step.formats`).
    clocks : ndarray of COUNTER
        For each row of coefficients, where the steps that its spans have taken are counted.
    counters : ndarray of COUNTER
        What to add 1 to when a step has been taken. This and all other memory must outlive the plan's steps.
    backend : Backend
        Runs the plan.
    limit : int
        Upper limit of threads.
    limit_given : bool
        Whether the user asked for that many.
    elsewhere : sequence of (Backend, ndarray of bool)
        Other backends, and which spans each of them steps instead. They run first: what they start on devices
        goes on while the host steps the rest.

    Attributes
    ----------
    spans : ndarray of SPAN
        Sorted by backend and kind.
    order : ndarray of int64
        Where each of them was in the spans given.
    counters : ndarray of COUNTER
    rows : ndarray of COEFFICIENTS
        Written by each run, for the step that it takes.
    paces : ndarray of PACES
        What they are computed from.
    batches : ndarray of BATCH
    memory : ndarray of PLAN, shape ()
        What native code gets the address of.
    run : callable
        ``run(check)``, see `fastadam.backends.Backend.bind`.
    """

    def __init__(
        self,
        spans: Array,
        kinds: Array,
        clocks: Array,
        counters: Array,
        backend: Backend,
        limit: int,
        limit_given: bool,
        elsewhere: Sequence[tuple[Backend, Array]] = (),
    ) -> None:
        where = np.zeros(len(spans), np.int64)
        for number, (_, which) in enumerate(elsewhere, 1):
            where[which] = number
        self.order = np.lexsort((kinds, where))
        self.spans = np.ascontiguousarray(spans[self.order])
        self.rows, self.paces = np.zeros(len(clocks), COEFFICIENTS), np.zeros(len(clocks), PACES)
        self.paces["place"], self.paces["type"] = clocks["place"], clocks["type"]
        self.batches, batch_where = self._batches(kinds[self.order], where[self.order], limit)
        self.counters = np.ascontiguousarray(counters)
        self.limit_given = limit_given
        self.memory = np.zeros((), PLAN)
        for name in ("spans", "rows", "paces", "batches", "counters"):
            self.memory[name] = address(getattr(self, name))
        self.memory["n_batches"], self.memory["n_counters"] = len(self.batches), len(self.counters)
        self._backends = [backend, *(other for other, _ in elsewhere)]
        self._shares = []
        if elsewhere:  # in the order in which they run: the first backend, the host's, comes last
            used = np.unique(batch_where)[::-1].tolist()
            self._shares = [Share(self, np.flatnonzero(batch_where == number)) for number in used]
            self._backends = [self._backends[number] for number in used]
        self.bind()
        _built.add(self)

    def _batches(self, kinds: Array, where: Array, limit: int) -> tuple[Array, Array]:
        """Return the batches of sorted spans, and the number of each one's backend."""
        distinct, first, count = np.unique(np.stack([where, kinds]), axis=1, return_index=True, return_counts=True)
        batches = np.zeros(len(first), BATCH)
        batches["kind"], batches["first"], batches["count"] = distinct[1], first, count
        batches["elements"] = np.add.reduceat(self.spans["size"], first)
        batches["threads"] = [threads.threads_for(elements, limit) for elements in batches["elements"].tolist()]
        return batches, distinct[0]

    def bind(self) -> None:
        """Make `run` anew, after a change of the plan's memory that backends read only once."""
        if not self._shares:
            self.run = self._backends[0].bind(self)
            return
        runs = [backend.bind(share) for backend, share in zip(self._backends, self._shares, strict=True)]
        self.run = functools.partial(_run_all, runs, self._shares[-1].memory, self.memory, self.rows, self.paces)

    def fence(self, starts: Array, ends: Array) -> None:
        """Set the memory that the step writes, as sorted intervals of addresses that do not meet."""
        self._fences = starts, ends
        self.memory["fence_starts"], self.memory["fence_ends"] = address(starts), address(ends)
        self.memory["n_fences"] = len(starts)

    def write_options(self, coefficients: Sequence[Coefficients]) -> None:
        """Set what the options say: one item for each of the first rows, which are those in use from now on."""
        n = self.memory["n_paces"] = len(coefficients)
        self.rows[list(CONSTANT)][:n] = [each.constant for each in coefficients]
        self.paces[list(PACE)][:n] = [each.pace for each in coefficients]

    def go_serial(self) -> None:
        """Take one thread from now on; the backend finds out at the next step."""
        self.batches["threads"] = 1

        def bind_first(check: int) -> int:
            self.bind()
            return self.run(check)

        self.run = bind_first


class Share:
    """The part of a plan that one of several backends runs: as a plan with fewer batches, over the same spans.

    Parameters
    ----------
    plan : Plan
    which : ndarray of int64
        Its batches, one after the other.
    """

    def __init__(self, plan: Plan, which: Array) -> None:
        self.spans, self.rows, self.paces, self.limit_given = plan.spans, plan.rows, plan.paces, plan.limit_given
        self.batches = plan.batches[which[0] : which[-1] + 1]
        self.counters = plan.counters
        self.memory = plan.memory.copy()
        self.memory["batches"], self.memory["n_batches"] = address(self.batches), len(self.batches)
        # The rows are written for all shares, and the step is counted by the last one: see `_run_all`.
        self.memory["n_paces"] = self.memory["n_counters"] = 0


def write_rows(memory: Array, rows: Array, paces: Array) -> None:
    """Compute the scalars that move with the step, for the step after those that have been counted.

    Parameters
    ----------
    memory : ndarray of PLAN, shape ()
        Of a plan or a share, which says how many rows there are to be computed: of a share, none.
    rows : ndarray of COEFFICIENTS
        Written to.
    paces : ndarray of PACES
    """
    n = memory["n_paces"].item()
    if not n:
        return
    rows.view(np.float64).reshape(len(rows), -1)[:n, : len(VARYING)] = [
        varying(lr, log_beta1, log_beta2, weight_decay, _READ[code].from_address(place).value + 1)
        for lr, log_beta1, log_beta2, weight_decay, place, code in paces[:n].tolist()
    ]


def _run_all(
    runs: Sequence[Callable[[int], int]], last: Array, whole: Array, rows: Array, paces: Array, check: int
) -> int:
    """Run all shares of a plan, whose gradients have been checked; the last one counts the step."""
    if check:
        return 0
    write_rows(whole, rows, paces)
    last["n_counters"] = whole["n_counters"]
    for run in runs:
        run(0)
    return -1


_built: weakref.WeakSet[Plan] = weakref.WeakSet()


def _go_serial() -> None:
    """In a forked child: OpenMP runtimes hang or end the process where a parent has used them."""
    threads.forbid()
    for plan in list(_built):
        plan.go_serial()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_go_serial)
