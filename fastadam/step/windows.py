"""Steps over state on disk: window by window, in the order of the file.

A backend steps a window in memory while the next one is read and the last one is written back, with plain reads
and writes: each page that is touched through a mapping costs a fault, with which reading and writing ran at half
the pace (docs/guides/state-on-disk.md). Pieces of parameters begin at multiples of `UNIT` elements, so that blocks
of codes and random bits are those of the whole.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import address
from fastadam.memory.buffers import aligned_zeros
from fastadam.memory.state_file import StateFile
from fastadam.memory.structs import AMSGRAD, APPLY, AVERAGE, BATCH, IDLE, KEPT, MOMENTS, SCALE_BLOCK, SCALES, TAKEN
from fastadam.step import threads
from fastadam.step.backend import Backend, Call, Measure, PartOfPlan, Prepare, Prepared, Run
from fastadam.step.counters import Counting
from fastadam.step.interrupts import in_one_go
from fastadam.step.precision import OF_MAXIMUM
from fastadam.step.prepared import run_of
from fastadam.step.variants import variant_of

UNIT = 1024  # elements
# Bytes of state in a window. Of the windows in memory one is read, one stepped, one written; together they stay in
# the caches of most processors, so that memory is not gone through for each.
WINDOW = 2 << 20
N_SLOTS = 3
_LINE = 64  # bytes; segments begin at the same place of a line as in the file
_OF_SCALES = frozenset(SCALES.values())


class Segment(NamedTuple):
    """A run of bytes of a window: where it is in the file, and in the window's slot."""

    offset: int
    nbytes: int
    place: int


class Slots:
    """Memory for windows, and the threads that fill it from a file and write it back.

    Parameters
    ----------
    file : StateFile
    """

    def __init__(self, file: StateFile) -> None:
        self.file = file
        self.window = WINDOW
        self.memory = [
            aligned_zeros(self.window + 2 * _LINE, np.dtype(np.uint8), MOMENTS[0]) for _ in range(N_SLOTS)
        ]
        self._readers = ThreadPoolExecutor(1, "fastadam-reads")
        self._writers = ThreadPoolExecutor(1, "fastadam-writes")
        self._steps = ThreadPoolExecutor(1, "fastadam-steps")

    def run(self, segments: list[list[Segment]], calls: list[list[Call]], count: list[Call]) -> None:
        """Step all windows, and count: to the end, whatever interrupts the thread that waits for it.

        Python calls signals' handlers in the main thread alone, so that another one does the work.

        Parameters
        ----------
        segments : list of list of Segment
            Of each window; the k-th lies in the slot ``k % N_SLOTS``.
        calls : list of list of callable
            Those that step each window.
        count : list of callable
            Made after them.

        Raises
        ------
        OSError
            If the disk fails. Unless that was at the first window, the file is `broken`.
        """
        try:
            done = self._steps.submit(self._run, segments, calls, count)
            error = done.exception()
        except BaseException:
            self._wait()
            raise
        if error is not None:
            raise error

    def _wait(self) -> None:
        """Wait until no step is under way, however often that is interrupted."""
        waits = True
        while waits:
            with contextlib.suppress(BaseException):  # the first interrupt is raised when it is over
                waits = not _is_over(self._steps)

    def _run(self, segments: list[list[Segment]], calls: list[list[Call]], count: list[Call]) -> None:
        n, begun = len(segments), False
        reads: dict[int, Callable[[], None]] = {}
        writes: dict[int, Callable[[], None]] = {}
        try:
            for k in range(-1, n):
                if k + 1 < n:  # the next one is read into the slot of the one that was written longest ago
                    if k - 2 in writes:
                        writes.pop(k - 2)()
                    reads[k + 1] = self._submit(self._readers, self._read, segments[k + 1], (k + 1) % N_SLOTS)
                if k >= 0:
                    reads.pop(k)()
                    begun = True
                    in_one_go(calls[k])
                    writes[k] = self._submit(self._writers, self._write, segments[k], k % N_SLOTS)
            for wait in writes.values():
                wait()
        except BaseException as error:
            for wait in (*reads.values(), *writes.values()):
                with contextlib.suppress(OSError):
                    wait()
            if begun:
                self.file.broken = str(error)
            raise
        in_one_go(count)

    @staticmethod
    def _submit(pool: ThreadPoolExecutor, work: Callable[..., None], *args: Any) -> Callable[[], None]:
        """Begin work on a thread, and return what waits for it."""
        try:
            return pool.submit(work, *args).result
        except RuntimeError:  # no thread may begin any more when the interpreter ends, and a step goes to its end
            return functools.partial(work, *args)

    def _read(self, segments: list[Segment], slot: int) -> None:
        # The system is not told what is read soon (POSIX_FADV_WILLNEED): it would fetch that page by page, and to
        # read and flush such pages takes twice as long. It reads ahead by itself.
        for offset, nbytes, place in segments:
            self.file.read_into(self.memory[slot][place : place + nbytes], offset)

    def _write(self, segments: list[Segment], slot: int) -> None:
        for offset, nbytes, place in segments:
            self.file.write_from(self.memory[slot][place : place + nbytes], offset)


