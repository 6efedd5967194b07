"""The CUDA backend: the formula of element.py on NVIDIA GPUs, compiled by numba-cuda when it is first needed.

A batch of one span, such as a packed group, is one launch whose arguments describe the span. A batch of several is
one launch too: its kernel reads a table of the spans and the rows of coefficients from device memory. They are
copied there from pinned host memory, which is used again only after the launch that reads it is done, so that the
host never has to wait for the device; the table is copied only when addresses have changed.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Any

import numpy as np

from fastadam.memory.arrays import Array, address
from fastadam.memory.cuda.available import devices, driver_version
from fastadam.memory.structs import APPLY, INSPECT, REDUCE, ROLES, TAKEN
from fastadam.step.backend import PartOfPlan, Run
from fastadam.step.counters import Counting
from fastadam.step.interrupts import in_one_go, uninterrupted
from fastadam.step.reduce import reduce
from fastadam.step.variants import variant_of

OLDEST = (0, 30, 4)
INSTALL = 'pip install "fastadam[cuda]", or "fastadam[cuda12]" for CUDA 12'
# Steps that may be under way at once before the host waits for the oldest.
MOST_UNDER_WAY = 64
_CALL = methodcaller("__call__")


def why_missing() -> str | None:
    """Return why CUDA cannot be used here, or None if it can."""
    return _why_missing()


@functools.cache
def _why_missing() -> str | None:
    if importlib.util.find_spec("numba_cuda") is None:
        return f"the package numba-cuda is not installed; {INSTALL}"
    version = importlib.metadata.version("numba-cuda")
    if tuple(int(part) for part in version.split(".")[:3] if part.isdecimal()) < OLDEST:
        return f"numba-cuda {version} is older than {'.'.join(map(str, OLDEST))}; {INSTALL}"
    try:
        from numba import cuda
        from numba.cuda.core import config
    except Exception as error:  # a broken install raises all sorts of errors
        return f"numba-cuda cannot be imported ({type(error).__name__}: {error}); {INSTALL}"
    if config.ENABLE_CUDASIM:
        return None
    if config.DISABLE_CUDA:
        return "NUMBA_DISABLE_CUDA is set, so that Numba uses no device; unset it"
    _, reason = devices()
    if reason is not None:
        return f"{reason}; install a driver from nvidia.com, and see that nvidia-smi lists the device"
    try:
        import cuda.bindings as bindings
        from cuda.bindings import nvvm

        nvvm.version()
    except Exception as error:
        return f"NVVM, CUDA's compiler, cannot be loaded ({type(error).__name__}: {error}); {INSTALL}"
    needed = int(bindings.__version__.partition(".")[0])
    found = driver_version()
    if found[0] < needed:
        other = "update the driver" + (', or pip install "fastadam[cuda12]"' if found[0] == 12 else "")
        return f"the NVIDIA driver is for CUDA {found[0]}.{found[1]}, the packages here for CUDA {needed}; {other}"
    if not cuda.is_available():
        return f"Numba cannot start CUDA ({cuda.cuda_error()}); see that nvidia-smi lists the device"
    return None


def bind(part: PartOfPlan) -> Run:
    """Return the function that runs a part of a plan (see `fastadam.step.backend.Backend`) on the first device."""
    return On(0).bind(part)


def gpu(ordinal: int) -> Any:
    """Return the device of this number (see `fastadam.memory.cuda.driver.gpu`)."""
    from fastadam.memory.cuda import driver as cuda_driver

    return cuda_driver.gpu(ordinal)


class On:
    """One CUDA device as a backend.

    Parameters
    ----------
    ordinal : int
        Number of the device.

    Attributes
    ----------
    stream : int
        Pointer of the stream that steps go into, from the next one on; 0 and 1 are the legacy default stream.
    producers : collection of int
        Pointers of streams in which there may still be work on what a step reads or writes: steps wait for them,
        and what these streams get later waits for the steps. The host does not wait.

    Raises
    ------
    ValueError, CudaError
        If there is no such device, or it cannot be used.
    """

    def __init__(self, ordinal: int) -> None:
        from fastadam.memory.cuda.driver import LEGACY_STREAM

        self.ordinal = ordinal
        self.stream = LEGACY_STREAM
        self.producers: Iterable[int] = ()
        self._gpu = gpu(ordinal)
        self._marks: dict[int, Any] = {}

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
        spans, rows = part.spans, part.rows
        flat: list[_Flat] = []
        tabled: list[tuple[int, int, int]] = []
        for variant, first, count in part.batches[["variant", "first", "count"]].tolist():
            if count == 1:
                flat.append(_Flat(self._gpu, variant, spans, first, rows))
            else:
                tabled.append((variant, first, count))
        launched: list[Any] = [*flat]
        if tabled:  # only these spans: others may be a host's, and move more often
            low, high = tabled[0][1], tabled[-1][1] + tabled[-1][2]
            own = [(variant, first - low, count) for variant, first, count in tabled]
            launched.append(_Tables(self._gpu, spans[low:high], rows, own))

        counting = Counting(part)

        def run(stages: int) -> int:
            if stages & INSPECT:
                return 0
            if stages & REDUCE:
                reduce(part)
            if stages & APPLY:
                self._apply(launched, counting)
            return TAKEN

        return run

    def _apply(self, launched: list[Any], counting: Counting) -> None:
        device, stream = self._gpu, self.stream or 1
        others = [other for other in self.producers if (other or 1) != stream] if self.producers else []
        entered = device.enter()
        try:
            if len(launched) == 1 and not others and isinstance(launched[0], _Flat):
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


class _Flat:
    """A batch of one span: its description goes along with the launch."""

    def __init__(self, device: Any, variant: int, spans: Array, index: int, rows: Array) -> None:
        from fastadam.memory.cuda.driver import FLAT, arguments_of

        self._device, self._spans, self._index, self._rows = device, spans, index, rows
        self._layout = _Layout(variant)
        self._kernel = device.kernel(variant, FLAT)
        self._arguments = arguments_of(variant, FLAT)

    def launch(self, stream: int) -> None:
        """Launch the kernel."""
        for launch in self.launches(stream):
            (code,) = launch()
            if code:
                self._device.fail(code)

    def launches(self, stream: int) -> list[Callable[[], tuple[Any]]]:
        """Return the launch as a call of the driver, or nothing where there is nothing to step."""
        param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, row, *_ = self._spans[self._index].item()
        layout = self._layout
        addresses = param | grad | exp_avg | exp_avg_sq | (max_exp_avg_sq if layout.amsgrad_on else 0)
        vectors = 0 if addresses % layout.vector_bytes else size // layout.lanes
        threads = size - vectors * (layout.lanes - 1)
        if not threads:
            return []
        self._arguments.write(
            param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, vectors, *self._rows[row].item()
        )
        blocks = -(-threads // layout.block)
        return [self._device.launch_call(self._kernel, blocks, stream, self._arguments)]


class _Layout:
    """How a variant's kernels share out a span among threads."""

    def __init__(self, number: int) -> None:
        from fastadam.backends.cuda.kernels import BLOCK, VECTOR_BYTES, format_of, width

        variant = variant_of(number)
        self.amsgrad_on = variant.amsgrad_on
        self.real = variant.compute
        self.lanes = width(format_of(variant))
        self.block, self.vector_bytes = BLOCK, VECTOR_BYTES


