"""What an array must be to serve as a parameter or a gradient, and where it lies in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam.memory.formats import by_dtype

try:
    from numpy.lib.array_utils import byte_bounds
except ImportError:  # NumPy 1
    from numpy import byte_bounds  # type: ignore[no-redef,attr-defined]

Array = NDArray[Any]

# What the elements of arrays of the supported dtypes are.
DTYPES = by_dtype("float32", "float64", "complex64", "complex128")
SUPPORTED = ", ".join(str(dtype) for dtype in DTYPES)
# On CUDA devices there is one more, which lies in memory in 16 bits and is computed with in float32.
CUDA_DTYPES = {**DTYPES, **by_dtype("float16")}


class OnDevice:
    """An array in memory that NumPy cannot reach (see `fastadam.memory.cuda.arrays`)."""

    __slots__ = ()
    address: int

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        raise NotImplementedError

    def as_reals(self) -> Any:
        """Return a 1-D view in which complex numbers are pairs of reals."""
        raise NotImplementedError

    def copy_to_host(self) -> Array:
        """Return a copy as a NumPy array."""
        raise NotImplementedError


def address(array: Array) -> int:
    """Return the address of the first element."""
    if isinstance(array, OnDevice):
        return array.address
    return int(array.__array_interface__["data"][0])


def array_at(place: int, size: int, dtype: np.dtype[Any]) -> Array:
    """Return the numbers at an address, as an array over that memory."""
    if not size:
        return np.empty(0, dtype)
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(place)
    return np.frombuffer(memory, dtype)  # type: ignore[call-overload,no-any-return]


def base_view(array: Array) -> Array:
    """Return `array`, or a view of it that no subclass has a say in."""
    if type(array) is np.ndarray or isinstance(array, OnDevice):
        return array
    return np.ndarray.view(array, np.ndarray)


def as_reals(array: Array) -> Array:
    """Return a 1-D view of a contiguous array; complex numbers become pairs of reals."""
    if isinstance(array, OnDevice):
        return array.as_reals()  # type: ignore[no-any-return]
    return base_view(array).reshape(-1).view(DTYPES[array.dtype].real)


def host_copy(array: Array) -> Array:
    """Return a copy as a NumPy array."""
    return array.copy_to_host() if isinstance(array, OnDevice) else array.copy()


def check_array(value: Any, label: str, device: int | None = None) -> Array:
    """Return `value` as a base-class ndarray if it is a NumPy array of a supported dtype.

    Parameters
    ----------
    value : object
        Anything.
    label : str
        How error messages call it.
    device : int, optional
        The CUDA device on which it is to be; there are more dtypes there.

    Returns
    -------
    ndarray
        `value` itself, or a base-class view of it.

    Raises
    ------
    TypeError
        If it is no array, masked, or of another dtype or byte order.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{label} {_not_an_array(value)}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array, whose mask would be ignored; pass its .data or .filled()")
    array = base_view(value)
    if array.dtype not in (DTYPES if device is None else CUDA_DTYPES):
        swapped = " (not in this machine's byte order)" if not array.dtype.isnative else ""
        raise TypeError(
            f"{label} has dtype {array.dtype}{swapped}; supported are {SUPPORTED}, in native byte order: "
            f"convert it with .astype()"
        )
    return array


def check_parameter(value: Any, label: str) -> Array:
    """Return `value` as an ndarray that a kernel may update in place.

    Parameters
    ----------
    value : object
        Anything.
    label : str
        How error messages call it.

    Returns
    -------
    ndarray
        Shares the memory of `value`: any shape, C-contiguous, aligned, writable, of a supported dtype.

    Raises
    ------
    TypeError
        If it is no array of a supported dtype.
    ValueError
        If it is read-only, not C-contiguous or not aligned.
    """
    array = check_array(value, label)
    if not array.flags.writeable:
        raise ValueError(f"{label} is read-only; parameters are updated in place, so pass a writable copy")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{label} of shape {array.shape} is not C-contiguous (strides {array.strides}); make it so with "
            f"np.ascontiguousarray and go on with that array, or let fastadam.pack lay it out"
        )
    if not array.flags.aligned:
        raise ValueError(f"{label} is not aligned to its dtype {array.dtype}; pass a copy of it")
    return array


