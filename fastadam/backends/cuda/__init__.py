"""The CUDA backend: the formula of element.py on NVIDIA GPUs, compiled by numba-cuda when it is first needed.

A batch of one span, such as a packed group, is one launch whose arguments describe the span. A batch of several is
one launch too: its kernel reads a table of the spans and the rows of coefficients from device memory. They are
copied there from pinned host memory, which is used again only after the launch that reads it is done, so that the
host never has to wait for the device; the table is copied only when addresses have changed.

A step is a row of the driver's own calls, which no signal's handler comes between. Under the simulator of Numba,
kernels are Python code, which an interrupt stops midway.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from operator import methodcaller
from typing import Any

from fastadam.memory.cuda import available
from fastadam.memory.cuda.arrays import LEGACY_STREAM
from fastadam.step.backend import Call, PartOfPlan, Prepare, Prepared
from fastadam.step.counters import Counting

_CALL = methodcaller("__call__")


def why_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if it can."""
    return available.why_missing()


def bind(part: PartOfPlan) -> None:
    """Return None: a step is what `bind_calls` makes ready (see `fastadam.step.backend.Backend`)."""


def bind_calls(part: PartOfPlan) -> Prepare:
    """Return the function that makes a part's calls on the first device ready."""
    return On(0).bind_calls(part)


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

    def bind(self, part: PartOfPlan) -> None:
        """Return None: a step is what `bind_calls` makes ready (see `fastadam.step.backend.Backend`)."""

    def bind_calls(self, part: PartOfPlan) -> Prepare:
        """Return the function that makes a part's calls ready (see `fastadam.step.backend.Backend`).

        Python checks the gradients. Kernels are compiled here, and the memory that steps need is reserved.

        Raises
        ------
        ValueError
            If a span has arrays in several formats, for which there are no kernels.
        MemoryError
            If the device has not enough memory.
        """
        from fastadam.backends.cuda.flat import Flat
        from fastadam.backends.cuda.table import Tables

        spans, rows = part.spans, part.rows
        flat: list[Flat] = []
        tabled: list[tuple[int, int, int]] = []
        for variant, first, count in part.batches[["variant", "first", "count"]].tolist():
            if count == 1:
                flat.append(Flat(self._gpu, variant, spans, first, rows))
            else:
                tabled.append((variant, first, count))
        launched: list[Any] = [*flat]
        if tabled:  # only these spans: others may be a host's, and move more often
            low, high = tabled[0][1], tabled[-1][1] + tabled[-1][2]
            own = [(variant, first - low, count) for variant, first, count in tabled]
            launched.append(Tables(self._gpu, spans[low:high], rows, own))

        counting = Counting(part)
        return lambda: self._prepare(launched, counting)

    def _prepare(self, launched: list[Any], counting: Counting) -> Prepared:
        device, stream = self._gpu, self._stream
        others = [other for other in self._producers if (other or LEGACY_STREAM) != stream]
        calls: list[Call] = []
        entered = device.enter()
        try:
            for other in others:
                calls += self._chain(other, stream)
            for each in launched:
                calls += each.launches(stream)
            for other in others:
                calls += self._chain(stream, other)
        finally:
            if entered:
                device.leave()
        if entered:
            calls = [*device.enter_calls(), *calls, *device.leave_calls()]
        returned: list[Any] = []

        def check() -> None:
            for code, *_ in filter(None, returned):
                if code:
                    counting.take_back()
                    device.fail(code)

        return Prepared([functools.partial(returned.extend, map(_CALL, calls)), *counting.calls()], check)

    def _chain(self, earlier: int, later: int) -> list[Call]:
        """Return what lets a stream, with what it gets from then on, wait for all that another one holds."""
        mark = self._marks.get(earlier)
        if mark is None:
            mark = self._marks[earlier] = self._gpu.event()
        return [self._gpu.record_call(mark, earlier), self._gpu.stall_call(later, mark)]
