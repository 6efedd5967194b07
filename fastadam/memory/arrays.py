"""What a NumPy array must be to serve as a parameter or a gradient, and where it lies in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam.memory.formats import Element, by_dtype

Array = NDArray[Any]

# What the elements of arrays of a dtype are.
Dtypes = Mapping[np.dtype[Any], Element]
DTYPES: Dtypes = by_dtype("float32", "float64", "complex64", "complex128")
SUPPORTED = ", ".join(str(dtype) for dtype in DTYPES)
# Those of arrays on devices that take one more.
ALL_DTYPES: Dtypes = {**DTYPES, **by_dtype("float16")}


def address(array: Array) -> int:
    """Return the address of the first element."""
    if array.dtype.names is not None:  # NumPy makes its interface in Python, and drops what a handler raises there
        return int(array.ctypes.data)
    return int(array.__array_interface__["data"][0])


def array_at(address: int, size: int, dtype: np.dtype[Any]) -> Array:
    """Return the numbers at an address, as an array over that memory."""
    if not size:
        return np.empty(0, dtype)
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype)  # type: ignore[call-overload,no-any-return]


def base_view(array: Array) -> Array:
    """Return `array`, or a view of it that no subclass has a say in."""
    if type(array) is np.ndarray:
        return array
    return np.ndarray.view(array, np.ndarray)


def as_reals(array: Array) -> Array:
    """Return a 1-D view of a contiguous array; complex numbers become pairs of reals."""
    return base_view(array).reshape(-1).view(ALL_DTYPES[array.dtype].real)


def check_array(value: Any, label: str, dtypes: Dtypes = DTYPES) -> Array:
    """Return `value` as a base-class ndarray if it is a NumPy array of a supported dtype.

    Parameters
    ----------
    value : object
        Anything.
    label : str
        How error messages call it.
    dtypes : mapping, optional
        The dtypes that are supported where it will be copied to.

    Returns
    -------
    ndarray
        `value` itself, or a base-class view of it.

    Raises
    ------
    TypeError
        If it is no array, masked, or of another dtype or byte order.
    """
    if not issubclass(type(value), np.ndarray):
        raise TypeError(f"{label} {_not_an_array(value)}")
    if issubclass(type(value), np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array, whose mask would be ignored; pass its .data or .filled()")
    array = base_view(value)
    if array.dtype not in dtypes:
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


def check_gradient(value: Any, param: Array, label: str) -> Array:
    """Return the gradient `value` as an ndarray of the dtype and shape of `param`, of any strides.

    Parameters
    ----------
    value : object
        An ndarray; or a NumPy scalar for a 0-d `param`.
    param : ndarray
        The parameter it belongs to.
    label : str
        How error messages call it.

    Returns
    -------
    ndarray
        `value` itself, or a base-class view of its memory.

    Raises
    ------
    TypeError
        If it is no array, masked, or of another dtype.
    ValueError
        If its shape differs.
    """
    # By the type, as `isinstance` asks for `__class__`, which runs foreign code amid the checks of a step.
    grad = np.asarray(value) if issubclass(type(value), np.generic) else value
    if not issubclass(type(grad), np.ndarray):
        raise TypeError(f"{label} {_not_an_array(value)}; use None for a parameter without a gradient")
    if issubclass(type(grad), np.ma.MaskedArray):
        raise TypeError(f"{label} is a masked array, whose mask would be ignored; pass its .filled(0)")
    grad = base_view(grad)
    if grad.dtype != param.dtype:
        raise TypeError(
            f"{label} has dtype {grad.dtype}, its parameter has {param.dtype}; convert it with "
            f".astype(np.{param.dtype.name})"
        )
    if grad.shape != param.shape:
        raise ValueError(f"{label} has shape {grad.shape}, its parameter has {param.shape}")
    return grad


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
