"""The CUDA backend: the formula of element.py on NVIDIA GPUs, compiled by numba-cuda when it is first needed.

A batch of one span, such as a packed group, is one launch whose arguments describe the span. A batch of several is
one launch too: its kernel reads a table of the spans and the rows of coefficients from device memory. They are
copied there from pinned host memory, which is used again only after the launch that reads it is done, so that the
host never has to wait for the device; the table is copied only when addresses have changed.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from operator import methodcaller
from typing import Any

from fastadam.memory.cuda import available
from fastadam.memory.cuda.arrays import LEGACY_STREAM
from fastadam.memory.structs import APPLY, INSPECT, REDUCE, TAKEN
from fastadam.step.backend import PartOfPlan, Run
from fastadam.step.counters import Counting
from fastadam.step.interrupts import in_one_go, uninterrupted
from fastadam.step.reduce import reduce

_CALL = methodcaller("__call__")


def why_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if it can."""
    return available.why_missing()


def bind(part: PartOfPlan) -> Run:
    """Return the function that runs a part of a plan (see `fastadam.step.backend.Backend`) on the first device."""
    return On(0).bind(part)


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

    def bind(self, part: PartOfPlan) -> Run:
        """Return the function that runs a part of a plan (see `fastadam.step.backend.Backend`).

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

        is_flat = not tabled and len(flat) == 1
        counting = Counting(part)

        def run(stages: int) -> int:
            if stages & INSPECT:
                return 0
            if stages & REDUCE:
                reduce(part)
            if stages & APPLY:
                self._apply(launched, is_flat, counting)
            return TAKEN

        return run

    def _apply(self, launched: list[Any], is_flat: bool, counting: Counting) -> None:
        device, stream = self._gpu, self._stream
        others = [other for other in self._producers if (other or LEGACY_STREAM) != stream]
        entered = device.enter()
        try:
            if is_flat and not others:
                # What letting signals wait takes is longer than all the rest; native calls in a row need not.
                launches = launched[0].launches(stream)
                (code, *_), *_ = list(map(_CALL, [*launches, *counting.calls()])) if launches else [(0,)]
                if code:
                    counting.take_back()
                    device.fail(code)
                if not launches:
                    in_one_go(counting.calls())
            else:
                uninterrupted(functools.partial(self._apply_all, launched, counting, stream, others))
        finally:
            if entered:
                device.leave()

    def _apply_all(self, launched: list[Any], counting: Counting, stream: int, others: list[int]) -> None:
        for other in others:
            self._chain(other, stream)
        for each in launched:
            each.launch(stream)
        for other in others:
            self._chain(stream, other)
        in_one_go(counting.calls())

    def _chain(self, earlier: int, later: int) -> None:
        """Let what a stream gets from now on wait for all that another one holds."""
        mark = self._marks.get(earlier)
        if mark is None:
            mark = self._marks[earlier] = self._gpu.event()
        self._gpu.record(mark, earlier)
        self._gpu.stall(later, mark)
