"""The reference backend: the formula over NumPy's ufuncs, in chunks.

All that a step writes is written in one go of native calls (see `fastadam.step.interrupts`), made ready before:
arrays over the chunks, scratch memory, scalars. What stays the same from step to step is kept.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastadam.backends.numpy import chunks
from fastadam.backends.numpy.chunks import CHUNK as CHUNK
from fastadam.backends.numpy.codecs import IN_BLOCKS, INDEX, beside, start_of, stride_of
from fastadam.backends.numpy.formulas import average_of, program_of
from fastadam.backends.numpy.measure import bind_measure as bind_measure
from fastadam.backends.numpy.recording import Constant, Place, Program
from fastadam.memory.arrays import Array, array_at
from fastadam.memory.structs import (
    AVERAGE,
    MASTER,
    ROLES,
    SCALE_BLOCK,
    SCALES,
    SPAN,
)
from fastadam.step.backend import PartOfPlan, Prepare, Prepared
from fastadam.step.coefficients import SMALLEST_NORMAL, Row
from fastadam.step.compact import AT_RANDOM, count_blocks, make_random
from fastadam.step.counters import Counting
from fastadam.step.quiet import Quiet
from fastadam.step.variants import variant_of

LEAVES_OUT = False
cut_rows = None
# Where the words of a span are.
_FIELDS = SPAN.dtype.names or ()
_AT = {role: _FIELDS.index(role) for role in (*ROLES, AVERAGE, MASTER, *SCALES.values())}
_SIZE, _ROW, _POSITION, _FIRST = (_FIELDS.index(name) for name in ("size", "row", "position", "first"))
_TINY = Row._fields.index("tiny")


def _uint64(number: Any) -> Array:
    return np.asarray(number).astype(np.uint64)


_random_sequence = make_random(_uint64).sequence


@functools.cache
def _indices(n: int) -> Array:
    """Return the numbers of the elements of a chunk."""
    return np.arange(n, dtype=np.uint32)


def why_missing() -> str | None:
    """Return None: NumPy is always there."""
    return None


def bind(part: PartOfPlan) -> None:
    """Return None: a step is what `bind_calls` makes ready (see `fastadam.step.backend.Backend`)."""


def bind_calls(part: PartOfPlan) -> Prepare:
    """Return the function that makes a part's calls ready (see `fastadam.step.backend.Backend`)."""
    counting, quiet = Counting(part), Quiet()
    batches = [
        _Batch(part, variant, slice(first, first + count), quiet)
        for variant, first, count in part.batches[["variant", "first", "count"]].tolist()
    ]

    def prepare() -> Prepared:
        calls = [each.step_call() for each in batches if not each.idle]
        if part.after.averages:
            calls += [each.average_call() for each in batches]
        if part.after.block["zeroes"]:  # after all have been read, as gradients may share memory
            calls += [each.zero_call() for each in batches if not each.idle]
        return Prepared([*quiet.calls(calls), *counting.calls()])

    return prepare