class _StagingSlot:
    """Pinned memory of the host and memory of the device, for the table and the coefficients of one step."""

    def __init__(self, device: Any, nbytes: int) -> None:
        self._device = device
        self.pinned = device.reserve_pinned(nbytes)
        self.source = address(self.pinned)
        self._memory, self.target = device.reserve(nbytes)
        self.event = device.event()
        self.version = 0  # of the table in it

    def __del__(self) -> None:
        # Pinned memory must not be given back while a copy from it is under way.
        with contextlib.suppress(Exception), self._device.active():
            self._device.wait(self.event)


class _Tables:
    """Batches of several spans: a table in device memory describes them."""

    def __init__(self, device: Any, spans: Array, rows: Array, batches: list[tuple[int, int, int]]) -> None:
        from fastadam.backends.cuda.kernels import TABLE as ENTRY
        from fastadam.memory.cuda.driver import TABLE, arguments_of

        self._device, self._spans, self._rows = device, spans, rows
        self._noted: Array | None = None
        self._version = self._n_rows = 0
        self._batches = []
        self._table = np.zeros(len(spans), ENTRY)
        # The coefficients come first: they are copied for every step, the table is not.
        self._sections: dict[np.dtype[Any], int] = {}
        end = 0
        for variant, first, count in batches:
            layout = _Layout(variant)
            if layout.real not in self._sections:
                self._sections[layout.real] = end
                end += rows.view(np.float64).size * layout.real.itemsize
                end += -end % 8
            batch = _Batch(
                layout, slice(first, first + count), device.kernel(variant, TABLE), arguments_of(variant, TABLE)
            )
            self._batches.append(batch)
        self._table_at = end
        self._nbytes = end + self._table.nbytes
        self._slots = collections.deque(_StagingSlot(device, self._nbytes) for _ in range(2))

    def launch(self, stream: int) -> None:
        """Copy what the kernels read, and launch them."""
        self._refresh()
        device, slot = self._device, self._take_slot()
        values = self._rows.view(np.float64)[: self._n_rows * len(self._rows.dtype.names or ())]
        with np.errstate(over="ignore"):
            for real, at in self._sections.items():
                slot.pinned[at : at + values.size * real.itemsize].view(real)[:] = values
        if slot.version != self._version:
            slot.pinned[self._table_at :] = self._table.view(np.uint8)
            slot.version = self._version
            device.copy(slot.target, slot.source, self._nbytes, stream)
        else:
            for real, at in self._sections.items():
                device.copy(slot.target + at, slot.source + at, values.size * real.itemsize, stream)
        for batch in self._batches:
            if batch.blocks:
                spans = slot.target + self._table_at + batch.where.start * self._table.itemsize
                count = batch.where.stop - batch.where.start
                batch.arguments.write(spans, count, slot.target + self._sections[batch.layout.real])
                device.launch(batch.kernel, batch.blocks, stream, batch.arguments)
        device.record(slot.event, stream)

    def _refresh(self) -> None:
        """Describe the spans anew, if one of them has changed."""
        words = self._spans.view(np.int64)
        if self._noted is not None and np.array_equal(words, self._noted):
            return
        self._noted = words.copy()
        self._n_rows = int(self._spans["row"].max()) + 1  # there may be room for many more
        for name in (*ROLES, "size", "row"):
            self._table[name] = self._spans[name]
        for batch in self._batches:
            layout, part = batch.layout, self._table[batch.where]
            names = ROLES if layout.amsgrad_on else ROLES[:-1]
            aligned = np.bitwise_or.reduce([part[name] for name in names]) % layout.vector_bytes == 0
            part["vectors"] = np.where(aligned, part["size"] // layout.lanes, 0)
            threads = part["size"] - part["vectors"] * (layout.lanes - 1)
            ends = np.cumsum(-(-threads // layout.block))
            part["first_block"] = ends - (-(-threads // layout.block))
            batch.blocks = int(ends[-1])
        self._version += 1

    def _take_slot(self) -> _StagingSlot:
        """Return a slot that no step under way reads."""
        device, slot = self._device, self._slots[0]
        if not device.passed(slot.event):
            more = None
            if len(self._slots) < MOST_UNDER_WAY:
                with contextlib.suppress(MemoryError):
                    more = _StagingSlot(device, self._nbytes)
            if more is None:
                device.wait(slot.event)
            else:
                self._slots.appendleft(slot := more)
        self._slots.rotate(-1)
        return slot


class _Batch:
    """One compiled variant's part of a table."""

    def __init__(self, layout: _Layout, where: slice, kernel: Any, arguments: Any) -> None:
        self.layout, self.where, self.kernel, self.arguments = layout, where, kernel, arguments
        self.blocks = 0