def _is_over(pool: ThreadPoolExecutor) -> bool:
    """Return True when a pool of one thread has done what it was given."""
    try:
        over = pool.submit(int)
    except RuntimeError:  # at the interpreter's end, where those that were begun are waited for
        return True
    over.result()
    return True


class Windowed:
    """A backend of the host that steps state on disk (see `fastadam.step.backend.Backend`).

    Parameters
    ----------
    backend : Backend
        Which steps the windows.
    slots : Slots
    """

    LEAVES_OUT = False
    cut_rows = None

    def __init__(self, backend: Backend, slots: Slots) -> None:
        self._backend, self._slots = backend, slots

    def why_missing(self) -> str | None:
        """Return what the backend does."""
        return self._backend.why_missing()

    def bind(self, part: PartOfPlan) -> Run:
        """Return a run of which the backend does all but APPLY."""
        prepare = self.bind_calls(part)
        before = self._backend.bind(part)
        if before is None:
            measure = self._backend.bind_measure(part) if part.norm.wanted else int
            before = run_of(part, prepare, measure)

        def run(stages: int) -> int:
            outcome = before(stages & ~APPLY)
            if outcome == TAKEN and stages & APPLY:
                in_one_go(prepare().calls)
            return outcome

        return run

    def bind_measure(self, part: PartOfPlan) -> Measure:
        """Return what the backend does: gradients are in memory."""
        return self._backend.bind_measure(part)

    def bind_calls(self, part: PartOfPlan) -> Prepare:
        """Return the function that makes the windows of a part ready."""
        slots, file = self._slots, self._slots.file
        pieces = list(_pieces(part, file, slots.window))
        windows = [_window(part, each, slots, k) for k, each in enumerate(pieces)]
        prepares = [self._backend.bind_calls(own) for own, _ in windows]
        segments = [found for _, found in windows]
        counting = Counting(part)

        def prepare() -> Prepared:
            file.make_ready()
            file.release()
            for each, (own, _) in zip(pieces, windows, strict=True):
                own.spans["grad"] = part.spans["grad"][[piece.span for piece in each]]
                own.spans["grad"] += [piece.first * piece.grad_itemsize for piece in each]
            calls = [each().calls for each in prepares]
            return Prepared([functools.partial(slots.run, segments, calls, counting.calls())])

        return prepare


class Piece(NamedTuple):
    """A part of a span.

    Attributes
    ----------
    span, variant, most_threads : int
        The span's number, and what its batch says.
    first, size : int
        In elements.
    param_itemsize, grad_itemsize : int
    state : list of (str, int, int)
        What of its state a step uses: the name, where it is in the file, and how many bytes.
    """

    span: int
    variant: int
    most_threads: int
    first: int
    size: int
    param_itemsize: int
    grad_itemsize: int
    state: list[tuple[str, int, int]]


