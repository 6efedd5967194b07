"""Arrays on CUDA devices: the library's own, and other libraries' as the CUDA array interface describes them.

The interface is that of https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html. Numba's simulator
has no interface; there, its arrays are known by their type.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import ALL_DTYPES, Array, Dtypes, names_of
from fastadam.memory.cuda import available
from fastadam.memory.device import Call
from fastadam.memory.formats import BFLOAT16
from fastadam.memory.jax_arrays import has_cuda_interface, is_jax_array
from fastadam.memory.words import name_of

# The interface has no name for bfloat16.
DTYPES: Dtypes = {dtype: each for dtype, each in ALL_DTYPES.items() if each.format != BFLOAT16}
LEGACY_STREAM = 1  # the default stream, in which the library steps and copies
# Bytes that are exchanged at once.
PIECE = 1 << 26


class CudaArray:
    """A C-contiguous array in the memory of a CUDA device.

    Other libraries wrap it without a copy: ``cupy.asarray(array)``, ``torch.as_tensor(array, device="cuda")``,
    ``numba.cuda.as_cuda_array(array)``.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    device : int
        Number of the device.
    address : int
        Of the first element, in the device's memory.
    """

    __slots__ = ("__weakref__", "_owner", "address", "device", "dtype", "place", "shape")

    def __init__(
        self, owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: int
    ) -> None:
        self._owner = owner  # keeps the memory alive
        self.address, self.shape, self.dtype, self.device = address, shape, dtype, device
        # Of a packed buffer's views: the buffer, and which view. Copies and pickles of these keep together.
        self.place: tuple[Any, int | None] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.size else 0, False),
            "strides": None,
            "stream": LEGACY_STREAM,
            "version": 3,
        }

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, *shape: Any) -> CudaArray:
        """Return a view of another shape."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        if -1 in wanted:
            known = math.prod(n for n in wanted if n != -1)
            wanted = tuple(self.size // known if n == -1 else n for n in wanted)
        if math.prod(wanted) != self.size:
            raise ValueError(f"an array of shape {self.shape} has no view of shape {wanted}")
        return CudaArray(self._owner, self.address, wanted, self.dtype, self.device)

    def as_reals(self) -> CudaArray:
        """Return a 1-D view in which complex numbers are pairs of reals."""
        real, count = self.dtype, 1
        if self.dtype in ALL_DTYPES:
            real, count, *_ = ALL_DTYPES[self.dtype]
        return CudaArray(self._owner, self.address, (self.size * count,), real, self.device)

    def __getitem__(self, key: Any) -> CudaArray:
        if key is Ellipsis or key == ():
            return self
        if not isinstance(key, slice) or self.ndim != 1 or key.step not in (None, 1):
            raise TypeError(
                f"[{key!r}] of an array on a device is not possible; wrap it with CuPy, torch or Numba"
            )
        start, stop, _ = key.indices(self.size)
        address = self.address + start * self.itemsize
        return CudaArray(self._owner, address, (max(stop - start, 0),), self.dtype, self.device)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Copy numbers from the host or a device into the array, or fill it with one number."""
        target = self[key]
        if isinstance(value, int | float) and value == 0:
            target.fill(0)
        elif is_on_cuda(value):
            source = wrap(value, "value")
            if (source.shape, source.dtype) != (target.shape, target.dtype):
                raise ValueError(
                    f"{source.dtype} {source.shape} cannot be written to {target.dtype} {target.shape}"
                )
            target._copy(target.address, source.address)
        else:
            numbers = np.ascontiguousarray(np.broadcast_to(np.asarray(value), target.shape), target.dtype)
            target._copy(target.address, numbers.__array_interface__["data"][0])

    def fill(self, value: float) -> None:
        """Set all elements to one number."""
        if value:
            self[...] = np.full(self.shape, value, self.dtype)
        elif self.nbytes:
            gpu = _gpu(self.device)
            with gpu.active():
                gpu.clear(self.address, self.nbytes, LEGACY_STREAM)

    def copy_to_host(self) -> Array:
        """Return a copy as a NumPy array."""
        numbers: Array = np.empty(self.shape, self.dtype)
        self._copy(numbers.__array_interface__["data"][0], self.address)
        return numbers

    def _copy(self, target: int, source: int) -> None:
        """Copy as many bytes as the array has, and wait until that is done."""
        if self.nbytes:
            gpu = _gpu(self.device)
            with gpu.active():
                gpu.copy(target, source, self.nbytes, LEGACY_STREAM)
                gpu.finish(LEGACY_STREAM)

    def copy_calls(self, numbers: Array | CudaArray) -> list[Call]:
        """Return the driver's calls that copy numbers of this shape and dtype, and keep them.

        They are on the host, or on the same device.
        """
        if not self.nbytes:
            return []
        gpu = _gpu(self.device)
        if isinstance(numbers, CudaArray):
            source = numbers.address
        else:
            numbers = np.ascontiguousarray(numbers)
            source = numbers.__array_interface__["data"][0]
        copy = gpu.copy_call(self.address, source, self.nbytes, LEGACY_STREAM)
        copy.keeps = numbers
        return [*gpu.enter_calls(), copy, gpu.finish_call(LEGACY_STREAM), *gpu.leave_calls()]

    def clear_calls(self) -> list[Call]:
        """Return the driver's calls that fill the array with zeros."""
        if not self.nbytes:
            return []
        gpu = _gpu(self.device)
        clear = gpu.clear_call(self.address, self.nbytes, LEGACY_STREAM)
        return [*gpu.enter_calls(), clear, gpu.finish_call(LEGACY_STREAM), *gpu.leave_calls()]

    def __copy__(self) -> CudaArray:
        return _from_host(self.copy_to_host(), self.device)

    def __reduce__(self) -> Any:
        if self.place is not None:
            buffer, index = self.place
            return operator.methodcaller("view", index), (buffer,)
        return _from_host, (self.copy_to_host(), self.device)

    def __repr__(self) -> str:
        return f"<fastadam.CudaArray: {self.dtype} of shape {self.shape} on device {self.device}>"


def _from_host(numbers: Array, device: int) -> CudaArray:
    array = zeros(numbers.size, numbers.dtype, device).reshape(numbers.shape)
    array[...] = numbers
    return array


def _gpu(device: int) -> Any:
    """Return the driver's device of this number; numba-cuda is imported here, at first use."""
    available.check()
    from fastadam.memory.cuda import driver

    return driver.gpu(device)


def exchange_calls(pairs: Sequence[tuple[CudaArray, CudaArray]], device: int) -> list[Call]:
    """Return the driver's calls that exchange the numbers of arrays on a device, pair by pair, and keep them.

    They begin when all that is under way on the device is done, whatever stream it is in, and the host waits for
    them. They need memory for the largest array, and for no more than `PIECE`.

    Raises
    ------
    MemoryError
        If the device has not that much memory.
    """
    most = min(max((one.nbytes for one, _ in pairs), default=0), PIECE)
    if not most:
        return []
    gpu = _gpu(device)
    memory, between = gpu.reserve(most)
    copies: list[tuple[int, int, int]] = []
    for one, other in pairs:
        for start in range(0, one.nbytes, most):
            first, second, n = one.address + start, other.address + start, min(most, one.nbytes - start)
            copies += [(between, first, n), (first, second, n), (second, between, n)]
    calls: list[Any] = gpu.copies_in_one_go(copies, LEGACY_STREAM)
    calls[-1].keeps = memory, *pairs
    return calls


def check_returned(returned: Sequence[Any], device: int) -> None:
    """Raise the error that the driver's calls have returned, if one has."""
    for each in (each for each in returned if isinstance(each, tuple | int)):
        code = each[0] if isinstance(each, tuple) else each
        if code:
            _gpu(device).fail(code)


def device_at(address: int, asked: int = 0) -> int:
    """Return the number of the device whose memory an address is in; one of the devices is asked.

    Raises
    ------
    RuntimeError
        If it is in none.
    """
    number: int = _gpu(asked).device_of(address)
    return number


def zeros(size: int, dtype: np.dtype[Any], device: int) -> CudaArray:
    """Return `size` zeros on a device, in memory of their own.

    Raises
    ------
    MemoryError
        If the device has not that much memory.
    BackendUnavailableError, ValueError
        If there is no such device, or CUDA cannot be used.
    """
    gpu = _gpu(device)
    nbytes = size * dtype.itemsize
    memory, address = gpu.reserve(max(nbytes, 1))
    array = CudaArray(memory, address, (size,), dtype, device)
    array.fill(0)
    with gpu.active():
        gpu.finish(LEGACY_STREAM)  # zeros for whatever stream uses them next
    return array


def is_on_cuda(value: Any) -> bool:
    """Whether `value` is an array in the memory of a CUDA device."""
    if isinstance(value, np.ndarray):
        return False
    kind = type(value)
    if hasattr(kind, "__cuda_array_interface__"):
        if kind.__module__.startswith("jax"):  # of whose arrays on the CPU the class has the attribute too
            return is_jax_array(value) and has_cuda_interface(value)
        return getattr(value, "is_cuda", True) is True  # torch's tensors on the CPU have the attribute too
    return kind.__name__ == "FakeCUDAArray" and kind.__module__.startswith("numba.cuda.simulator")


class Description(NamedTuple):
    """What the interface says of an array, but for its stream: by this, an array is known to be what it was."""

    data: tuple[int, bool]
    shape: tuple[int, ...]
    typestr: str
    strides: tuple[int, ...] | None


def describe(value: Any, label: str) -> tuple[Description, int | None]:
    """Return what the interface says of an array on a CUDA device, and the stream in which it is produced.

    Raises
    ------
    TypeError
        If the library that it belongs to cannot describe it, or it is masked.
    """
    try:
        if hasattr(type(value), "__cuda_array_interface__"):
            interface = value.__cuda_array_interface__
        else:  # one of the simulator
            interface = {**value._ary.__array_interface__, "strides": value._ary.strides}
        address, readonly = interface["data"]
        shape, strides = tuple(interface["shape"]), interface.get("strides")
        found = Description(
            (int(address or 0), bool(readonly)), shape, str(interface["typestr"]), strides and tuple(strides)
        )
        stream, mask = interface.get("stream"), interface.get("mask")
    except Exception as error:  # foreign code
        remedy = ""
        if type(value).__module__.partition(".")[0] == "torch":
            remedy = "; use fastadam.torch.Adam for torch tensors, or pass tensor.detach()"
        raise TypeError(
            f"{label} is a {name_of(value)} whose __cuda_array_interface__ cannot be read ({error!r}){remedy}"
        ) from error
    if mask is not None:
        raise TypeError(f"{label} is a masked array, whose mask would be ignored; pass one without a mask")
    return found, stream


def wrap(value: Any, label: str, description: Description | None = None) -> CudaArray:
    """Return an array on a CUDA device as a `CudaArray` over the same memory.

    Raises
    ------
    TypeError, ValueError
        If its dtype is not supported, or it is not C-contiguous, or not where CUDA knows it to be.
    """
    if isinstance(value, CudaArray):
        return value
    (address, _), shape, typestr, strides = description or describe(value, label)[0]
    dtype = np.dtype(typestr)
    if dtype not in DTYPES:
        raise TypeError(f"{label} has dtype {dtype}; supported on CUDA devices are {names_of(DTYPES)}: convert it")
    size = math.prod(shape)
    if strides is not None and size:
        expected = dtype.itemsize
        for n, stride in zip(reversed(shape), reversed(strides), strict=True):
            if n > 1 and stride != expected:
                raise ValueError(
                    f"{label} of shape {shape} is not C-contiguous (strides {strides}); pass a contiguous copy"
                )
            expected *= n
    if address % ALL_DTYPES[dtype].real.itemsize:
        raise ValueError(f"{label} is not aligned to its dtype {dtype}; pass a copy of it")
    device = 0
    if size:
        try:
            device = device_at(address)
        except RuntimeError as error:
            raise ValueError(f"{label} is not in the memory of a CUDA device: {error}") from error
    return CudaArray(value, address, shape, dtype, device)
