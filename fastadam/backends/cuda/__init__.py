"""The CUDA backend: the formula of element.py on NVIDIA GPUs, compiled by numba-cuda when it is first needed.

A batch of one span, such as a packed group, is one launch whose arguments describe the span. A batch of several is
one launch too: its kernel reads a table of the spans and the rows of coefficients from device memory. They are
copied there from pinned host memory, which is used again only after the launch that reads it is done, so that the
host never has to wait for the device; the table is copied only when addresses have changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from fastadam.backends.cuda.counters import Counters
from fastadam.memory.cuda import available
from fastadam.memory.cuda.arrays import LEGACY_STREAM
from fastadam.step.interrupts import in_one_go, uninterrupted
from fastadam.step.plan import write_rows

if TYPE_CHECKING:
    from fastadam.step.plan import Plan, Share

_CALL = methodcaller("__call__")


def why_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if it can."""
    return available.why_missing()


def bind(plan: Plan | Share) -> Callable[[int], int]:
    """Return the function that runs `plan` (see `fastadam.backends.Backend`) on the first device."""
    return On(0).bind(plan)


def on_device(number: int) -> On:
    """Return the device of this number as a backend (see `On`)."""
    return On(number)


class On:
    """One CUDA device as a backend. Steps go into the default stream, until `use_stream`.

    Parameters
    ----------
    ordinal : int
        Number of the device.

    Raises
    ------
    ValueError, CudaError
        If there is no such device, or it cannot be used.
    """

    def __init__(self, ordinal: int) -> None:
        from fastadam.memory.cuda.driver import gpu  # which imports numba-cuda

        self.ordinal = ordinal
        self._stream = LEGACY_STREAM
        self._producers: Collection[int] = ()
        self._gpu = gpu(ordinal)
        self._marks: dict[int, Any] = {}

    def use_stream(self, stream: int) -> None:
        """Let steps go into a stream from now on, given by its pointer; 0 and 1 are the legacy default stream."""
        self._stream = stream or LEGACY_STREAM

    def wait_for(self, streams: Collection[int]) -> None:
        """Let steps wait, from now on, for what is under way in these streams, as they read or write its results.

        What the streams get later waits for the steps. The host does not wait. Streams are given by their
        pointers.
        """
        self._producers = streams

    def why_missing(self) -> str | None:
        """Return why the device cannot be used, or None if it can."""
        return why_missing()

    def bind(self, plan: Plan | Share) -> Callable[[int], int]:
        """Return the function that runs `plan` (see `fastadam.backends.Backend`); Python checks the gradients.

        Kernels are compiled here, and the memory that steps need is reserved.

        Raises
        ------
        MemoryError
            If the device has not enough memory.
        """
        from fastadam.backends.cuda.flat import Flat
        from fastadam.backends.cuda.table import Tables

        spans, rows = plan.spans, plan.rows
        flat: list[Flat] = []
        tabled: list[tuple[int, int, int]] = []
        for kind, first, count in plan.batches[["kind", "first", "count"]].tolist():
            if count == 1:
                flat.append(Flat(self._gpu, kind, spans, first, rows))
            else:
                tabled.append((kind, first, count))
        parts: list[Any] = [*flat]
        if tabled:  # only these spans: others may be a host's, and move more often
            low, high = tabled[0][1], tabled[-1][1] + tabled[-1][2]
            own = [(kind, first - low, count) for kind, first, count in tabled]
            parts.append(Tables(self._gpu, spans[low:high], rows, own))

        is_flat = not tabled and len(flat) == 1
        counters = Counters(plan.counters, plan.memory)
        paces, memory = plan.paces, plan.memory

        def run(check: int) -> int:
            if not check:
                write_rows(memory, rows, paces)
                self._run(parts, is_flat, counters)
            return 0 if check else -1

        return run

    def _run(self, parts: list[Any], is_flat: bool, counters: Counters) -> None:
        device, stream = self._gpu, self._stream
        others = [other for other in self._producers if (other or LEGACY_STREAM) != stream]
        entered = device.enter()
        try:
            if is_flat and not others:
                # What letting signals wait takes is longer than all the rest; native calls in a row need not.
                launches = parts[0].launches(stream)
                (code, *_), *_ = list(map(_CALL, [*launches, *counters.counting()])) if launches else [(0,)]
                if code:
                    counters.take_back()
                    device.fail(code)
                if not launches:
                    in_one_go(counters.counting())
            else:
                uninterrupted(functools.partial(self._run_all, parts, counters, stream, others))
        finally:
            if entered:
                device.leave()

    def _run_all(self, parts: list[Any], counters: Counters, stream: int, others: list[int]) -> None:
        for other in others:
            self._chain(other, stream)
        for part in parts:
            part.launch(stream)
        for other in others:
            self._chain(stream, other)
        in_one_go(counters.counting())

    def _chain(self, earlier: int, later: int) -> None:
        """Let what a stream gets from now on wait for all that another one holds."""
        mark = self._marks.get(earlier)
        if mark is None:
            mark = self._marks[earlier] = self._gpu.event()
        self._gpu.record(mark, earlier)
        self._gpu.stall(later, mark)
