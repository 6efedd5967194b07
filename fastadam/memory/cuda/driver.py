"""Kernels, launches, copies and events on one CUDA device; or, under Numba's simulator, what stands in for them.

Streams are given by their pointers, as the CUDA array interface and torch give them. Memory and events are
Numba's, so that they live in the device's primary context, which all Python libraries share.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import cuda

from fastadam.backends.cuda.kernels import (
    BLOCK,
    N_COEFFICIENTS,
    N_WORDS,
    SIMULATED,
    make_kernels,
    quiet,
    signatures,
)
from fastadam.memory.arrays import Array, address
from fastadam.step.variants import variant_of

# The legacy default stream, in which kernels and copies go by default.
LEGACY_STREAM = 1
FLAT, TABLE = 0, 1  # the two kernels of a variant, in the order of make_kernels

_compiling = threading.Lock()


class CudaError(RuntimeError):
    """A call of the CUDA driver failed."""


class Arguments:
    """The arguments of a kernel, in memory that the driver reads at each launch.

    Parameters
    ----------
    words : int
        How many 64-bit integers there are. They come first.
    reals : str
        The code of `struct` for each of the other arguments: ``"f"`` or ``"d"``, or ``""`` for none.

    Attributes
    ----------
    pointers : int
        The address of an array with the address of each argument.
    """

    def __init__(self, words: int, reals: str) -> None:
        layout = f"{words}q{N_COEFFICIENTS}{reals}" if reals else f"{words}q"
        packed = struct.Struct(f"={layout}")
        self._memory = np.zeros(packed.size, np.uint8)
        sizes = [8] * words + ([struct.calcsize(f"={reals}")] * N_COEFFICIENTS if reals else [])
        starts = address(self._memory) + np.cumsum([0, *sizes[:-1]])
        self._pointers = starts.astype(np.int64)
        self.pointers = address(self._pointers)
        self._words, self._real = words, np.dtype(reals or "f")
        self._bytes = self._memory.data
        self._pack = packed.pack_into

    def write(self, *values: float) -> None:
        """Set all arguments; reals are rounded to the nearest number of their type."""
        try:
            self._pack(self._bytes, 0, *values)
        except OverflowError:  # what is too large for a float32 is infinite, as everywhere else
            with np.errstate(over="ignore"):
                reals = np.array(values[self._words :]).astype(self._real)
            self._memory[: 8 * self._words].view(np.int64)[:] = values[: self._words]
            self._memory[8 * self._words :].view(self._real)[:] = reals

    def values(self) -> tuple[Any, ...]:
        """Return all arguments, as a kernel receives them."""
        words, reals = self._memory[: 8 * self._words], self._memory[8 * self._words :]
        return (*words.view(np.int64), *reals.view(self._real))


def arguments_of(kind: int, which: int) -> Arguments:
    """Return room for the arguments of one of a variant's two kernels."""
    if which == TABLE:
        return Arguments(3, "")
    return Arguments(N_WORDS, variant_of(kind).compute.char)


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

    @functools.cache  # noqa: B019 - there is one of each device
    def kernel(self, kind: int, which: int) -> Any:
        """Return a kernel, for `launch`."""
        return cuda.jit(quiet(make_kernels(kind)[which]))

    def launch(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> tuple[int]:
        """Run a kernel."""
        kernel[blocks, BLOCK](*arguments.values())
        return (0,)

    def launch_call(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> Callable[[], tuple[int]]:
        """Return the call that runs a kernel."""
        return functools.partial(self.launch, kernel, blocks, stream, arguments)

    def fail(self, code: Any) -> None:
        """Nothing fails here."""

    def device_of(self, place: int) -> int:
        """Return the number of the device whose memory an address is in."""
        return self.ordinal

    def reserve(self, nbytes: int) -> tuple[Any, int]:
        """Return memory of the device, uninitialised, and its address."""
        memory = np.empty(nbytes, np.uint8)
        return memory, address(memory)

    def reserve_pinned(self, nbytes: int) -> Array:
        """Return host memory from which copies can go on while the host does something else."""
        return np.empty(nbytes, np.uint8)

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy between addresses of the host or the device."""
        ctypes.memmove(target, source, nbytes)

    def clear(self, target: int, nbytes: int, stream: int) -> None:
        """Fill memory of the device with zeros."""
        ctypes.memset(target, 0, nbytes)

    def finish(self, stream: int) -> None:
        """Wait until all that a stream holds is done."""

    def event(self) -> Any:
        """Return an event, a mark in a stream."""
        return cuda.event()

    def record(self, event: Any, stream: int) -> None:
        """Set the mark behind all that the stream holds now."""

    def passed(self, event: Any) -> bool:
        """Whether all before the mark is done."""
        return True

    def wait(self, event: Any) -> None:
        """Wait until all before the mark is done."""

    def stall(self, stream: int, event: Any) -> None:
        """Let a stream wait for the mark."""


class Gpu:
    """One CUDA device.

    Whatever changes or reads the device's state must run between `enter` and `leave`, or within `active`.
    """

    def __init__(self, ordinal: int) -> None:
        from cuda.bindings import driver

        self.ordinal = ordinal
        self._driver = driver
        self.call(driver.cuInit(0))
        self._context = int(self.call(driver.cuDevicePrimaryCtxRetain(self.call(driver.cuDeviceGet(ordinal)))))
        major, minor = cuda.gpus[ordinal].compute_capability
        self.compute_capability = (int(major), int(minor))
        self._modules: list[Any] = []

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
        name = self._driver.CUresult(code).name
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
        if int(self.call(self._driver.cuCtxGetCurrent())) == self._context:
            return False
        self.call(self._driver.cuCtxPushCurrent(self._context))
        return True

    def leave(self) -> None:
        """Make the context current that was current before `enter`."""
        self.call(self._driver.cuCtxPopCurrent())

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the device current, for Numba's functions too."""
        with cuda.gpus[self.ordinal]:
            yield

    def kernel(self, kind: int, which: int) -> Any:
        """Return a kernel, for `launch`, compiling it at first use."""
        with _compiling:
            return self._kernel(kind, which)

    @functools.cache  # noqa: B019 - there is one of each device
    def _kernel(self, kind: int, which: int) -> int:
        ptx, name = compile_kernel(kind, which, self.compute_capability)
        module = link(ptx, self.compute_capability)
        with self.active():
            handle = module.get_kernel(name).handle
            function = int(self.call(self._driver.cuKernelGetFunction(handle)))
        self._modules.append(module)  # which unloads the kernel when it goes
        return function

    def launch(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> None:
        """Launch a kernel into a stream."""
        self.call(self.launch_call(kernel, blocks, stream, arguments)())

    def launch_call(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> Callable[[], tuple[Any]]:
        """Return the driver's own call that launches a kernel; it returns an error's code in a tuple."""
        return functools.partial(
            self._driver.cuLaunchKernel, kernel, blocks, 1, 1, BLOCK, 1, 1, 0, stream, arguments.pointers, 0
        )

    def device_of(self, place: int) -> int:
        """Return the number of the device whose memory an address is in."""
        attribute = self._driver.CUpointer_attribute
        kind = self.call(self._driver.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, place))
        if int(kind) != int(self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE):
            raise CudaError(f"address {place:#x} is in memory of another kind")
        ordinal = attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        return int(self.call(self._driver.cuPointerGetAttribute(ordinal, place)))

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
        self.call(self._driver.cuMemcpyAsync(target, source, nbytes, stream))

    def clear(self, target: int, nbytes: int, stream: int) -> None:
        """Fill memory of the device with zeros."""
        self.call(self._driver.cuMemsetD8Async(target, 0, nbytes, stream))

    def finish(self, stream: int) -> None:
        """Wait until all that a stream holds is done."""
        self.call(self._driver.cuStreamSynchronize(stream))

    def event(self) -> Any:
        """Return an event, a mark in a stream."""
        with self.active():
            return cuda.event(timing=False)

    def record(self, event: Any, stream: int) -> None:
        """Set the mark behind all that the stream holds now."""
        self.call(self._driver.cuEventRecord(event.handle, stream))

    def passed(self, event: Any) -> bool:
        """Whether all before the mark is done."""
        (code,) = self._driver.cuEventQuery(event.handle)
        if code == self._driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if code:
            self.fail(code)
        return True

    def wait(self, event: Any) -> None:
        """Wait until all before the mark is done."""
        self.call(self._driver.cuEventSynchronize(event.handle))

    def stall(self, stream: int, event: Any) -> None:
        """Let a stream wait for the mark."""
        self.call(self._driver.cuStreamWaitEvent(stream, event.handle, 0))


def compile_kernel(kind: int, which: int, compute_capability: tuple[int, int]) -> tuple[str, str]:
    """Return the PTX of one of a variant's two kernels, and the kernel's name in it; no device is needed."""
    ptx, _ = cuda.compile_ptx(make_kernels(kind)[which], signatures(kind)[which], cc=compute_capability)
    name = ptx.partition(".visible .entry ")[2].partition("(")[0].strip()
    return ptx, name


def link(ptx: str, compute_capability: tuple[int, int]) -> Any:
    """Return the machine code of a kernel; no device is needed.

    Kernels that are linked here, not by the driver, also run with a driver that is older than the compiler.
    """
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch="sm_{}{}".format(*compute_capability))
    return Linker(ObjectCode.from_ptx(ptx.encode()), options=options).link("cubin")
