"""What a NumPy array must be to serve as a parameter or a gradient, and where it lies in memory."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastadam.memory import remedies
from fastadam.memory.formats import ELEMENTS, ByDtype, Element, takes
from fastadam.memory.remedies import COPIED, READ, WRITTEN, Use

Array = NDArray[Any]

# What the elements of arrays of a dtype are.
Dtypes = Mapping[np.dtype[Any], Element]
ALL_DTYPES: Dtypes = ByDtype()
SUPPORTED = ", ".join(ELEMENTS)


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
    """Return a 1-D view of a contiguous array; complex numbers become pairs of reals, and bfloat16 bits."""
    flat = base_view(array).reshape(-1)
    return flat.view(ALL_DTYPES[array.dtype].real) if array.dtype in ALL_DTYPES else flat


def check_array(value: Any, label: str, dtypes: Dtypes = ALL_DTYPES, use: Use = COPIED) -> Array:
    """Return `value` as a base-class ndarray if it is a NumPy array of a supported dtype.

    Parameters
    ----------
    value : object
        Anything.
    label : str
        How error messages call it.
    dtypes : mapping, optional
        The dtypes that are supported where it will be copied to.
    use : Use, optional
        What becomes of it, by which messages say what to do.

    Returns
    -------
    ndarray
        `value` itself, or a base-class view of it.

    Raises
    ------
    TypeError
        If it is no array, its numbers alone are not all that it means (it is masked, or has a unit), or it is of
        another dtype or byte order.
    """
    if not issubclass(type(value), np.ndarray):
        raise TypeError(f"{label} {remedies.not_an_array(value, use)}")
    lost = remedies.lost_meaning(value, use)
    if lost is not None:
        raise TypeError(f"{label} {lost}")
    array = base_view(value)
    if array.dtype not in dtypes:
        swapped = " (not in this machine's byte order)" if not array.dtype.isnative else ""
        raise TypeError(
            f"{label} has dtype {array.dtype}{swapped}; supported are {names_of(dtypes)}, in native byte order: "
            f"{remedies.other_dtype(array, use)}"
        )
    return array


def check_parameter(value: Any, label: str, *, is_taken: bool = False) -> Array:
    """Return `value` as an ndarray that a kernel may update in place.

    Parameters
    ----------
    value : object
        Anything.
    label : str
        How error messages call it.
    is_taken : bool, default False
        Whether it is an optimizer's already, so that another array would be none of its parameters.

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
    array = check_array(value, label, use=WRITTEN)
    if not array.flags.writeable and is_taken:
        raise ValueError(
            f"{label} is read-only, and was not before; make it writable again: w.flags.writeable = True"
        )
    if not array.flags.writeable:
        raise ValueError(
            f"{label} is read-only; parameters are updated in place, so pass a writable copy, and go on with that "
            f"one: w = w.copy()"
        )
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{label} of shape {array.shape} is not C-contiguous (strides {array.strides}); make it so, and go on "
            f"with that array, or with those of fastadam.pack, which lays copies out: w = np.ascontiguousarray(w)"
        )
    if not array.flags.aligned:
        raise ValueError(
            f"{label} is not aligned to its dtype {array.dtype}; go on with a copy, which is: w = w.copy()"
        )
    return array


def names_of(dtypes: Dtypes) -> str:
    """Return what messages list as the dtypes that are supported."""
    return SUPPORTED if dtypes is ALL_DTYPES else ", ".join(each.name for each in dtypes.values())


def dtype_of_gradient(value: Any, own: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a gradient; of what `check_gradient` would refuse, its parameter's, `own`."""
    if issubclass(type(value), np.ndarray):
        dtype = base_view(value).dtype
    elif issubclass(type(value), np.generic):
        dtype = np.asarray(value).dtype
    else:
        return own
    return _taken(dtype, own)


@functools.lru_cache(maxsize=64)
def _taken(dtype: np.dtype[Any], own: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype, where a parameter of the dtype `own` takes gradients of it, else `own`."""
    is_taken = dtype != own and dtype in ALL_DTYPES and takes(ALL_DTYPES[own], ALL_DTYPES[dtype])
    # NumPy's one object of this dtype, by which native code knows it.
    return np.dtype(dtype.type) if is_taken else own


def check_gradient(value: Any, param: Array, label: str) -> Array:
    """Return the gradient `value` as an ndarray of the shape of `param`, of any strides.

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
        If it is no array, its numbers alone are not all that it means, or it is of a dtype that `param` does not
        take (see `fastadam.memory.formats.takes`).
    ValueError
        If its shape differs.
    """
    # By the type, as `isinstance` asks for `__class__`, which runs foreign code amid the checks of a step.
    grad = np.asarray(value) if issubclass(type(value), np.generic) else value
    if not issubclass(type(grad), np.ndarray):
        found = remedies.not_an_array(value, READ, remedies.dtype_of_gradient(param), param.shape)
        raise TypeError(f"{label} {found}; use None for a parameter without a gradient")
    lost = remedies.lost_meaning(grad, READ)
    if lost is not None:
        raise TypeError(f"{label} {lost}")
    grad = base_view(grad)
    if grad.dtype != param.dtype and dtype_of_gradient(grad, param.dtype) != grad.dtype:
        own = ALL_DTYPES[param.dtype]
        taken = [each.name for each in ELEMENTS.values() if takes(own, each)]
        listed = f", which takes gradients of {', '.join(taken)}" if len(taken) > 1 else ""
        raise TypeError(
            f"{label} has dtype {grad.dtype}, its parameter has {param.dtype}{listed}; "
            f"{remedies.other_dtype_of_gradient(grad, param)}"
        )
    if grad.shape != param.shape:
        raise ValueError(
            f"{label} has shape {grad.shape}, its parameter has {param.shape}; "
            f"{remedies.other_shape_of_gradient(grad, param)}"
        )
    return grad
