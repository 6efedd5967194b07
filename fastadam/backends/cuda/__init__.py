"""The CUDA backend: the formula of element.py on NVIDIA GPUs, compiled by numba-cuda when it is first needed.

A batch of one span, such as a packed group, is one launch whose arguments describe the span. A batch of several is
one launch too: its kernel reads a table of the spans and the rows of coefficients from device memory. They are
copied there from pinned host memory, which is used again only after the launch that reads it is done, so that the
host never has to wait for the device; the table is copied only when addresses have changed.

Spans whose arrays are in several formats, or in compact ones, go by a table of their own, whose kernels step any
formats (`general_kernels`); those of arrays in one format know nothing of them. The random bits that they round
with come from a key for each row, which is copied with the coefficients.

Where gradients are clipped, two more launches before those of the step compute their norm and what they are
multiplied by, which the step's kernels read from device memory: the host does not wait for it. It does where the
norm decides whether a step is taken, and where a step is taken on the host or on other devices too.

Where averages of parameters are kept, all batches go by the table: its kernel moves them, too, and a launch of the
same one those of parameters without a gradient. Gradients that are to be zero become so in one launch more, behind
those that read them.

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
from fastadam.memory.structs import APPLY, INSPECT, MEASURES, REDUCE, TAKEN
from fastadam.step.backend import Call, Measure, PartOfPlan, Prepare, Prepared, Run
from fastadam.step.counters import Counting
from fastadam.step.interrupts import in_one_go
from fastadam.step.prepared import take
from fastadam.step.reduce import write_rows
from fastadam.step.variants import variant_of

LEAVES_OUT = False
cut_rows = None
_CALL = methodcaller("__call__")


def why_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if it can."""
    return available.why_missing()


def bind(part: PartOfPlan) -> Run | None:
    """Return the function that runs a plan on the first device (see `On.bind`)."""
    return On(0).bind(part)


def bind_measure(part: PartOfPlan) -> Measure:
    """Return the function that adds up the squares of a part on the first device."""
    return On(0).bind_measure(part)


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

    LEAVES_OUT = False
    cut_rows = None

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

    def bind(self, part: PartOfPlan) -> Run | None:
        """Return the function that clips and steps, or None (see `fastadam.step.backend.Backend`).

        Where nothing but clipping is wanted of the norm, it and all that follows from it stay on the device, as
        part of APPLY.
        """
        if part.norm.wanted != MEASURES:
            return None
        from fastadam.backends.cuda.norm import Clipping

        prepare = self._bind_calls(part, Clipping(self._gpu, part))

        def run(stages: int) -> int:
            if stages & INSPECT:
                return 0  # Python looks at the gradients
            if stages & REDUCE:
                write_rows(part, 1.0)
            if stages & APPLY:
                take(prepare())
            return TAKEN

        return run

    def bind_measure(self, part: PartOfPlan) -> Measure:
        """Return the function that adds up the squares of a part, which waits for the device.

        See `fastadam.step.backend.Backend`.
        """
        from fastadam.backends.cuda.norm import Measuring

        measuring = Measuring(self._gpu, part)

        def measure() -> None:
            for code, *_ in filter(None, in_one_go(self._calls([measuring]))):  # a context is left that is entered
                if code:
                    self._gpu.fail(code)
            measuring.read()

        return measure

    def bind_calls(self, part: PartOfPlan) -> Prepare:
        """Return the function that makes a part's calls ready (see `fastadam.step.backend.Backend`).

        Python checks the gradients. Kernels are compiled here, and the memory that steps need is reserved.

        Raises
        ------
        MemoryError
            If the device has not enough memory.
        """
        return self._bind_calls(part)

    def _bind_calls(self, part: PartOfPlan, clipping: Any = None) -> Prepare:
        from fastadam.backends.cuda.flat import Flat
        from fastadam.backends.cuda.general_kernels import is_general
        from fastadam.backends.cuda.table import Tables
        from fastadam.backends.cuda.zeros import Zeros

        spans, rows = part.spans, part.rows
        launched: list[Any] = [clipping] if clipping is not None else []
        scales = clipping.scales if clipping is not None else {}
        tabled: list[tuple[int, int, int]] = []
        general: list[tuple[int, int, int]] = []
        for variant, first, count in part.batches[["variant", "first", "count"]].tolist():
            if is_general(variant_of(variant)):
                general.append((variant, first, count))
            elif count == 1 and not part.after.averages:
                launched.append(Flat(self._gpu, variant, spans, first, rows, scales))
            else:
                tabled.append((variant, first, count))
        weights = part.ema_weights if part.after.averages else None
        for batches, keys in ((tabled, None), (general, part.random_keys)):
            if batches:  # only these spans: others may be a host's, and move more often
                low, high = batches[0][1], batches[-1][1] + batches[-1][2]
                own = [(variant, first - low, count) for variant, first, count in batches]
                launched.append(Tables(self._gpu, spans[low:high], rows, own, scales, weights, keys))

        counting, after = Counting(part), part.after
        zeros = functools.cache(functools.partial(Zeros, self._gpu, part))  # made when a step asks for it
        return lambda: self._prepare([*launched, zeros()] if after.zeroes else launched, counting)

    def _prepare(self, launched: list[Any], counting: Counting) -> Prepared:
        device, calls = self._gpu, self._calls(launched)
        returned: list[Any] = []

        def check() -> None:
            for code, *_ in filter(None, returned):
                if code:
                    counting.take_back()
                    device.fail(code)

        return Prepared([functools.partial(returned.extend, map(_CALL, calls)), *counting.calls()], check)

    def _calls(self, launched: list[Any]) -> list[Call]:
        """Return the driver's calls that launch something in the stream, after producers' work."""
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
        return [*device.enter_calls(), *calls, *device.leave_calls()] if entered else calls

    def _chain(self, earlier: int, later: int) -> list[Call]:
        """Return what lets a stream, with what it gets from then on, wait for all that another one holds."""
        mark = self._marks.get(earlier)
        if mark is None:
            mark = self._marks[earlier] = self._gpu.event()
        return [self._gpu.record_call(mark, earlier), self._gpu.stall_call(later, mark)]
