"""Memory, copies, streams and events of one CUDA device; or, under Numba's simulator, what stands in for them.

Streams are given by their pointers, as the CUDA array interface and torch give them. Memory and events are
Numba's, so that they live in the device's primary context, which all Python libraries share.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.core import config

from fastadam.memory.arrays import Array, address

SIMULATED = bool(config.ENABLE_CUDASIM)


# Driver's calls return an error's code, and what else there is, in a tuple; those that stand in for them None.
Call = Callable[[], Any]


class CudaError(RuntimeError):
    """A call of the CUDA driver failed."""


@functools.cache
def gpu(ordinal: int) -> Any:
    """Return the device of this number.

    Raises
    ------
    ValueError
        If there is none.
    CudaError
        If it cannot be used.
    """
    count = len(cuda.gpus)
    if not 0 <= ordinal < count:
        raise ValueError(f"there is no CUDA device {ordinal}; there are {count}, counted from 0")
    return SimulatedGpu(ordinal) if SIMULATED else Gpu(ordinal)


def _nothing() -> None:
    """Stand in for a call that has nothing to do."""


class SimulatedGpu:
    """What `Gpu` does, in host memory and at once."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal

    def enter(self) -> bool:
        """There is no context to make current."""
        return False

    def leave(self) -> None:
        """There is no context to leave."""

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """There is no context to make current."""
        yield

    def fail(self, code: Any) -> None:
        """Nothing fails here."""

    def device_of(self, address: int) -> int:
        """Return the number of the device whose memory an address is in."""
        return self.ordinal

    def reserve(self, nbytes: int) -> tuple[Any, int]:
        """Return memory of the device, uninitialised, and its address."""
        memory = np.empty(nbytes, np.uint8)
        return memory, address(memory)

    def reserve_pinned(self, nbytes: int) -> Array:
        """Return host memory from which copies can go on while the host does something else."""
        return np.empty(nbytes, np.uint8)

    def enter_calls(self) -> list[Call]:
        """There is no context to make current."""
        return []

    def leave_calls(self) -> list[Call]:
        """There is no context to leave."""
        return []

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy between addresses of the host or the device."""
        ctypes.memmove(target, source, nbytes)

    def copy_call(self, target: int, source: int, nbytes: int, stream: int) -> Call:
        """Return the call that does what `copy` does."""
        return functools.partial(self.copy, target, source, nbytes, stream)

    def clear(self, target: int, nbytes: int, stream: int) -> None:
        """Fill memory of the device with zeros."""
        ctypes.memset(target, 0, nbytes)

    def clear_call(self, target: int, nbytes: int, stream: int) -> Call:
        """Return the call that does what `clear` does."""
        return functools.partial(self.clear, target, nbytes, stream)

    def finish(self, stream: int) -> None:
        """Wait until all that a stream holds is done."""

    def finish_call(self, stream: int) -> Call:
        """Return the call that does what `finish` does."""
        return functools.partial(self.finish, stream)

    def copies_in_one_go(self, copies: Iterable[tuple[int, int, int]], stream: int) -> list[Call]:
        """Return native calls that copy as many bytes as said between addresses, one after the other."""
        return [functools.partial(ctypes.memmove, *each) for each in copies]

    def event(self) -> Any:
        """Return an event, a mark in a stream."""
        return cuda.event()

    def record_call(self, event: Any, stream: int) -> Call:
        """Return the call that sets the mark behind all that the stream holds then."""
        return _nothing

    def passed(self, event: Any) -> bool:
        """Whether all before the mark is done."""
        return True

    def wait(self, event: Any) -> None:
        """Wait until all before the mark is done."""

    def stall_call(self, stream: int, event: Any) -> Call:
        """Return the call that lets a stream wait for the mark."""
        return _nothing


class Gpu:
    """One CUDA device.

    Whatever changes or reads the device's state must run between `enter` and `leave`, or within `active`.
    """

    def __init__(self, ordinal: int) -> None:
        from cuda.bindings import driver

        self.ordinal = ordinal
        self.driver = driver
        self.call(driver.cuInit(0))
        self._context = int(self.call(driver.cuDevicePrimaryCtxRetain(self.call(driver.cuDeviceGet(ordinal)))))
        major, minor = cuda.gpus[ordinal].compute_capability
        self.compute_capability = (int(major), int(minor))

    def call(self, returned: tuple[Any, ...]) -> Any:
        """Return what a call of the driver returned, without its error code.

        Raises
        ------
        MemoryError
            If the device's memory is exhausted.
        CudaError
            If the call failed for another reason.
        """
        code = returned[0]
        if code:
            self.fail(code)
        return returned[1] if len(returned) > 1 else None

    def fail(self, code: Any) -> None:
        """Raise the error that a code of the driver stands for (see `call`)."""
        name = self.driver.CUresult(code).name
        if name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise MemoryError(f"the memory of CUDA device {self.ordinal} is exhausted")
        remedy = ""
        if name == "CUDA_ERROR_NOT_INITIALIZED":
            remedy = "; a forked child cannot use its parent's CUDA devices: start processes with 'spawn'"
        elif name == "CUDA_ERROR_ILLEGAL_ADDRESS":
            remedy = "; an array that was stepped may have been freed before"
        raise CudaError(f"CUDA device {self.ordinal} reports {name}{remedy}")

    def enter(self) -> bool:
        """Make the device's primary context current; return whether `leave` has to be called."""
        if int(self.call(self.driver.cuCtxGetCurrent())) == self._context:
            return False
        self.call(self.driver.cuCtxPushCurrent(self._context))
        return True

    def leave(self) -> None:
        """Make the context current that was current before `enter`."""
        self.call(self.driver.cuCtxPopCurrent())

    def enter_calls(self) -> list[Call]:
        """Return the driver's call that makes the context current, for `leave_calls` to leave it."""
        return [functools.partial(self.driver.cuCtxPushCurrent, self._context)]

    def leave_calls(self) -> list[Call]:
        """Return the driver's call that makes the context current that was so before `enter_calls`."""
        return [self.driver.cuCtxPopCurrent]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the device current, for Numba's functions too."""
        with cuda.gpus[self.ordinal]:
            yield

    def device_of(self, address: int) -> int:
        """Return the number of the device whose memory an address is in."""
        attribute = self.driver.CUpointer_attribute
        kind = self.call(self.driver.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address))
        if int(kind) != int(self.driver.CUmemorytype.CU_MEMORYTYPE_DEVICE):
            raise CudaError(f"address {address:#x} is in memory of another kind")
        ordinal = attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self.call(self.driver.cuPointerGetAttribute(ordinal, address)))

    def reserve(self, nbytes: int) -> tuple[Any, int]:
        """Return memory of the device, uninitialised, and its address."""
        with self.active(), self._memory_errors():
            memory = cuda.device_array(nbytes, np.uint8)
        return memory, int(memory.device_ctypes_pointer.value or 0)

    def reserve_pinned(self, nbytes: int) -> Array:
        """Return host memory from which copies can go on while the host does something else."""
        with self.active(), self._memory_errors():
            memory: Array = cuda.pinned_array(nbytes, np.uint8)
        return memory

    @contextlib.contextmanager
    def _memory_errors(self) -> Iterator[None]:
        try:
            yield
        except cuda.cudadrv.driver.CudaAPIError as error:
            self.fail(error.code)

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy between addresses of the host or the device."""
        self.call(self.copy_call(target, source, nbytes, stream)())

    def copy_call(self, target: int, source: int, nbytes: int, stream: int) -> Call:
        """Return the driver's call that does what `copy` does."""
        return functools.partial(self.driver.cuMemcpyAsync, target, source, nbytes, stream)

    def clear(self, target: int, nbytes: int, stream: int) -> None:
        """Fill memory of the device with zeros."""
        self.call(self.clear_call(target, nbytes, stream)())

    def clear_call(self, target: int, nbytes: int, stream: int) -> Call:
        """Return the driver's call that does what `clear` does."""
        return functools.partial(self.driver.cuMemsetD8Async, target, 0, nbytes, stream)

    def finish(self, stream: int) -> None:
        """Wait until all that a stream holds is done."""
        self.call(self.finish_call(stream)())

    def finish_call(self, stream: int) -> Call:
        """Return the driver's call that does what `finish` does."""
        return functools.partial(self.driver.cuStreamSynchronize, stream)

    def copies_in_one_go(self, copies: Iterable[tuple[int, int, int]], stream: int) -> list[Call]:
        """Return native calls that copy between addresses, one after the other, in a stream.

        They begin when all that is under way in any stream is done, and the host waits for them. Each returns an
        error's code. They call the driver's library itself: the functions of its Python bindings make their codes
        by Python code, in which an interrupt can arrive, and numbers that are halfway moved would be lost.

        Parameters
        ----------
        copies : iterable of (int, int, int)
            Target, source, and the number of bytes.
        stream : int
        """
        library, pointer = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1"), ctypes.c_void_p
        left, done_in = pointer(), pointer(stream)
        moves = [
            functools.partial(
                library.cuMemcpyAsync,
                ctypes.c_uint64(target),
                ctypes.c_uint64(source),
                ctypes.c_size_t(n),
                done_in,
            )
            for target, source, n in copies
        ]
        return [
            functools.partial(library.cuCtxPushCurrent_v2, pointer(self._context)),
            library.cuCtxSynchronize,
            *moves,
            functools.partial(library.cuStreamSynchronize, done_in),
            functools.partial(library.cuCtxPopCurrent_v2, ctypes.byref(left)),
        ]

    def event(self) -> Any:
        """Return an event, a mark in a stream."""
        with self.active():
            return cuda.event(timing=False)

    def record_call(self, event: Any, stream: int) -> Call:
        """Return the driver's call that sets the mark behind all that the stream holds then."""
        return functools.partial(self.driver.cuEventRecord, event.handle, stream)

    def passed(self, event: Any) -> bool:
        """Whether all before the mark is done."""
        (code,) = self.driver.cuEventQuery(event.handle)
        if code == self.driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if code:
            self.fail(code)
        return True

    def wait(self, event: Any) -> None:
        """Wait until all before the mark is done."""
        self.call(self.driver.cuEventSynchronize(event.handle))

    def stall_call(self, stream: int, event: Any) -> Call:
        """Return the driver's call that lets a stream wait for the mark."""
        return functools.partial(self.driver.cuStreamWaitEvent, stream, event.handle, 0)
