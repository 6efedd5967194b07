"""Plans of which some spans are cut anew in each step: steps over rows of parameters.

Of a parameter of which some rows are stepped, each run of rows is a span (see `fastadam.step.cutting`). How many
there are, and how many rows of coefficients they need, differs from step to step. A backend that takes all of that
from the plan's memory (`Backend.cut_rows`) is bound once; others are in each step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fastadam.memory.arrays import Array, address
from fastadam.memory.native import Block
from fastadam.memory.structs import (
    APPLY,
    BATCH,
    COUNTER,
    COUNTER_INT64,
    CUT,
    PLAN,
    REDUCE,
    ROW,
    ROW_INPUTS,
    SPAN,
    TAKEN,
    Constant,
    Rates,
    Varying,
)
from fastadam.step import threads
from fastadam.step.after import After
from fastadam.step.backend import Backend, PartOfPlan, Prepared, Run
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import Counting
from fastadam.step.cutting import Cut, Region, Runs, others_of, runs_of, write_runs
from fastadam.step.norm import Norm
from fastadam.step.plan import prepare_all
from fastadam.step.reduce import reduce

_ADDRESS = (ROW_INPUTS.dtype.names or ()).index("counter")  # all fields before it are one word
_COUNTER_BYTES = 8
# Rows are scattered over memory: to get to one takes as long as to step so many elements that follow each other.
ELEMENTS_OF_A_SPAN = 512
_NOTHING = np.zeros(0, np.int64)


class RowPlan:
    """Spans, of which some are cut into runs in each step, and the backends that step them.

    Parameters
    ----------
    spans, variants, backend_of : ndarray
        As `Plan` takes them: those that are stepped as they are, in the order of their gradients in `lay`.
    regions : sequence of Region
        Those that are cut.
    step_counters : ndarray of COUNTER
        For each row of coefficients, those of regions included.
    counters : ndarray of COUNTER
        What is raised by each step, beside the counters of rows. What they point at is kept alive by the caller.
    backends : sequence of Backend
        The host's comes first, where it takes part.
    limit, limit_given, norm, after
        As `Plan` takes them.

    Attributes
    ----------
    row_inputs : ndarray of ROW_INPUTS
        Of which the first ones, those of the whole, can be written to before `lay`, as with schedules.
    """

    def __init__(
        self,
        spans: Array,
        variants: Array,
        backend_of: Array,
        regions: Sequence[Region],
        step_counters: Array,
        counters: Array,
        backends: Sequence[Backend],
        limit: int,
        limit_given: bool,
        norm: Norm,
        after: After,
    ) -> None:
        order = np.lexsort((variants, backend_of))
        self._order, self._whole = order, spans[order]
        self._whole["length"] = self._whole["size"]
        self._regions = regions
        self._backends, self._limit, self._limit_given = backends, limit, limit_given
        self.norm, self.after = norm, after
        self._cut_rows = backends[0].cut_rows if len(backends) == 1 else None
        self._n_rows, self._n_counters = len(step_counters), len(counters)
        self._memory = Block(PLAN)
        self._memory.point("norm", norm.block.values)
        self._memory.point("after", after.block.values)
        self._own_counters = counters
        self._whole_batches = _batches_of(self._whole, variants[order], backend_of[order])
        self._make_rows(self._n_rows)
        self.row_inputs["counter"] = step_counters
        self._make_counters(self._n_counters)
        self._rooms = [0] * len(regions)  # how many runs there is room for
        self._blocks = [] if self._cut_rows is None else [_block_of(region) for region in regions]
        self._like: list[tuple[int, int]] = []
        self._run: Run | None = None
        self._is_laid = True

    rows: Array
    row_inputs: Array
    ema_weights: Array
    random_keys: Array

    def _make_rows(self, n: int) -> None:
        """Make room for so many rows of coefficients, of which the first are as they were."""
        n = max(n, self._n_rows)
        made = {
            "rows": np.zeros(n, ROW.dtype),
            "row_inputs": np.zeros(n, ROW_INPUTS.dtype),
            "ema_weights": np.zeros(n),
            "random_keys": np.zeros(n, np.int64),
        }
        for name, array in made.items():
            if hasattr(self, name):
                array[: self._n_rows] = getattr(self, name)[: self._n_rows]
            self._memory.point(name, array)
            setattr(self, name, array)

    def _make_counters(self, n: int) -> None:
        """Make room for so many counters, of which the first are those that are raised by each step."""
        self._counters = np.zeros(n, COUNTER.dtype)
        self._counters[: self._n_counters] = self._own_counters
        self._counters["type"][self._n_counters :] = COUNTER_INT64
        self._memory.point("counters", self._counters)
        self._counters_at = address(self._counters)

    def _make_room(self, counts: Sequence[int]) -> None:
        """Make room for so many runs of each region, and of a backend that takes plans anew, for more."""
        rooms = list(counts)
        if self._cut_rows is not None:
            each = zip(self._rooms, counts, strict=True)
            rooms = [max(room, 1 << (n - 1).bit_length() if n else 0) for room, n in each]
        begins = np.cumsum([len(self._whole), *rooms]).tolist()
        self._spans = np.zeros(begins[-1], SPAN.dtype)
        self._spans[: len(self._whole)] = self._whole
        self._begins = begins[:-1]
        for region, begin, room in zip(self._regions, self._begins, rooms, strict=True):
            if region.idle or self._cut_rows is None:  # native code writes all of the others
                self._spans[begin : begin + room] = region.span
        self._memory.point("spans", self._spans)
        self._spans_at = address(self._spans)
        self._batches = np.zeros(len(self._whole_batches) + len(self._regions), BATCH.dtype)
        self._memory.point("batches", self._batches)
        self._rooms = rooms

    @property
    def address(self) -> int:
        """What native code gets; good as long as this object lives, for the step that it was told of last."""
        return self._memory.address

    def write_options(self, coefficients: Sequence[Coefficients], which: Array) -> None:
        """Set what the options say of the first rows, those of the whole (see `Plan.write_options`)."""
        n = self._n_rows
        constants, rates = self.rows[list(Constant._fields)][:n], self.row_inputs[list(Rates._fields)][:n]
        constants[:] = np.array([each.constant for each in coefficients], constants.dtype)[which]
        rates[:] = np.array([each.rates for each in coefficients], rates.dtype)[which]
        self.row_inputs["seed"][:n] = np.array([each.seed for each in coefficients], np.int64)[which]

    def lay(self, grads: Array, cuts: Sequence[Cut]) -> list[int]:
        """Say what the next step steps.

        Parameters
        ----------
        grads : ndarray of int64
            The addresses of the gradients of the spans that are not cut; the caller keeps these alive.
        cuts : sequence of Cut
            Of each region; an idle one has the others of the rows. The caller keeps alive what they have the
            addresses of.

        Returns
        -------
        list of int
            How many runs there are of each region.
        """
        if not self._is_laid:  # an interrupt came in the middle: nothing may be half of one and half of another
            self._make_rows(len(self.rows))
            self._make_counters(len(self._counters))
            self._make_room([0] * len(self._regions))
        self._is_laid = False
        each = list(zip(self._regions, cuts, strict=True))
        counted = [cut for region, cut in each if not region.idle and cut.counters]
        self._lay_rows(counted)
        self._lay_counters(counted)
        if self._cut_rows is None:
            counts = self._lay_runs(
                [others_of(c) if r.idle else runs_of(c, at) for (r, c), at in self._rows_of(each)]
            )
        else:
            counts = self._lay_natively(self._cut_rows, each)
        self._spans["grad"][: len(self._whole)] = grads[self._order]
        self.first(counts)
        self._is_laid = True
        return counts

    def _rows_of(self, each: Sequence[tuple[Region, Cut]]) -> Iterator[tuple[tuple[Region, Cut], int]]:
        """Yield regions and cuts with the number of the first of their rows of coefficients."""
        at = self._n_rows
        for region, cut in each:
            yield (region, cut), at if cut.counters else cut.like
            at += 0 if region.idle else len(cut.firsts)

    def _lay_rows(self, cuts: Sequence[Cut]) -> None:
        n = self._n_rows + sum(len(cut.firsts) for cut in cuts)
        if n > len(self.rows):
            self._make_rows(2 * n)
        words, constants = self.row_inputs.view(np.int64).reshape(len(self.rows), -1), _constants(self.rows)
        at = self._n_rows
        self._like = []
        for cut in cuts:
            end = at + len(cut.firsts)
            words[at:end] = words[cut.like]
            words[at:end, _ADDRESS] = cut.counters + _COUNTER_BYTES * cut.numbers[cut.firsts]
            words[at:end, _ADDRESS + 1] = COUNTER_INT64
            constants[at:end] = constants[cut.like]
            self._like.append((cut.like, len(cut.firsts)))
            at = end
        self._memory["n_row_inputs"] = n

    def _lay_counters(self, cuts: Sequence[Cut]) -> None:
        n = self._n_counters + sum(len(cut.numbers) for cut in cuts)
        if n > len(self._counters):
            self._make_counters(2 * n)
        if self._cut_rows is None:
            at = self._n_counters
            for cut in cuts:
                self._counters["address"][at : at + len(cut.numbers)] = cut.counters + _COUNTER_BYTES * cut.numbers
                at += len(cut.numbers)
        self._memory["n_counters"] = n

    def _lay_runs(self, runs: Sequence[Runs]) -> list[int]:
        counts = [len(each.starts) for each in runs]
        self._make_room(counts)
        for region, begin, each in zip(self._regions, self._begins, runs, strict=True):
            write_runs(self._spans[begin : begin + len(each.starts)], region, each)
        return counts

    def _lay_natively(self, cut_rows: Callable[[Block], int], each: Sequence[tuple[Region, Cut]]) -> list[int]:
        others = [others_of(cut) if region.idle else None for region, cut in each]
        rooms = [
            len(cut.numbers) if runs is None else len(runs.starts)
            for (_, cut), runs in zip(each, others, strict=True)
        ]
        if not hasattr(self, "_spans") or any(n > room for n, room in zip(rooms, self._rooms, strict=True)):
            self._make_room(rooms)
        counts = []
        n_counters = self._n_counters
        for k, ((region, cut), row) in enumerate(self._rows_of(each)):
            begin, runs, block = self._begins[k], others[k], self._blocks[k]
            if runs is not None:
                write_runs(self._spans[begin : begin + len(runs.starts)], region, runs)
                counts.append(len(runs.starts))
                continue
            block.point("numbers", cut.numbers)
            block.point("places", cut.places)
            block.point("of", cut.of if cut.of is not None else _NOTHING)
            if cut.of is None:
                block.values["of"] = 0
            block.values["row"], block.values["n"] = row, len(cut.numbers)
            block.values["grad"], block.values["grad_bytes"] = cut.grad, cut.grad_bytes
            block.values["row_steps"] = cut.counters
            block.values["spans"] = self._spans_at + begin * SPAN.dtype.itemsize
            block.values["counters"] = 0
            if cut.counters:
                block.values["counters"] = self._counters_at + n_counters * COUNTER.dtype.itemsize
                n_counters += len(cut.numbers)
            counts.append(cut_rows(block))
        return counts

    def first(self, counts: Sequence[int], raised: int | None = None) -> None:
        """Step the first runs of what was laid.

        Parameters
        ----------
        counts : sequence of int
            How many of each region.
        raised : int, optional
            How many of the counters of rows are raised; by default all.
        """
        found = list(self._whole_batches)
        for region, begin, n in zip(self._regions, self._begins, counts, strict=True):
            if n:
                found.append((region.backend, region.variant, begin, n))
        if len(self._backends) > 1:
            found.sort(key=lambda each: each[0])
        sizes = self._spans["size"]
        batches, most = [], 1
        for _, variant, low, n in found:
            elements = int(sizes[low : low + n].sum())
            n_threads = threads.threads_for(elements + n * ELEMENTS_OF_A_SPAN, self._limit)
            batches.append((variant, low, n, elements, n_threads, n_threads, 0, low >= len(self._whole)))
            most = max(most, n_threads)
        self._batches[: len(found)] = batches
        self._part_of = [each[0] for each in found]
        self._memory["n_batches"] = len(found)
        self.norm.reserve(most)
        if raised is not None:
            self._memory["n_counters"] = self._n_counters + raised

    def prepare(self) -> tuple[int, Prepared | None]:
        """Compute the scalars of the step, from a norm that was measured, and make it ready.

        Returns
        -------
        int
            TAKEN, or what stands in the way (see `fastadam.memory.structs`).
        Prepared or None
            What takes the step and counts it.
        """
        whole = self._part(self._memory, 0, len(self._batches))
        if self._cut_rows is not None:
            if self._run is None:
                self._run = self._backends[0].bind(whole)
            assert self._run is not None
            outcome = self._run(REDUCE)
        else:
            whole = self._part(self._memory, 0, int(self._memory["n_batches"]))
            outcome = reduce(whole)
        if outcome != TAKEN:
            return outcome, None
        if self.after.averages:  # of all rows of a parameter alike, by the steps of the parameter
            at = self._n_rows
            for like, n in self._like:
                self.ema_weights[at : at + n] = self.ema_weights[like]
                at += n
        if self._run is None:
            return outcome, self._made_ready(whole)
        return outcome, Prepared([functools.partial(self._run, APPLY)])

    def _made_ready(self, whole: PartOfPlan) -> Prepared:
        used = sorted(set(self._part_of), reverse=True)  # the host's, which works while the others do, comes last
        if len(used) == 1:
            return self._backends[used[0]].bind_calls(whole)()
        parts = []
        for number in used:
            low = self._part_of.index(number)
            memory = self._memory.twin()
            n = self._part_of.count(number)
            memory.point("batches", self._batches[low : low + n])
            memory["n_batches"], memory["n_row_inputs"], memory["n_counters"] = n, 0, 0
            parts.append(self._backends[number].bind_calls(self._part(memory, low, n)))
        return prepare_all(parts, Counting(whole))

    def _part(self, memory: Block, low: int, n: int) -> PartOfPlan:
        return PartOfPlan(
            *(self._spans, self.rows, self.row_inputs, self._batches[low : low + n], self._counters),
            *(memory, self._limit_given, self.norm, self.after),
            *(self.ema_weights, self.random_keys),
        )


def _constants(rows: Array) -> Array:
    """Return the constants of rows of coefficients, which come last."""
    words: Array = rows.view(np.float64).reshape(len(rows), -1)[:, len(Varying._fields) :]
    return words


def _batches_of(spans: Array, variants: Array, backend_of: Array) -> list[tuple[int, int, int, int]]:
    """Return the batches of sorted spans: backend, variant, the first span and how many there are."""
    if not len(spans):
        return []
    begins = (variants[1:] != variants[:-1]) | (backend_of[1:] != backend_of[:-1])
    first = np.flatnonzero(np.concatenate([[True], begins]))
    counts = np.diff(first, append=len(spans))
    return list(zip(*(each.tolist() for each in (backend_of[first], variants[first], first, counts)), strict=True))


def _block_of(region: Region) -> Block:
    """Return what native code has to know of a region, but for the rows that are to be cut."""
    block = Block(CUT)
    block.values["region"] = region.span[0]
    block.values["row_size"] = block.values["per_row"]["first"] = region.row_size
    for name, nbytes in region.row_bytes.items():
        block.values["per_row"][name] = nbytes
    return block