class _Batch:
    """The spans of one variant, cut into chunks.

    Parameters
    ----------
    part : PartOfPlan
    number : int
        The variant.
    where : slice
        Its spans.
    quiet : Quiet

    Attributes
    ----------
    idle : bool
        Whether they have averages only.
    """

    def __init__(self, part: PartOfPlan, number: int, where: slice, quiet: Quiet) -> None:
        self._quiet = quiet
        variant = variant_of(number)
        self.idle = variant.idle
        self._programs = [] if self.idle else [program_of(number, flushes) for flushes in (False, True)]
        self._averages = [average_of(number, begins) for begins in (False, True)]
        self._compute, self._smallest_normal = variant.compute, SMALLEST_NORMAL[variant.compute]
        self._stored = dict(zip(ROLES, (each.stored for each in variant.formats), strict=True))
        self._stored[AVERAGE] = variant.compute
        along = map(beside, ROLES, variant.formats)
        self._stored.update(each for each in along if each is not None)
        self._in_blocks = any(each in IN_BLOCKS for each in variant.formats)
        self._stored_at_random = {
            role: each in AT_RANDOM for role, each in zip(ROLES[:-1], variant.formats, strict=False)
        }
        self._random_keys = part.random_keys.view(np.uint64)
        self._weights = part.ema_weights
        self._spans = part.spans[where].view(np.int64).reshape(-1, len(_FIELDS))
        self._rows = part.rows.view(np.float64).reshape(len(part.rows), -1)
        self._known: Array = np.full_like(self._spans, -1)
        self._lengths: list[int] = []
        self._chunk_rows: Array = np.zeros(0, np.int64)
        self._columns: dict[Place, list[Array]] = {}

    def step_call(self) -> Callable[[], object]:
        """Return the native call that steps all chunks."""
        self._look()
        scalars, flushes = self._scalars()
        sequences = self._sequences()

        def scalar(of: Place) -> Iterable[Any]:
            if of.which in sequences:
                return sequences[of.which]
            return scalars(Row._fields.index(of.which), of.dtype)

        return self._replay(self._programs[flushes], scalar)

    def average_call(self) -> Callable[[], object]:
        """Return the native call that moves the averages of all chunks."""
        self._look()
        weights = self._weights[self._chunk_rows].astype(self._compute)
        return self._replay(self._averages[bool((weights == 1).any())], lambda of: weights.view(of.dtype))

    def zero_call(self) -> Callable[[], object]:
        """Return the native call that lets the gradients of all chunks be zero."""
        self._look()
        grads = self._column(Place("array", "grad", self._stored["grad"]))
        fill: Any = map(operator.setitem, grads, itertools.repeat(...), itertools.repeat(0))  # type: ignore[arg-type]
        return functools.partial(deque, fill, 0)

    def _replay(self, program: Program, scalars: Callable[[Place], Iterable[Any]]) -> Callable[[], object]:
        n = len(self._lengths)

        def column(of: Place | Constant) -> Iterable[Any]:
            if isinstance(of, Constant):
                return itertools.repeat(of.value, n)
            return scalars(of) if of.kind == "scalar" else self._column(of)

        return functools.partial(deque, program.replay(column), 0)

    def _look(self) -> None:
        """Forget the arrays over chunks that are not where they were."""
        words, known = self._spans, self._known
        same = words == known  # (np.array_equal would take what a signal's handler raises for "not equal".)
        if same.all():
            return
        self._known = np.full_like(words, -1)  # an interrupt on the way leaves nothing that is half known
        if not same[:, _SIZE].all():
            self._columns.clear()
            self._lengths = [
                length for size in words[:, _SIZE].tolist() for length in chunks.lengths_of(size, self._in_blocks)
            ]
            longest = max(self._lengths, default=0)
            programs = [*self._programs, *self._averages]
            rooms = itertools.zip_longest(*(program.rooms for program in programs), fillvalue=0)
            self._memory = [np.empty(longest * max(widths), np.uint8) for widths in rooms]
        changed = {role for role, at in _AT.items() if not same[:, at].all()}
        for place in [place for place in self._columns if place.which in changed]:
            del self._columns[place]
        self._chunk_rows = np.repeat(words[:, _ROW], chunks.numbers_of(words[:, _SIZE], self._in_blocks))
        self._known = words.copy()

    def _column(self, place: Place) -> list[Array]:
        """Return the arrays over all chunks of a role's memory, of scratch memory, or of what never changes."""
        found = self._columns.get(place)
        if found is None:
            make = {"array": self._chunks, "room": self._room, "fixed": self._fixed}[place.kind]
            found = self._columns[place] = make(place)
        return found

    def _chunks(self, place: Place) -> list[Array]:
        stored = place._replace(dtype=self._stored[place.which])
        if place != stored:
            return [each.view(place.dtype) for each in self._column(stored)]
        found: list[Array] = []
        for where, size in self._known[:, [_AT[place.which], _SIZE]].tolist():
            if place.by_block:
                scales = array_at(where, count_blocks(size), place.dtype)
                found.extend(chunks.cut_scales(scales, size))
            else:
                found.extend(chunks.cut(array_at(where, size, place.dtype), self._in_blocks))
        return found

    def _room(self, place: Place) -> list[Array]:
        room = self._memory[place.which].view(place.dtype)
        per = SCALE_BLOCK if place.by_block else 1
        return self._same(lambda length: room[: -(-length // per)], place.by_block)

    def _fixed(self, place: Place) -> list[Array]:
        assert place.which == INDEX
        numbers = _indices(CHUNK)
        return self._same(lambda length: numbers[:length])

    def _same(self, part: Callable[[int], Array], by_block: bool = False) -> list[Array]:
        """Return the same memory for all chunks of a length."""
        parts = {}
        for length in set(self._lengths):
            numbers = part(length)
            parts[length] = numbers.reshape(-1, 1) if by_block else chunks.shaped(numbers, self._in_blocks)
        return [parts[length] for length in self._lengths]

    def _sequences(self) -> dict[str, Array]:
        """Return where the random bits of each role begin in each chunk, and their strides."""
        words, found = self._known, {}
        keys, sizes = self._random_keys[words[:, _ROW]], words[:, _SIZE]
        firsts = chunks.firsts_of(sizes, self._in_blocks).astype(np.uint32)
        repeats = chunks.numbers_of(sizes, self._in_blocks)
        for number, role in enumerate(ROLES):
            if self._stored_at_random.get(role):
                begins = _random_sequence(keys, words[:, _POSITION], number, words[:, _FIRST])
                sequence = np.repeat(begins, repeats)
                stride = sequence.astype(np.uint32)
                found[stride_of(role)] = stride
                found[start_of(role)] = (sequence >> np.uint64(32)).astype(np.uint32) + firsts * stride
        return found

    def _scalars(self) -> tuple[Callable[[int, np.dtype[Any]], Iterable[Any]], bool]:
        """Return the function from a field of the rows, and how it is seen, to its number in each chunk.

        And whether small moments become zero in any of them.
        """
        rows, n = self._chunk_rows, len(self._chunk_rows)
        first, last = (rows.min(), rows.max()) if n else (0, 0)
        # What is too large for a float32 is infinite, as everywhere else.
        numbers = self._quiet.do(np.ndarray.astype, self._rows[first : last + 1], self._compute)
        numbers[:, _TINY] *= self._smallest_normal
        flushes = bool(numbers[:, _TINY].any())
        if first != last:
            return lambda field, dtype: numbers[rows - first, field].view(dtype), flushes
        one = [numbers[0, field : field + 1].reshape(()) for field in range(len(Row._fields))]
        return lambda field, dtype: itertools.repeat(one[field].view(dtype), n), flushes
