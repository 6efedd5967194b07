"""Steps with sparse gradients from what is known of the last ones.

A *table* is a parameter whose gradient was sparse in a step that was taken with care. In later steps its tensors
are compared with what they were, the rows of the gradient are read, and one plan steps the rows of all tables
(`fastadam.torch.table_plans`), in the call that steps the other parameters (`fastadam.torch.attempts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadam.backends import c
from fastadam.groups.patterns import Patterns
from fastadam.memory.arrays import Array
from fastadam.memory.structs import CHANGED, COUNTER_FLOAT32, FLOAT32_END, TAKEN
from fastadam.step.backend import Prepared
from fastadam.step.coefficients import Coefficients
from fastadam.step.norm import Norm
from fastadam.torch import native_attempt
from fastadam.torch.averages import Averages
from fastadam.torch.cache import TensorCache
from fastadam.torch.devices import ChosenBackends, thread_limit
from fastadam.torch.part import COUNTERS, Part
from fastadam.torch.pieces import cut_of, region_of
from fastadam.torch.python_attempt import unchanged
from fastadam.torch.sparse import in_order_of_rows, rows_of
from fastadam.torch.table_plans import Table, TablePlan
from fastadam.torch.tensors import Extents, extent, format_code, has_own_dispatch, is_aligned, is_plain, view_of

FLOAT64_END = 2**53
_NOTHING: Array = np.zeros(0, np.int64)


class Ready(NamedTuple):
    """A step over rows of tables, made ready but for what the norm of all gradients says.

    Attributes
    ----------
    plan : TablePlan
    positions : list of int
        Those of the tables.
    params : list of Tensor
        Those that it writes.
    kept : list
        What native code has the addresses of: views, which nobody else has.
    is_measured : bool
        Whether the squares of the gradients were added up.
    """

    plan: TablePlan
    positions: list[int]
    params: list[Tensor]
    kept: list[Any]
    is_measured: bool

    @property
    def pointers(self) -> tuple[Any, Any]:
        """What native code gets: the plan, and that of the squares."""
        rows, squares = self.plan.pointers
        return rows, squares if self.is_measured else c.ffi.NULL


class Tables:
    """The tables of an optimizer.

    Parameters
    ----------
    cache : TensorCache
        Which has seen all of them: what is known here is so for the tensors that it compares.
    threads : int or None
        Upper limit that the user asked for.
    norm : Norm
        What is wanted of the norm of all gradients.

    Attributes
    ----------
    known : dict of Table
        By the positions of the parameters.
    """

    def __init__(self, cache: TensorCache, threads: int | None, norm: Norm) -> None:
        self._cache, self._threads, self._given = cache, threads, norm
        self._norm = Norm()
        self.known: dict[int, Table] = {}
        self._coefficients: Sequence[Coefficients] = []
        self._plans: Patterns[TablePlan] = Patterns()
        self._written: Extents | None = None  # by steps over what the cache has seen

    def note(self, parts: Sequence[Part], flags: Sequence[int]) -> None:
        """Take up the parts of a step that was taken with care; `flags` are those of each group.

        Plans have the addresses of what was there before, and are made anew.
        """
        self._plans.clear()
        self._written = None
        self.known = {i: table for i, table in self.known.items() if table.flags == flags[table.group]}
        for part in parts:
            self.known.pop(part.position, None)
            if part.rows is not None:
                self.known[part.position] = Table(
                    region_of(part),
                    (part.counter.data_ptr(), COUNTERS[part.counter.dtype]),
                    part.formats,
                    part.group,
                    flags[part.group],
                    part.rows.n_rows,
                    part.layout,
                    part.label,
                )

    def write_options(self, coefficients: Sequence[Coefficients]) -> None:
        """Take over the options of all groups, by which the same is compiled in."""
        self._coefficients = coefficients
        for each in self._plans:
            each.write_options(coefficients)

    def make_ready(self, grads: Sequence[Any]) -> Ready | int | None:
        """Make a step ready over the parameters whose gradients are sparse; nothing of the user's is written.

        Parameters
        ----------
        grads : sequence
            Of all parameters.

        Returns
        -------
        Ready, int or None
            None where there is none such; or what stands in the way: CHANGED, or the position of a gradient that
            needs care.

        Raises
        ------
        RuntimeError
            If a gradient is not what it must be.
        """
        cache, tables, cut, kept = self._cache, [], [], []
        positions = [i for i, grad in enumerate(grads) if _is_sparse(grad)]
        if not positions:
            return None
        for i in positions:
            table = self.known.get(i)
            if table is None or i not in cache.seen:
                return CHANGED
            views = unchanged(cache.tensors[i], cache.seen[i])
            if views is None or not _counts_on(views[0], table.counter[1]):
                return CHANGED
            rows, values = rows_of(view_of(grads[i]), views[1], table.layout, table.label)
            if rows.n_rows != table.n_rows:
                return CHANGED
            if not (is_plain(values) and is_aligned(values)):
                return i
            tables.append(table)
            cut.append((rows, values))
            kept.append((views, rows, values))
        if self._written is None:
            self._written = Extents(each for i in cache.seen for each in cache.extents[i])
        for i, (_, values) in zip(positions, cut, strict=True):
            if self._written.meet(*extent(values)):
                return i
        formats, limit = [format_code(values) for _, values in cut], thread_limit(self._threads)

        def make() -> TablePlan:
            made = TablePlan(cache, positions, tables, formats, limit, self._threads is not None, self._norm)
            made.write_options(self._coefficients)
            return made

        found = self._plans.find(repr((positions, formats, limit)).encode(), make)
        if not found.is_apart:
            return positions[0]
        is_measured = self._given.wanted != 0  # whatever it will be when the step is taken
        if is_measured:
            in_order = [in_order_of_rows(values, rows) for rows, values in cut]
            found.squares.add_up(in_order)
        cuts = [
            cut_of(rows, values, table.region.row_size, values.data_ptr(), row)
            for row, (table, (rows, values)) in enumerate(zip(tables, cut, strict=True))
        ]
        found.plan.lay(_NOTHING, cuts)
        return Ready(found, positions, [cache.tensors[i] for i in positions], [kept, cuts], is_measured)

    def prepare(self, ready: Ready) -> tuple[int, Prepared | None]:
        """Compute the scalars of a step in which no other parameter has a gradient.

        Returns
        -------
        int
            TAKEN, or what stands in the way (see `fastadam.memory.structs`).
        Prepared or None
            What takes and counts it.
        """
        if self._given.wanted and not ready.is_measured:
            return CHANGED, None
        outcome = self._given.reduce([ready.plan.squares.plan.totals])
        if outcome != TAKEN:
            return outcome, None
        self._norm.follow(self._given)
        return ready.plan.plan.prepare()


def can_be_kept(parts: Sequence[Part], backends: ChosenBackends, averages: Averages) -> bool:
    """Whether steps like one over these parts, of which some have sparse gradients, can be attempted.

    They are by native code alone; and where averages move in all rows, with care.
    """
    return (
        bool(native_attempt.tensor_reader())
        and not averages.are_kept
        and all(part.ordinal is None and (part.rows is None or part.written[0].numel()) for part in parts)
        and backends.by_ordinal[None] is c
    )


def _is_sparse(grad: Any) -> bool:
    """Whether this is a gradient of rows, and known to be what it says."""
    return isinstance(grad, Tensor) and not has_own_dispatch(grad) and grad.layout == torch.sparse_coo


def _counts_on(counter: Tensor, type_code: int) -> bool:
    """Whether a step counter is of the type that it was, and can count another step."""
    end = FLOAT32_END if type_code == COUNTER_FLOAT32 else FLOAT64_END
    return COUNTERS[counter.dtype] == type_code and 0 <= counter.item() < end
