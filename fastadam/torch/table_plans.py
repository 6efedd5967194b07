"""Plans over the rows of tables, parameters whose gradients are sparse, which lie in memory from step to step.

The addresses in there are those of tensors that `fastadam.torch.tables` compares, and holds, before each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastadam.backends import c
from fastadam.memory.arrays import Array
from fastadam.memory.structs import COUNTER, MEASURES, SPAN
from fastadam.step import threads
from fastadam.step.after import After
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.cutting import Region
from fastadam.step.norm import Norm
from fastadam.step.plan import Plan
from fastadam.step.row_plan import RowPlan
from fastadam.step.variants import number_of, variants_of
from fastadam.torch.active import ActivePlan
from fastadam.torch.cache import TensorCache
from fastadam.torch.compact import Layout
from fastadam.torch.tensors import apart, count_reals

_NOTHING: Array = np.zeros(0, np.int64)


class Table(NamedTuple):
    """What is known of a parameter, as long as its tensors are what the cache has seen.

    Attributes
    ----------
    region : Region
        All of it. The addresses in there are those that are compared in each step (`TensorCache.seen`).
    counter : tuple of int
        The address and the type of its step counter.
    formats : tuple of int
        The codes of the formats of its arrays; that of the gradient is each step's own.
    group, flags : int
        Its group, and what was compiled in by the options of that (see `fastadam.step.variants.flags_of`).
    n_rows : int
    layout : Layout
    label : str
        How error messages call it.
    """

    region: Region
    counter: tuple[int, int]
    formats: tuple[int, ...]
    group: int
    flags: int
    n_rows: int
    layout: Layout
    label: str


class Squares:
    """The squares of gradients of tables, added up by a plan that lies in memory from step to step.

    Parameters
    ----------
    formats : sequence of int
        Of the gradients.
    limit : int
        Upper limit of threads.

    Attributes
    ----------
    plan : Plan
        In whose totals they are.
    """

    def __init__(self, formats: Sequence[int], limit: int) -> None:
        self._norm, self._limit, self._steps = Norm(), limit, np.zeros(1)
        self._norm.block["wanted"] = MEASURES
        spans, nothing = np.zeros(len(formats), SPAN.dtype), np.zeros(0, COUNTER.dtype)
        variants = variants_of(np.array(formats, np.int64), 0)
        steps = counters_in(self._steps)  # that none of them has taken
        self.plan = Plan(spans, variants, steps, nothing, [c], limit, False, None, self._norm)

    def add_up(self, grads: Sequence[Tensor]) -> None:
        """Add up the squares of contiguous gradients, whose addresses are used within this call alone."""
        spans, batches = self.plan.spans, self.plan.batches
        spans["grad"] = [grads[i].data_ptr() for i in self.plan.order]
        spans["size"] = spans["length"] = [count_reals(grads[i]) for i in self.plan.order]
        batches["elements"] = np.add.reduceat(spans["size"], batches["first"])
        n_threads = [threads.threads_for(each, self._limit) for each in batches["elements"].tolist()]
        batches["threads"] = batches["most_threads"] = n_threads
        self._norm.reserve(max(n_threads))
        self.plan.add_up_squares()


class TablePlan:
    """A plan over rows of some tables, which lies in memory from step to step.

    Parameters
    ----------
    cache : TensorCache
    positions : sequence of int
        Where the parameters are among all.
    tables : sequence of Table
    formats : sequence of int
        The format of each one's gradient.
    limit : int
        Upper limit of threads.
    limit_given : bool
        Whether the user asked for that many.
    norm : Norm
        What the gradients are multiplied by.

    Attributes
    ----------
    plan : RowPlan
    squares : Squares
        Of the gradients, where their norm is wanted.
    is_apart : bool
        Whether what a step writes lies apart.
    pointers : tuple
        What native code gets, good as long as this object lives: to the plan, and to that of the squares.
    """

    def __init__(
        self,
        cache: TensorCache,
        positions: Sequence[int],
        tables: Sequence[Table],
        formats: Sequence[int],
        limit: int,
        limit_given: bool,
        norm: Norm,
    ) -> None:
        self._cache, self._positions = cache, frozenset(positions)
        regions = []
        for row, (table, grad_format) in enumerate(zip(tables, formats, strict=True)):
            span = table.region.span.copy()
            span["row"] = row
            param, _, *state = table.formats
            variant = number_of((param, grad_format, *state), table.flags)
            regions.append(table.region._replace(span=span, variant=variant))
        counters: Array = np.array([table.counter for table in tables], COUNTER.dtype)
        nothing = np.zeros(0, SPAN.dtype), _NOTHING, _NOTHING
        self.plan = RowPlan(*nothing, regions, counters, counters, [c], limit, limit_given, norm, After())
        self._extents = _written(cache, positions)
        self.is_apart = apart(self._extents)
        self.squares = Squares(formats, limit)
        addresses = self.plan.address, self.squares.plan.memory.address
        self.pointers = tuple(c.ffi.cast("fastadam_plan *", address) for address in addresses)
        self._groups: Array = np.array([table.group for table in tables], np.int64)
        self._apart_from: ActivePlan | None = None

    def write_options(self, coefficients: Sequence[Coefficients]) -> None:
        """Take over the options of all groups."""
        self.plan.write_options(coefficients, self._groups)

    def is_apart_from(self, active: ActivePlan) -> bool:
        """Whether nothing that a step writes is written by the plan of other parameters, too.

        That may be one over these, too, which it leaves out where they have no dense gradients.
        """
        if self._apart_from is not active:
            others = [i for i in active.which if i not in self._positions]
            if not apart([*self._extents, *_written(self._cache, others)]):
                return False
            self._apart_from = active
        return True


def _written(cache: TensorCache, positions: Iterable[int]) -> list[tuple[int, int]]:
    """Return the memory that a step over parameters writes, their step counters included."""
    found = []
    for i in positions:
        step = cache.seen[i].step
        found += [*cache.extents[i], (step, step + 1)]
    return found