def _pieces(part: PartOfPlan, file: StateFile, window: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each window, of which each but the last of a span is a multiple of `UNIT` long."""
    found: list[Piece] = []
    room = window
    for batch in part.batches:
        number, low, count = int(batch["variant"]), int(batch["first"]), int(batch["count"])
        formats = variant_of(number).formats
        itemsizes = formats[0].stored.itemsize, formats[1].stored.itemsize
        names = [name for name in KEPT if _is_used(name, number, part.after.averages)]
        for span in range(low, low + count):
            first, size = 0, int(part.spans["length"][span])
            if not size:  # its state is nowhere
                continue
            kept = []  # the name, where it begins in the file, bytes of a number, elements for each
            for name in names:
                where = int(part.spans[name][span])
                if where:
                    region = file.region_at(where)
                    itemsize = region.dtype.itemsize // (2 if region.dtype.kind == "c" else 1)
                    per = SCALE_BLOCK if name in _OF_SCALES else 1
                    kept.append((name, region.offset + where - region.start, itemsize, per))
            most = sum(UNIT * itemsize // per for _, _, itemsize, per in kept)
            beside = 2 * _LINE * len(kept)
            while first < size:
                fits = max(0, room - beside) // most * UNIT if most else size
                if not fits and found and size - first > fits:
                    yield found
                    found, room = [], window
                    continue
                n = min(size - first, fits)
                state = [
                    (name, offset + first // per * itemsize, -(-n // per) * itemsize)
                    for name, offset, itemsize, per in kept
                ]
                found.append(Piece(span, number, int(batch["most_threads"]), first, n, *itemsizes, state))
                room -= beside + sum(nbytes for _, _, nbytes in state)
                first += n
    if found:
        yield found


def _is_used(name: str, variant: int, averages: bool) -> bool:
    if name == AVERAGE:
        return averages
    return not variant & IDLE and (name not in OF_MAXIMUM or bool(variant & AMSGRAD))


def _window(part: PartOfPlan, pieces: list[Piece], slots: Slots, k: int) -> tuple[PartOfPlan, list[Segment]]:
    """Return the part of the plan that steps a window in its slot, and what of the file lies there."""
    base = address(slots.memory[k % N_SLOTS])
    spans = part.spans[[piece.span for piece in pieces]]
    for name in KEPT:
        spans[name] = 0
    wanted = sorted(
        (offset, nbytes, i, name) for i, piece in enumerate(pieces) for name, offset, nbytes in piece.state
    )
    segments: list[Segment] = []
    end = 0  # in the slot
    for offset, nbytes, i, name in wanted:
        if segments and segments[-1].offset + segments[-1].nbytes == offset:
            segments[-1] = segments[-1]._replace(nbytes=segments[-1].nbytes + nbytes)
        else:
            end += -end % _LINE + offset % _LINE
            segments.append(Segment(offset, nbytes, end))
        spans[name][i] = base + end
        end += nbytes
    assert end <= len(slots.memory[0])
    for span, piece in zip(spans, pieces, strict=True):
        span["param"] += piece.first * piece.param_itemsize
        span["first"] += piece.first
        span["size"] = span["length"] = piece.size
        span["n_starts"] = 0
    starts = [i for i, piece in enumerate(pieces) if not i or piece.variant != pieces[i - 1].variant]
    batches = np.zeros(len(starts), BATCH.dtype)
    for batch, low, high in zip(batches, starts, [*starts[1:], len(pieces)], strict=True):
        elements = sum(piece.size for piece in pieces[low:high])
        n = threads.threads_for(elements, max(1, pieces[low].most_threads - 1))  # one is left for the file
        for name, value in {
            "variant": pieces[low].variant,
            "first": low,
            "count": high - low,
            "elements": elements,
            "threads": n,
            "most_threads": n,
        }.items():
            batch[name] = value
    memory = part.memory.twin()
    memory.point("spans", spans)
    memory.point("batches", batches)
    memory["n_batches"], memory["n_row_inputs"], memory["n_counters"] = len(batches), 0, 0
    return part._replace(spans=spans, batches=batches, memory=memory), segments
