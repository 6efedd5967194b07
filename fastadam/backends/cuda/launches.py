"""Compiles kernels for a CUDA device and launches them; or, under Numba's simulator, stands in for that."""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from fastadam.backends.cuda import norm_kernels, zero_kernel
from fastadam.backends.cuda.general_kernels import N_WORDS as N_GENERAL_WORDS
from fastadam.backends.cuda.general_kernels import is_general, make_general
from fastadam.backends.cuda.kernels import BLOCK, N_COEFFICIENTS, N_WORDS, make_kernels, signatures
from fastadam.memory.arrays import address
from fastadam.memory.cuda.driver import SIMULATED, Gpu
from fastadam.step.quiet import Quiet
from fastadam.step.variants import variant_of

# The two kernels of a variant, in the order of make_kernels; that of a format's squares; the one of roots, whose
# number is 0; that of a table which moves averages; the one of zeros, whose number is 0. Variants that are for the
# general kernels have those of tables alone.
FLAT, TABLE, SQUARES, ROOT, AVERAGES, ZEROS = range(6)

_compiling = threading.Lock()


class Arguments:
    """The arguments of a kernel, in memory that the driver reads at each launch.

    Parameters
    ----------
    words : int
        How many 64-bit integers there are. They come first.
    reals : str
        The code of `struct` for each of the other arguments: ``"f"`` or ``"d"``, or ``""`` for none.
    count : int
        How many those are.

    Attributes
    ----------
    pointers : int
        The address of an array with the address of each argument.
    """

    def __init__(self, words: int, reals: str, count: int = N_COEFFICIENTS) -> None:
        layout = f"{words}q{count}{reals}" if reals else f"{words}q"
        packed = struct.Struct(f"={layout}")
        self._memory = np.zeros(packed.size, np.uint8)
        sizes = [8] * words + ([struct.calcsize(f"={reals}")] * count if reals else [])
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
            reals = Quiet().do(np.ndarray.astype, np.array(values[self._words :]), self._real)
            self._memory[: 8 * self._words].view(np.int64)[:] = values[: self._words]
            self._memory[8 * self._words :].view(self._real)[:] = reals

    def values(self) -> tuple[Any, ...]:
        """Return all arguments, as a kernel receives them."""
        words, reals = self._memory[: 8 * self._words], self._memory[8 * self._words :]
        return (*words.view(np.int64), *reals.view(self._real))


def arguments_of(variant: int, which: int) -> Arguments:
    """Return room for the arguments of a kernel."""
    if which in (TABLE, AVERAGES):
        return Arguments(N_GENERAL_WORDS if is_general(variant_of(variant)) else 4, "")
    if which == ZEROS:
        return Arguments(2, "")
    if which == SQUARES:
        return Arguments(5, "")
    if which == ROOT:
        return Arguments(3, "d", 2)
    return Arguments(N_WORDS, variant_of(variant).compute.char)


def _function_of(number: int, which: int) -> Callable[..., None]:
    """Return the Python function of a kernel."""
    if which == SQUARES:
        return norm_kernels.make_squares(number)
    if which == ROOT:
        return norm_kernels.make_root()
    if which == ZEROS:
        return zero_kernel.zeros
    if is_general(variant_of(number)):
        return make_general(number, averages=which == AVERAGES)
    if which == AVERAGES:
        return make_kernels(number, averages=True)[TABLE]
    return make_kernels(number)[which]


def _signature_of(number: int, which: int) -> Any:
    """Return the types of a kernel's arguments."""
    if which == SQUARES:
        return norm_kernels.signature(words=5, reals=0)
    if which == ROOT:
        return norm_kernels.signature(words=3, reals=2)
    if which == ZEROS:
        return norm_kernels.signature(words=2, reals=0)
    if is_general(variant_of(number)):
        return norm_kernels.signature(words=N_GENERAL_WORDS, reals=0)
    return signatures(number)[TABLE if which == AVERAGES else which]


class _Quiet:
    """A kernel for the simulator in which numbers that are not finite propagate silently, as on a device.

    The simulator exchanges the name ``cuda`` among the globals of what it runs: those of the kernel's module.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.__globals__ = function.__globals__
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> None:
        with np.errstate(all="ignore"):
            self._function(*arguments)


@functools.cache
def launcher(device: Any) -> Any:
    """Return what launches kernels on a device (see `fastadam.memory.cuda.driver.gpu`)."""
    return SimulatedLauncher(device) if SIMULATED else Launcher(device)


class SimulatedLauncher:
    """What `Launcher` does, in host memory and at once."""

    def __init__(self, device: Any) -> None:
        self.ordinal: int = device.ordinal

    @functools.cache  # noqa: B019 - there is one of each device
    def kernel(self, variant: int, which: int) -> Any:
        """Return a kernel, for `launch_call`."""
        return cuda.jit(_Quiet(_function_of(variant, which)))

    def launch(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> tuple[int]:
        """Run a kernel."""
        kernel[blocks, BLOCK](*arguments.values())
        return (0,)

    def launch_call(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> Callable[[], tuple[int]]:
        """Return the call that runs a kernel."""
        return functools.partial(self.launch, kernel, blocks, stream, arguments)


class Launcher:
    """Compiles kernels for one device and launches them.

    Parameters
    ----------
    device : Gpu
        Has to be entered for what `launch_call` returns.
    """

    def __init__(self, device: Gpu) -> None:
        self._device = device
        self._modules: list[Any] = []

    def kernel(self, variant: int, which: int) -> Any:
        """Return a kernel, for `launch_call`, compiling it at first use."""
        with _compiling:
            return self._kernel(variant, which)

    @functools.cache  # noqa: B019 - there is one of each device
    def _kernel(self, variant: int, which: int) -> int:
        device = self._device
        ptx, name = compile_kernel(variant, which, device.compute_capability)
        module = link(ptx, device.compute_capability)
        with device.active():
            handle = module.get_kernel(name).handle
            function = int(device.call(device.driver.cuKernelGetFunction(handle)))
        self._modules.append(module)  # which unloads the kernel when it goes
        return function

    def launch_call(self, kernel: Any, blocks: int, stream: int, arguments: Arguments) -> Callable[[], tuple[Any]]:
        """Return the driver's own call that launches a kernel; it returns an error's code in a tuple."""
        return functools.partial(
            self._device.driver.cuLaunchKernel,
            *(kernel, blocks, 1, 1, BLOCK, 1, 1, 0, stream, arguments.pointers, 0),
        )


def compile_kernel(variant: int, which: int, compute_capability: tuple[int, int]) -> tuple[str, str]:
    """Return the PTX of a kernel, and the kernel's name in it; no device is needed."""
    ptx, _ = cuda.compile_ptx(_function_of(variant, which), _signature_of(variant, which), cc=compute_capability)
    name = ptx.partition(".visible .entry ")[2].partition("(")[0].strip()
    return ptx, name


def link(ptx: str, compute_capability: tuple[int, int]) -> Any:
    """Return the machine code of a kernel; no device is needed.

    Kernels that are linked here, not by the driver, also run with a driver that is older than the compiler.
    """
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch="sm_{}{}".format(*compute_capability))
    return Linker(ObjectCode.from_ptx(ptx.encode()), options=options).link("cubin")