def check_gradient(value: Any, param: Array, label: str, fences: Fences) -> Array:
    """Return the gradient `value` in the form that kernels read, without writing to it.

    Parameters
    ----------
    value : object
        An ndarray of the dtype and shape of `param`, of any strides; a NumPy scalar for a 0-d `param`.
    param : ndarray
        The parameter it belongs to.
    label : str
        How error messages call it.
    fences : Fences
        The memory that the step writes.

    Returns
    -------
    ndarray
        C-contiguous and aligned; `value` itself where that is so, else a copy.

    Raises
    ------
    TypeError
        If it is no array, or of another dtype.
    ValueError
        If its shape differs, or it shares memory with what the step writes.
    """
    grad = np.asarray(value) if isinstance(value, np.generic) else value
    if not isinstance(grad, np.ndarray):
        raise TypeError(f"{label} {_not_an_array(value)}; use None for a parameter without a gradient")
    if isinstance(grad, np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array, whose mask would be ignored; pass its .filled(0)")
    grad = base_view(grad)
    if grad.dtype != param.dtype:
        raise TypeError(
            f"{label} has dtype {grad.dtype}, its parameter has {param.dtype}; convert it with "
            f".astype(np.{param.dtype.name})"
        )
    if grad.shape != param.shape:
        raise ValueError(f"{label} has shape {grad.shape}, its parameter has {param.shape}")
    owner = fences.owner(grad)
    if owner is not None:
        raise ValueError(f"{label} shares memory with {owner}, which this step writes; pass a copy of it")
    if not (grad.flags.c_contiguous and grad.flags.aligned):
        return np.array(grad, order="C")
    return grad


class Fences:
    """The memory that a step writes, as sorted intervals that do not meet.

    Parameters
    ----------
    owned : iterable of (array, label)
        Contiguous arrays; empty ones take no memory.

    Raises
    ------
    ValueError
        If two of them share memory.

    Attributes
    ----------
    starts, ends : ndarray of int64
        First byte of each interval, and the byte after its last.
    """

    def __init__(self, owned: Iterable[tuple[Array, str]]) -> None:
        intervals = sorted(
            ((address(array), label, array) for array, label in owned if array.size),
            key=lambda interval: interval[0],
        )
        self.starts = np.array([start for start, _, _ in intervals], dtype=np.int64)
        self.ends = np.array([start + array.nbytes for start, _, array in intervals], dtype=np.int64)
        self._labels = [label for _, label, _ in intervals]
        self._arrays = [array for _, _, array in intervals]
        for i in np.flatnonzero(self.ends[:-1] > self.starts[1:]):
            raise ValueError(
                f"{self._labels[i]} and {self._labels[i + 1]} share memory (or are the same array); give each "
                f"parameter once, or pass a copy"
            )

    def owner(self, array: Array) -> str | None:
        """Return the label of an interval that shares memory with `array` (of any strides), or None."""
        if not array.size:
            return None
        low, high = _bounds(array)
        last = int(np.searchsorted(self.starts, high))
        first = int(np.searchsorted(self.ends, low, side="right"))
        for i in range(first, last):
            if isinstance(array, OnDevice) or array.flags.c_contiguous or np.shares_memory(array, self._arrays[i]):
                return self._labels[i]
        return None


def _bounds(array: Array) -> tuple[int, int]:
    """Return the addresses between which an array lies."""
    if isinstance(array, OnDevice):
        return array.address, array.address + array.nbytes
    return byte_bounds(array)


def name_of(value: Any) -> str:
    """Return the name of the type of `value`, with the library it comes from."""
    module = type(value).__module__.partition(".")[0]
    return f"{module}.{type(value).__qualname__}" if module != "builtins" else type(value).__qualname__


def _not_an_array(value: Any) -> str:
    """Say what `value` is instead of a NumPy array, and what to do about it."""
    module = type(value).__module__.partition(".")[0]
    name = name_of(value)
    if module == "torch":
        return (
            f"is a {name}, not a NumPy array; use fastadam.torch.Adam for torch tensors "
            f"(or pass tensor.detach().numpy(), which shares a CPU tensor's memory)"
        )
    if hasattr(value, "__cuda_array_interface__"):
        return f"is a {name} on a CUDA device, where a NumPy array is needed; copy it to the host"
    if hasattr(value, "__array__"):
        return f"is a {name}, not a NumPy array; convert it with np.array"
    return f"is a {name}, not a NumPy array"
