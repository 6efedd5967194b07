"""What a torch tensor must be to be stepped in place, and how its numbers lie in memory."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fastadam.memory.formats import ELEMENTS

# Tells autograd that a list of tensors was written: ``raise_versions(tensors)``, native where possible.
raise_versions = getattr(torch._C, "_increment_version", increment_version)
# The `__torch_function__` of tensors and of parameters.
_PLAIN_FUNCTIONS = (Tensor.__torch_function__.__func__, torch._C._disabled_torch_function_impl)
# What the elements of tensors of the supported dtypes are.
DTYPES = {getattr(torch, name): element for name, element in ELEMENTS.items()}


def view_of(tensor: Tensor) -> Tensor:
    """Return a view of all of a tensor: of the plain class, without a history, and nobody else's.

    What is done to the tensor object later, such as giving it other data or strides, does not show in it.

    Raises
    ------
    TypeError
        If it only says that it is a tensor.
    """
    return Tensor.detach(tensor)


def format_code(tensor: Tensor) -> int:
    """Return the code of the tensor's format (see `fastadam.memory.formats`)."""
    return DTYPES[tensor.dtype].format.code


def count_reals(tensor: Tensor) -> int:
    """Return how many real numbers the tensor holds; complex ones are pairs of them."""
    return int(tensor.numel() * DTYPES[tensor.dtype].reals)


def dlpack_dtype(tensor: Tensor) -> int:
    """Return the dtype as DLPack has it: type code, bits and lanes in one number."""
    return DTYPES[tensor.dtype].dlpack | 8 * int(tensor.element_size()) << 8 | 1 << 16


def _steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Return ``(stride, length)`` of the dimensions along which one can step, by rising stride."""
    return sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)


def is_dense(tensor: Tensor) -> bool:
    """Whether the numbers fill one run of memory, each address once, in whatever order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in _steps(tensor) if tensor.numel() else ():
        if stride != expected:
            return False
        expected *= size
    return True


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two elements may lie in one place, as in an expanded tensor."""
    if tensor.is_contiguous():
        return False
    reach = 0
    for stride, size in _steps(tensor) if tensor.numel() else ():
        if stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def same_layout(first: Tensor, second: Tensor) -> bool:
    """Whether elements of equal index have equal offsets; the shapes must be the same."""
    if first.stride() == second.stride() or not first.numel():
        return True
    return _steps(first) == _steps(second) and all(
        a == b or size == 1 for a, b, size in zip(first.stride(), second.stride(), first.shape, strict=True)
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether memory holds the numbers themselves: they are not negated, conjugated or all zero when read."""
    return not (tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor())


def lies_like(tensor: Tensor, view: Tensor) -> bool:
    """Whether a tensor still is what a plain view of it shows: nobody gave it other data or strides."""
    return bool(
        tensor.data_ptr() == view.data_ptr()
        and tensor.stride() == view.stride()
        and tensor.shape == view.shape
        and tensor.dtype == view.dtype
        and tensor.device == view.device
        and is_plain(tensor)
    )


