"""What differs between arrays on the host and arrays on CUDA devices, in one place."""

from __future__ import annotations

from typing import Any

from fastadam.memory import arrays
from fastadam.memory.arrays import Array, Fences
from fastadam.memory.cuda import arrays as cuda_arrays
from fastadam.memory.cuda.arrays import is_on_cuda


def device_of(array: Any) -> int | None:
    """Return the number of the CUDA device that an array is on, or None for the host."""
    return array.device if isinstance(array, cuda_arrays.CudaArray) else None


def check_array(value: Any, label: str, device: int | None) -> Array:
    """Return `value` as an array of a supported dtype (see `fastadam.memory.arrays.check_array`)."""
    if is_on_cuda(value):
        return cuda_arrays.wrap(value, label, None)  # type: ignore[return-value]
    return arrays.check_array(value, label, device)


def check_parameter(value: Any, label: str) -> Array:
    """Return `value` as an array that a kernel may update in place (see the one in `arrays`)."""
    if is_on_cuda(value):
        return cuda_arrays.check_parameter(value, label)  # type: ignore[return-value]
    return arrays.check_parameter(value, label)


def check_gradient(value: Any, param: Any, label: str, fences: Fences) -> Array:
    """Return the gradient `value` in the form that kernels read (see `fastadam.memory.arrays.check_gradient`)."""
    if isinstance(param, cuda_arrays.CudaArray):
        return cuda_arrays.check_gradient(value, param, label, fences)  # type: ignore[return-value]
    return arrays.check_gradient(value, param, label, fences)


def shape_of(array: Any) -> tuple[int, ...]:
    """Return the shape of an array, wherever it is."""
    return cuda_arrays.describe(array, "the array")[0].shape if is_on_cuda(array) else array.shape


def own_view(array: Any) -> Array:
    """Return an array on a CUDA device as a `CudaArray`, and any other one as it is."""
    return cuda_arrays.wrap(array, "the array", None) if is_on_cuda(array) else array  # type: ignore[return-value]