def is_aligned(tensor: Tensor) -> bool:
    """Whether the numbers lie at multiples of their size, as compiled code expects."""
    return bool(tensor.data_ptr() % (tensor.element_size() // (2 if tensor.is_complex() else 1)) == 0)


def has_own_dispatch(tensor: Tensor) -> bool:
    """Whether torch's functions do something else with this tensor than with a plain one.

    It is of a type with `__torch_dispatch__` or `__torch_function__` of its own, or one of those that `torch.func`
    makes: its memory, if it has any, may mean anything.
    """
    kind = type(tensor)
    if kind is not Tensor and kind is not torch.nn.Parameter:
        if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return True
        function = kind.__torch_function__
        if getattr(function, "__func__", function) not in _PLAIN_FUNCTIONS:
            return True
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def extent(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses between which the tensor lies.

    CUDA has one space of addresses for the host and all its devices ("unified virtual addressing", on every
    64-bit system that it runs on), so that these can be compared whatever the device.
    """
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.numel() * tensor.element_size()
    last = sum((size - 1) * stride for stride, size in _steps(tensor))
    return start, start + (last + 1) * tensor.element_size()


def has_its_memory(tensor: Tensor) -> bool:
    """Whether the storage reaches to the last element; one that was freed or shrunk does not."""
    low, high = extent(tensor)
    if low == high or tensor.device.type == "meta":
        return True
    needed = tensor.storage_offset() * tensor.element_size() + high - low
    return bool(low and tensor.untyped_storage().nbytes() >= needed)


def in_order(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the intervals of addresses that are not empty, sorted."""
    return sorted(extent for extent in extents if extent[0] < extent[1])


def apart(extents: Iterable[tuple[int, int]]) -> bool:
    """Whether no two intervals of addresses meet; empty ones do not count."""
    return all(a[1] <= b[0] for a, b in itertools.pairwise(in_order(extents)))


class Extents:
    """Intervals of addresses, which may overlap, to look others up in.

    Parameters
    ----------
    extents : iterable of (int, int)
    """

    def __init__(self, extents: Iterable[tuple[int, int]]) -> None:
        ordered = in_order(extents)
        self._lows = [low for low, _ in ordered]
        self._reach = list(itertools.accumulate((high for _, high in ordered), max))

    def meet(self, low: int, high: int) -> bool:
        """Whether one of them shares an address with the interval given."""
        before = bisect.bisect_left(self._lows, high)
        return low < high and before > 0 and self._reach[before - 1] > low


def check_stepped(tensor: Tensor, label: str, *, is_compact: bool = False) -> None:
    """Check that a plain tensor is one that a step can write; one of compact state may have dtypes of its own.

    Raises
    ------
    RuntimeError
        If it is not; the message says why, and what to do.
    """
    if tensor.layout != torch.strided:
        raise RuntimeError(f"{label} has the layout {tensor.layout}; only strided tensors can be stepped")
    if tensor.dtype not in DTYPES and not is_compact:
        supported = ", ".join(map(str, DTYPES))
        raise RuntimeError(
            f"{label} has dtype {tensor.dtype}; supported are {supported}: convert the model with .to()"
        )
    if overlaps_itself(tensor):
        raise RuntimeError(
            f"{label} of shape {tuple(tensor.shape)} and strides {tensor.stride()} has several elements in one "
            f"place of memory, so that it cannot be updated in place; use a .clone() of it"
        )
    if not has_its_memory(tensor):
        raise RuntimeError(f"{label} has a storage that was freed or shrunk; give it memory again before the step")


def goes_with(grad: torch.dtype, param: torch.dtype) -> bool:
    """Whether gradients of one dtype can step parameters of another: both are computed with in the same."""
    if grad == param:
        return True
    if grad not in DTYPES or param not in DTYPES:
        return False
    first, second = DTYPES[grad], DTYPES[param]
    return first.format.compute == second.format.compute and first.reals == second.reals


def check_like(tensor: Tensor, param: Tensor, label: str, remedy: str, dtype: torch.dtype | None = None) -> None:
    """Check that a moment has its parameter's shape, layout and device, and its dtype or the one given.

    Raises
    ------
    RuntimeError
        If it has not.
    """
    for what, found, wanted in (
        ("layout", tensor.layout, param.layout),
        ("device", tensor.device, param.device),
        ("dtype", tensor.dtype, param.dtype if dtype is None else dtype),
        ("shape", tuple(tensor.shape), tuple(param.shape)),
    ):
        if found != wanted:
            raise RuntimeError(f"{label} has {what} {found}, its parameter has {wanted}; {remedy}")


def check_grad(grad: Tensor, param: Tensor, label: str) -> None:
    """Check that a gradient has its parameter's shape, layout and device, goes with its dtype, and can be read.

    Raises
    ------
    RuntimeError
        If it has not, or cannot.
    """
    dtype = grad.dtype if goes_with(grad.dtype, param.dtype) else param.dtype
    check_like(grad, param, label, "make them alike before the step", dtype)
    if is_plain(grad) and not has_its_memory(grad):
        raise RuntimeError(f"{label} has a storage that was freed or shrunk")
